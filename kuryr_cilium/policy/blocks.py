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


"""Which blocks of addresses an address lies in.

Every end of a block, or of a part that it excepts, is a prefix. Addresses
that have the same longest prefix of all these lie in the same blocks: so a
table of longest prefixes says of every address in which blocks it lies, and
has no more entries than there are blocks and excepted parts. (A prefix may
lie in no block: that of an excepted part.)

A prefix is named as network ('10.0.0.0/8'), one of a single address as this
address.
"""

import bisect
import collections
import ipaddress
import socket
from typing import Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import model

_NONE: frozenset[str] = frozenset()


class Prefix(NamedTuple):
    """A prefix of addresses, as numbers; they sort from outside to inside.

    :ivar version: of IP.
    :ivar name: see the module's text.
    """

    version: int
    first: int
    length: int
    last: int
    name: str

    @property
    def single(self) -> bool:
        return self.first == self.last

    def covers(self, other: 'Prefix') -> bool:
        """Whether all of another prefix lies in this one."""
        return (self.version == other.version and self.first <= other.first
                and other.last <= self.last)


class Parsed(NamedTuple):
    """A block as prefixes.

    :ivar excepts: those that lie in the block, and not in each other.
    :ivar outside: only the world's addresses are meant.
    """

    cidr: Prefix
    excepts: tuple[Prefix, ...]
    outside: bool = False


def parse(block: model.Block) -> Optional[Parsed]:
    """A block as prefixes; None if all of it is excepted.

    :raises: ValueError
    """
    cidr = prefix(block.cidr)
    inside: list[Prefix] = []
    for part in sorted(map(prefix, block.excepts)):
        if part.covers(cidr):
            return None
        if cidr.covers(part) and not (inside and inside[-1].covers(part)):
            inside.append(part)
    return Parsed(cidr, tuple(inside), block.outside)


def prefix(network: str) -> Prefix:
    """A prefix from its text.

    :raises: ValueError if it is no canonical network.
    """
    parsed = ipaddress.ip_network(network)
    first = int(parsed.network_address)
    last = int(parsed.broadcast_address)
    return Prefix(parsed.version, first, parsed.prefixlen, last,
                  str(parsed.network_address) if first == last
                  else str(parsed))


class Size(NamedTuple):
    """What some blocks cost.

    :ivar prefixes: without those of a single address, which are addresses.
    :ivar entries: how many blocks all prefixes lie in, taken together.
    """

    prefixes: int
    addresses: int
    entries: int


def size(blocks: Iterable[Parsed]) -> Size:
    """Count, without making what is counted."""
    depth: collections.Counter[Prefix] = collections.Counter()
    for block in blocks:
        depth[block.cidr] += 1
        for part in block.excepts:
            depth[part] -= 1
    single = entries = 0
    stack: list[tuple[Prefix, int]] = []
    for found in sorted(depth):
        while stack and not stack[-1][0].covers(found):
            stack.pop()
        covering = depth[found] + (stack[-1][1] if stack else 0)
        stack.append((found, covering))
        single += found.single
        entries += covering
    return Size(len(depth) - single, single, entries)


class _Spans:
    """Addresses of one family in a row, cut where blocks begin or end."""

    def __init__(self):
        self.starts = [0]
        self.sets = [_NONE]

    def cut(self, start, found):
        if self.starts[-1] == start:
            self.sets[-1] = found
        else:
            self.starts.append(start)
            self.sets.append(found)

    def at(self, number):
        return self.sets[bisect.bisect_right(self.starts, number) - 1]

    def differences(self, other):
        """The parts (first, after the last) where another one differs."""
        points = sorted({*self.starts, *other.starts})
        for first, end in zip(points, [*points[1:], 1 << 128]):
            if self.at(first) != other.at(first):
                yield first, end


class _Addresses:
    """Addresses, put in their order when it is asked for."""

    def __init__(self):
        self._names: dict[int, dict[int, str]] = {4: {}, 6: {}}
        self._order: dict[int, list[int]] = {4: [], 6: []}
        self._came: set[str] = set()
        self._went: set[str] = set()

    def add(self, name):
        self._went.discard(name)
        self._came.add(name)

    def remove(self, name):
        self._came.discard(name)
        self._went.add(name)

    def between(self, version, first, end):
        self._sort()
        order = self._order[version]
        for place in range(bisect.bisect_left(order, first),
                           bisect.bisect_left(order, end)):
            yield self._names[version][order[place]]

    def _sort(self):
        if not self._came and not self._went:
            return
        for name in self._went:
            version, number = _number(name)
            self._names[version].pop(number, None)
        for name in self._came:
            version, number = _number(name)
            self._names[version][number] = name
        self._came.clear()
        self._went.clear()
        self._order = {version: sorted(names)
                       for version, names in self._names.items()}


class Coverage:
    """The blocks of a view, and which of them cover what.

    It knows addresses (:meth:`learn`) to tell which of them a change of
    blocks concerns.
    """

    def __init__(self):
        self._blocks: dict[str, Parsed] = {}
        self._prefixes: dict[str, frozenset[str]] = {}
        self._spans = {4: _Spans(), 6: _Spans()}
        self._known = _Addresses()
        # Of sets of blocks, what is left of them within the cluster.
        self._outside: frozenset[str] = _NONE
        self._within: dict[frozenset[str], frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether something begins or ends at a prefix."""
        return name in self._prefixes

    def of(self, name: str, world: bool = True) -> frozenset[str]:
        """Ids of the blocks that cover a prefix or an address.

        :param world: whether it is the world's; what is not is in no block
            that means only what is outside of the cluster.
        """
        found = self._prefixes.get(name)
        if found is None:
            if not self._blocks:
                return _NONE
            version, number = _number(name)
            found = self._spans[version].at(number)
        if world or not self._outside:
            return found
        within = self._within.get(found)
        if within is None:
            within = self._within[found] = found - self._outside
        return within

    def learn(self, address: str) -> None:
        self._known.add(address)

    def unlearn(self, address: str) -> None:
        self._known.remove(address)

    def update(self, blocks: Mapping[str, Optional[Parsed]]) -> set[str]:
        """Take blocks over by their ids; None takes one away.

        :returns: the prefixes and known addresses that other blocks cover
            now than before, new prefixes, and those that are none any more.
        """
        if not blocks:
            return set()
        for name, block in blocks.items():
            if block is None:
                self._blocks.pop(name, None)
            else:
                self._blocks[name] = block
        prefixes, spans = self._prefixes, self._spans
        self._build()
        touched = {name for name in prefixes.keys() | self._prefixes.keys()
                   if prefixes.get(name) != self._prefixes.get(name)}
        for version in self._spans:
            for part in spans[version].differences(self._spans[version]):
                touched.update(self._known.between(version, *part))
        return touched

    def _build(self):
        begins = collections.defaultdict(list)
        ends = collections.defaultdict(list)
        for name, block in self._blocks.items():
            begins[block.cidr].append(name)
            for part in block.excepts:
                ends[part].append(name)
        self._outside = frozenset(name for name, block
                                  in self._blocks.items() if block.outside)
        self._within = {}
        self._prefixes = {}
        self._spans = {4: _Spans(), 6: _Spans()}
        # Equal sets are one object.
        equal: dict[frozenset[str], frozenset[str]] = {}
        stack: list[tuple[Prefix, frozenset[str], frozenset[str]]] = []

        def leave():
            left, _, around = stack.pop()
            self._spans[left.version].cut(left.last + 1, around)

        for found in sorted(begins.keys() | ends.keys()):
            while stack and not stack[-1][0].covers(found):
                leave()
            around = stack[-1][1] if stack else _NONE
            inside = (around | frozenset(begins.get(found, ()))) - frozenset(
                ends.get(found, ()))
            inside = equal.setdefault(inside, inside)
            self._prefixes[found.name] = inside
            self._spans[found.version].cut(found.first, inside)
            stack.append((found, inside, around))
        while stack:
            leave()


def _number(address):
    """IP version and number of a canonical address."""
    if ':' in address:
        return 6, int.from_bytes(socket.inet_pton(socket.AF_INET6, address))
    return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, address))
