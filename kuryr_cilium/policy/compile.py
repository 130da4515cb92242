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

"""From a ruleset to the tables that judge a packet.

Each rule group has one bit: bit 0 is the group that is asked first. Two
lookups and an AND judge a packet: the bits of the groups whose peers include
the packet's peer, and the bits of the groups whose ports include its
protocol and destination port. The lowest common bit decides; none means
drop.

The tables are plain dictionaries of Python integers (one integer holds all
bits). :func:`pages` cuts such an integer into the rows that are written to
maps.
"""

import dataclasses
import functools
from typing import Collection, Iterator, Mapping, NamedTuple, Optional

from kuryr_cilium import exceptions
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model

PAGE_BITS = 256
WORD_BITS = 64
MAX_PAGES = 16

#: Limits of one ruleset. Past one its endpoints deny everything.
MAX_GROUPS = PAGE_BITS * MAX_PAGES
MAX_PORT_PREFIXES = 8192
MAX_PEER_ROWS = 65536

PORT_BITS = 16


class PortKey(NamedTuple):
    """A prefix of (protocol, destination port).

    :ivar protocol: IANA number; None matches every protocol (then port and
        length are 0).
    :ivar port: the port, its low ``16 - length`` bits are 0.
    :ivar length: how many leading bits of the port are compared, 0 to 16.
    """

    protocol: Optional[int]
    port: int
    length: int


ANY_PORT = PortKey(None, 0, 0)


class Page(NamedTuple):
    """256 bits of a row.

    :ivar page: 0 to 15.
    :ivar words: bit ``n`` of the page is bit ``n % 64`` of word ``n // 64``.
    :ivar mask: bit ``p`` is set if page ``p`` of the row is not empty; the
        same in each page of a row.
    """

    page: int
    words: tuple[int, int, int, int]
    mask: int


class Group(NamedTuple):
    """What the datapath keeps of a rule group.

    :ivar bit: its place in the order of precedence.
    :ivar next_tier: first bit of the next tier, where PASS goes on; the
        number of groups if there is none.
    """

    bit: int
    verdict: model.Verdict
    next_tier: int
    l7set: int


@dataclasses.dataclass(frozen=True)
class Table:
    """A compiled ruleset.

    :ivar groups: in order of bits.
    :ivar ports: bits by port prefix, closed: the longest prefix that
        matches a packet has the bits of all that match it. No prefix
        matches: no bits.
    :ivar any_peer: bits of the groups that match every peer.
    :ivar selectors: bits of the groups that name a selector, by its id.
    """

    id: str
    groups: tuple[Group, ...]
    ports: Mapping[PortKey, int]
    any_peer: int
    selectors: Mapping[str, int]

    @functools.cached_property
    def needed(self) -> frozenset[str]:
        """The selectors whose members have to be known."""
        return frozenset(entities.needed(self.selectors))

    @functools.cached_property
    def port_rows(self) -> int:
        """How many rows its ports are cut into."""
        return sum(len(pages(bits)) for bits in self.ports.values())

    def base_bits(self, entity: entities.Entity) -> int:
        """The row of an entity's reserved class (1 to 4)."""
        return self.any_peer | self.named(entities.SELECTORS[entity])

    def peer_bits(self, selectors: Collection[str],
                  entity: entities.Entity) -> int:
        """The row of a class: the peers that match exactly these selectors.

        It has all bits of :meth:`base_bits` of its entity, and needs to be
        written only if :meth:`needs_row` says so.
        """
        return self.base_bits(entity) | self.named(selectors)

    def needs_row(self, selectors: Collection[str],
                  entity: entities.Entity) -> bool:
        """True if the row of this class differs from its entity's row."""
        return self.peer_bits(selectors, entity) != self.base_bits(entity)

    def named(self, selectors: Collection[str]) -> int:
        """Bits of the groups that name one of some selectors."""
        bits = 0
        if len(selectors) > len(self.selectors):
            for selector, named in self.selectors.items():
                if selector in selectors:
                    bits |= named
            return bits
        for selector in selectors:
            bits |= self.selectors.get(selector, 0)
        return bits


def compile_ruleset(ruleset: model.RuleSet) -> Table:
    """Compile one ruleset.

    :raises: exceptions.RuleSetTooLarge if it has more groups or port
        prefixes than a ruleset may have; nothing is truncated.
    """
    _check(ruleset, 'rule groups', len(ruleset.groups), MAX_GROUPS)
    any_peer = 0
    selectors: dict[str, int] = {}
    for bit, group in enumerate(ruleset.groups):
        if group.peers is None:
            any_peer |= 1 << bit
            continue
        for selector in group.peers:
            selectors[selector] = selectors.get(selector, 0) | 1 << bit
    return Table(ruleset.id, tuple(_groups(ruleset)), port_bits(ruleset),
                 any_peer, selectors)


def port_bits(ruleset: model.RuleSet) -> dict[PortKey, int]:
    """Bits by port prefix, closed (see :class:`Table`).

    A prefix that would have the same bits as the next shorter one is left
    out: the shorter one answers for it.

    :raises: exceptions.RuleSetTooLarge
    """
    own: dict[PortKey, int] = {}
    for bit, group in enumerate(ruleset.groups):
        for key in _keys(group.ports):
            own[key] = own.get(key, 0) | 1 << bit
    closed = {}
    # The prefixes that cover the present one, shortest first.
    covering: list[tuple[PortKey, int]] = []
    for key in sorted(own, key=_port_order):
        while covering and not _covers(covering[-1][0], key):
            covering.pop()
        inherited = covering[-1][1] if covering else 0
        bits = own[key] | inherited
        covering.append((key, bits))
        if bits != inherited:
            closed[key] = bits
    _check(ruleset, 'port prefixes', len(closed), MAX_PORT_PREFIXES)
    return closed


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The least prefixes that make up a range of ports: (port, length).

    At most 30 for any range.
    """
    while first <= last:
        free = PORT_BITS if first == 0 else (first & -first).bit_length() - 1
        while first + (1 << free) - 1 > last:
            free -= 1
        yield first, PORT_BITS - free
        first += 1 << free


def pages(bits: int) -> tuple[Page, ...]:
    """The rows of maps that hold these bits.

    Page 0 is always there, because its mask tells which others are.
    """
    cut = []
    rest, number = bits, 0
    while rest:
        page = rest & (1 << PAGE_BITS) - 1
        if page or not number:
            cut.append((number, page))
        rest >>= PAGE_BITS
        number += 1
    cut = cut or [(0, 0)]
    mask = 0
    for number, page in cut:
        if page:
            mask |= 1 << number
    word = (1 << WORD_BITS) - 1
    return tuple(
        Page(number, tuple(page >> shift & word
                           for shift in range(0, PAGE_BITS, WORD_BITS)), mask)
        for number, page in cut)


def judge(table: Table, selectors: Collection[str], entity: entities.Entity,
          protocol: int, port: int) -> Optional[Group]:
    """Read a compiled ruleset as the datapath does.

    :param selectors: ids of the selectors that the peer matches.
    :param port: destination port; ``type << 8 | code`` for ICMP and ICMPv6;
        None if the protocol has no ports.
    :returns: the group that decides (its verdict is ALLOW or DENY), or None
        if none does: the packet is dropped.
    """
    bits = (table.peer_bits(selectors, entity)
            & _longest_match(table.ports, protocol, port))
    while bits:
        group = table.groups[(bits & -bits).bit_length() - 1]
        if group.verdict is not model.Verdict.PASS:
            return group
        bits = bits >> group.next_tier << group.next_tier
    return None


def _longest_match(ports, protocol, port):
    lengths = range(PORT_BITS, -1, -1) if port is not None else (0,)
    for length in lengths:
        free = PORT_BITS - length
        key = PortKey(protocol, (port or 0) >> free << free, length)
        if key in ports:
            return ports[key]
    return ports.get(ANY_PORT, 0)


def _groups(ruleset):
    following = len(ruleset.groups)
    tier = None
    result = []
    for bit in range(len(ruleset.groups) - 1, -1, -1):
        group = ruleset.groups[bit]
        if tier is not None and group.tier != tier:
            following = bit + 1
        tier = group.tier
        result.append(Group(bit, group.verdict, following, group.l7set))
    return reversed(result)


def _keys(ports):
    if ports is None:
        yield ANY_PORT
        return
    for item in ports:
        if not item.protocol:
            yield ANY_PORT
            continue
        for port, length in port_prefixes(item.first, item.last):
            yield PortKey(item.protocol, port, length)


def _port_order(key):
    # Before what it covers comes what covers.
    return (-1 if key.protocol is None else key.protocol, key.port,
            key.length)


def _covers(shorter, longer):
    if shorter.protocol is None:
        return True
    free = PORT_BITS - shorter.length
    return (shorter.protocol == longer.protocol
            and shorter.length <= longer.length
            and shorter.port >> free == longer.port >> free)


def _check(ruleset, what, count, limit):
    if count > limit:
        raise exceptions.RuleSetTooLarge(ruleset=ruleset.id, what=what,
                                         count=count, limit=limit)
