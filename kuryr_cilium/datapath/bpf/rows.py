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

"""Rows of the policy maps, as values; pure.

A table is named as its map is. Keys and values here are tuples of plain
numbers and addresses in text; maps.py turns them into bytes.
"""

import functools
import ipaddress
import socket
from typing import Iterator, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities

ADDR = 'kc_addr'
CIDR = 'kc_cidr'
PEER = 'kc_rs_peer'
PORT = 'kc_rs_port'
GROUP = 'kc_rs_group'
ENDPOINT = 'kc_endpoint'
LOCAL = 'kc_local'

#: Rulesets with a fixed meaning; allocated numbers start at FIRST_RULESET.
RULESET_NONE = 0
RULESET_DENY = 1
RULESET_ALLOW = 2
FIRST_RULESET = 16


class AddrKey(NamedTuple):
    space: int
    address: str


class AddrRow(NamedTuple):
    class_: int
    entity: int


class CidrKey(NamedTuple):
    """A prefix longer than no bit and shorter than an address.

    :ivar network: canonical, '10.0.0.0/8'.
    """

    space: int
    network: str


class PeerKey(NamedTuple):
    ruleset: int
    class_: int
    page: int


class PortKey(NamedTuple):
    ruleset: int
    page: int
    port: compiler.PortKey


class BitsRow(NamedTuple):
    words: tuple[int, int, int, int]
    mask: int


class GroupKey(NamedTuple):
    ruleset: int
    bit: int


class GroupRow(NamedTuple):
    verdict: str
    next_tier: int
    l7set: int


class LocalKey(NamedTuple):
    space: int
    address: str


class LocalRow(NamedTuple):
    endpoint: int
    kc: int
    mac: str


class EndpointRow(NamedTuple):
    """A row of kc_endpoint; both directions flip by one write of it.

    :ivar kc: ifindex of the pod's host veth.
    :ivar kq: ifindex of the veth that leads into the switch.
    :ivar network: node-local number of the Neutron network.
    """

    space4: int
    space6: int
    ingress: int
    egress: int
    mac: str
    addresses: tuple[str, ...]
    kc: int
    kq: int
    network: int
    gateway_macs: tuple[str, ...] = ()
    fastpath: bool = False

    @property
    def judges(self):
        """Whether rulesets judge it, rather than everything is dropped."""
        return self.ingress != RULESET_NONE or self.egress != RULESET_NONE


class Write(NamedTuple):
    """One write; a value of None deletes the key."""

    table: str
    key: tuple | int
    value: Optional[tuple] = None


def family(address: str) -> int:
    """4 or 6, of an address or a network."""
    return 6 if ':' in address else 4


def canonical(address: str) -> Optional[str]:
    """The one text of an address, None if it is no address.

    Nothing can be sent from or to what is no address: it is left out, so
    that it does not keep the rest from being in force.
    """
    family_ = socket.AF_INET6 if ':' in address else socket.AF_INET
    try:
        # Most are canonical.
        if (socket.inet_ntop(family_, socket.inet_pton(family_, address))
                == address and not (':' in address and '.' in address)):
            return address
    except (OSError, ValueError):
        pass
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return None if getattr(parsed, 'scope_id', None) else str(parsed)


@functools.lru_cache(maxsize=16384)
def pages(bits: int) -> tuple[tuple[int, BitsRow], ...]:
    """The rows of some bits by page.

    The same few patterns of bits are cut again and again.
    """
    return tuple((page.page, BitsRow(page.words, page.mask))
                 for page in compiler.pages(bits))


def peer_rows(ruleset: int, class_: int, bits: int) -> Iterator[Write]:
    """The rows of one (ruleset, class)."""
    for page, row in pages(bits):
        yield Write(PEER, PeerKey(ruleset, class_, page), row)


def peers_rows(ruleset: int, peers: Mapping[int, int]) -> Iterator[Write]:
    """The rows of a ruleset and its classes.

    :param peers: class -> bits.
    """
    # NOTE: thousands at a time; it takes half as long as to call the classes.
    new = tuple.__new__
    for class_, bits in peers.items():
        for page, row in pages(bits):
            yield new(Write, (PEER, new(PeerKey, (ruleset, class_, page)),
                              row))


def ruleset_rows(number: int, table: compiler.Table) -> Iterator[Write]:
    """The rows of a ruleset that no peer class has a part in."""
    for group in table.groups:
        yield Write(GROUP, GroupKey(number, group.bit),
                    GroupRow(group.verdict.value, group.next_tier,
                             group.l7set))
    for port, bits in table.ports.items():
        for page, row in pages(bits):
            yield Write(PORT, PortKey(number, page, port), row)
    for entity in entities.Entity:
        yield from peer_rows(number, entity.value, table.base_bits(entity))


def delete(write: Write) -> Write:
    """The write that takes another one back."""
    return Write(write.table, write.key)
