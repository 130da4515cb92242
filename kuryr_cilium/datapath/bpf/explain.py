#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What the loaded entries say of a packet: kc_policy.h in Python; pure.

Nothing here knows what was meant to be loaded: it reads rows, as the programs
do, through the few look-ups that they make.
"""

import dataclasses
import ipaddress
from typing import Iterable, Optional, Protocol

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model

#: Protocols of which policy may ask the port (kc_has_port).
_UDPLITE = 136
PORTS = frozenset((*model.PROTOCOLS.values(), _UDPLITE, model.ICMP,
                   model.ICMPV6))

_STEPS = compiler.MAX_PAGES + len(model.Tier)
_PAGES = (1 << compiler.MAX_PAGES) - 1


class Reader(Protocol):
    """Looks up in the maps; None where there is nothing."""

    def address(self, space: int, address: str) -> Optional[layout.Peer]:
        """kc_addr."""

    def longest(self, space: int, address: str) -> Optional[layout.Peer]:
        """kc_cidr, by the longest prefix of an address."""

    def prefixes(self, space: int) -> Iterable[str]:
        """Every prefix of kc_cidr."""

    def peers(self, ruleset: int, class_: int,
              page: int) -> Optional[layout.Bits]:
        """kc_rs_peer."""

    def ports(self, ruleset: int, page: int, protocol: int,
              port: Optional[int]) -> Optional[layout.Bits]:
        """kc_rs_port; without a port whatever asks for none."""

    def group(self, ruleset: int, bit: int) -> Optional[layout.RsGroup]:
        """kc_rs_group."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """How a packet is judged, and by which entries.

    :ivar class_: number of the peer's class.
    :ivar prefix: of kc_cidr that the peer's class was found by; '' if it
        was found by its address, or not at all (then it is the world's).
    :ivar ruleset: number; of 0 to 15 see rows.py.
    :ivar bit: of the group that decided, None if none did.
    """

    class_: int
    entity: entities.Entity
    prefix: str
    ruleset: int
    bit: Optional[int]
    reason: layout.Reason

    @property
    def verdict(self) -> str:
        """'allow', 'deny' if something says so, 'drop' if nothing allows."""
        if self.reason is layout.Reason.ALLOWED:
            return 'allow'
        if self.reason is layout.Reason.POLICY_DENY:
            return 'deny'
        return 'drop'


def judge(reader: Reader, endpoint: Optional[layout.Endpoint],
          direction: model.Direction, peer: str, protocol: int,
          port: Optional[int] = None) -> Judgement:
    """Judge the first packet of a connection.

    :param endpoint: its row of kc_endpoint, None if there is none.
    :param peer: canonical address.
    :param port: destination port; ``type << 8 | code`` of ICMP; needed
        where the protocol has one (:data:`PORTS`), ignored elsewhere.
    """
    if endpoint is None:
        return Judgement(entities.Entity.WORLD, entities.Entity.WORLD, '',
                         rows.RULESET_NONE, None, layout.Reason.NO_ENDPOINT)
    space = (endpoint.space4 if rows.family(peer) == 4
             else endpoint.space6)
    found, prefix = _peer(reader, space, peer)
    ruleset = (endpoint.in_ruleset
               if direction is model.Direction.INGRESS
               else endpoint.out_ruleset)
    bit, reason = _decide(reader, ruleset, found, protocol,
                          port if protocol in PORTS else None)
    return Judgement(found.class_, entities.Entity(found.entity), prefix,
                     ruleset, bit, reason)


def _peer(reader, space, address):
    found = reader.address(space, address)
    if found is not None:
        return found, ''
    found = reader.longest(space, address)
    if found is None:
        world = entities.Entity.WORLD
        return layout.Peer(world, world), ''
    parsed = ipaddress.ip_address(address)
    covering = [network for network in reader.prefixes(space)
                if parsed in ipaddress.ip_network(network)]
    return found, max(covering, default='', key=lambda network:
                      ipaddress.ip_network(network).prefixlen)


def _decide(reader, ruleset, peer, protocol, port):
    """The deciding bit, and the reason."""
    fixed = {rows.RULESET_NONE: layout.Reason.NOT_READY,
             rows.RULESET_DENY: layout.Reason.POLICY_DENY,
             rows.RULESET_ALLOW: layout.Reason.ALLOWED}
    if ruleset in fixed:
        return None, fixed[ruleset]
    class_, page, start = peer.class_, 0, 0
    peers = reader.peers(ruleset, class_, 0)
    if peers is None:
        class_ = peer.entity
        peers = reader.peers(ruleset, class_, 0)
    for _ in range(_STEPS):
        if peers is None:
            return None, layout.Reason.TABLES
        ports = reader.ports(ruleset, page, protocol, port)
        if ports is None:
            return None, (layout.Reason.TABLES if page
                          else layout.Reason.POLICY)
        bit = _common(peers, ports, page, start)
        if bit is not None:
            group = reader.group(ruleset, bit)
            if group is None:
                return None, layout.Reason.TABLES
            if group.verdict == layout.Verdict.ALLOW:
                return bit, layout.Reason.ALLOWED
            if group.verdict != layout.Verdict.PASS:
                return bit, layout.Reason.POLICY_DENY
            start = group.next_tier
            if start <= bit:
                return None, layout.Reason.TABLES
        else:
            left = peers.pages & ports.pages & _PAGES << page + 1 & _PAGES
            if not left:
                return None, layout.Reason.POLICY
            page = _lowest(left)
        peers = reader.peers(ruleset, class_, page)
    return None, layout.Reason.POLICY


def _common(peers, ports, page, start):
    """The lowest common bit at or above start."""
    bits = 0
    for place, (one, two) in enumerate(zip(peers.words, ports.words)):
        bits |= (one & two) << compiler.WORD_BITS * place
    first = page * compiler.PAGE_BITS
    bits &= -1 << max(start - first, 0)
    return first + _lowest(bits) if bits else None


def _lowest(bits):
    return (bits & -bits).bit_length() - 1
