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


"""From the selectors of a view to what peer classes are made of; pure."""

import collections.abc
import dataclasses
import itertools
import operator
from typing import Iterable, Mapping, Optional

from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import blocks
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model

#: What an address is of which selectors say different things: the node
#: itself, then another node, then the world, then a pod.
_RANK = {entities.Entity.POD: 0, entities.Entity.WORLD: 1,
         entities.Entity.REMOTE_NODE: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Peers:
    """What a selector of a view says.

    :ivar addresses: of its members.
    :ivar told: entity by address where it says more than that they are
        those of some pods: of members that are no pods, and of every member
        of a selector that names an entity.
    :ivar block: what it matches beside its members; None if nothing.
    :ivar count: how often its members have an address: more often than it
        has addresses if several have the same.
    """

    addresses: frozenset[str] = frozenset()
    told: Mapping[str, entities.Entity] = dataclasses.field(
        default_factory=dict)
    block: Optional[blocks.Parsed] = None
    count: int = dataclasses.field(default=0, compare=False)

    @property
    def outside(self) -> bool:
        """Whether only the world's addresses are meant."""
        return self.block is not None and self.block.outside


def needed(tables: Iterable[compiler.Table],
           outside: collections.abc.Set[str]) -> set[str]:
    """Ids of the selectors whose members some rulesets need.

    :param outside: ids of those that mean only the world's addresses.
    """
    named = set().union(*(table.needed for table in tables))
    if not named.isdisjoint(outside):
        named |= entities.needed((entities.WORLD,))
    return named


class Selectors:
    """The selectors of a view, and what they say.

    :ivar peers: by id.
    :ivar outside: ids of those that mean only the world's addresses.
    :ivar broken: ids of those that can't be brought in force.
    :ivar changes: id -> what it said in the view before, and the addresses
        of which it says something else now; of those of which this is known.
    """

    def __init__(self):
        self.peers: dict[str, Peers] = {}
        self.outside: set[str] = set()
        self.broken: set[str] = set()
        self.changes: dict[str, tuple[Peers, frozenset[str]]] = {}
        self._selectors: dict[str, model.Selector] = {}
        self._unreadable: set[str] = set()

    def take(self, selectors: Mapping[str, model.Selector],
             former: Mapping[str, Peers]) -> None:
        """Go over to the selectors of another view.

        :param former: by id, what the classes are made of. What an id
            stands for is fixed (see policy/classes.py): one that stands for
            another block now is broken until the former is forgotten.
        """
        before = self._selectors
        changed = {name for name, selector in selectors.items()
                   if before.get(name) is not selector}
        gone = before.keys() - selectors.keys()
        for name in gone:
            del self.peers[name]
        unreadable = self._unreadable
        self.outside -= gone | changed
        self._unreadable = unreadable - gone - changed
        self.changes = {}
        for name in changed:
            selector, found = selectors[name], None
            if name in before and name not in unreadable:
                peers = self.peers[name]
                found, touched = _reread(selector, before[name], peers)
                self.changes[name] = peers, touched
            if found is None:
                self.changes.pop(name, None)
                try:
                    found = read(selector)
                except ValueError:
                    self._unreadable.add(name)
                    found = Peers()
            self.peers[name] = found
            if found.outside:
                self.outside.add(name)
        self._selectors = dict(selectors)
        self.broken = self._unreadable | {
            name for name in (changed | self.broken) - gone
            if name in former and former[name].block != self.peers[name].block}


def read(selector: model.Selector) -> Peers:
    """Read a selector.

    What is no address is left out (nothing can be sent from it).

    :raises: ValueError if its block is none: rather nothing is in force
        than a rule that lacks peers.
    """
    addresses = set()
    told: dict[str, entities.Entity] = {}
    names_entity = entities.is_entity(selector.id)
    count = 0
    for member in selector.members:
        found = _addresses(member)
        count += len(found)
        addresses.update(found)
        if member.entity is entities.Entity.POD:
            if names_entity:
                for address in found:
                    told.setdefault(address, member.entity)
        else:
            for address in found:
                if _rank(told.get(address)) < _rank(member.entity):
                    told[address] = member.entity
    return Peers(frozenset(addresses), told,
                 blocks.parse(selector.block) if selector.block else None,
                 count)


def _addresses(member):
    return [address for address in map(rows.canonical, member.addresses)
            if address is not None]


def _reread(selector, before, peers):
    """What a selector says now, and of which addresses something else.

    Members that stay are the very objects that they were.

    :returns: None in place of what it says if it has to be read anew.
    """
    anew = None, frozenset()
    if selector.block != before.block or len(peers.addresses) != peers.count:
        return anew
    left, came = _different(before.members, selector.members)
    gone = [address for member in left for address in _addresses(member)]
    count = peers.count - len(gone)
    told = {**peers.told}
    for address in gone:
        told.pop(address, None)
    names_entity = entities.is_entity(selector.id)
    new = set()
    for member in came:
        found = _addresses(member)
        count += len(found)
        new.update(found)
        if names_entity or member.entity is not entities.Entity.POD:
            told.update(dict.fromkeys(found, member.entity))
    addresses = peers.addresses.difference(gone) | new
    if len(addresses) != count:
        # Several members have the same address.
        return anew
    return Peers(addresses, told, peers.block, count), new.union(gone)


def _different(before, now):
    """What only one of two sequences has: lists, of the first and second.

    Most have one long beginning, and one long end.
    """
    least = min(len(before), len(now))
    first = _alike(before, now, least)
    last = _alike(reversed(before), reversed(now), least - first)
    before = before[first:len(before) - last]
    now = now[first:len(now) - last]
    had, has = {*map(id, before)}, {*map(id, now)}
    return ([item for item in before if id(item) not in has],
            [item for item in now if id(item) not in had])


def _alike(one, other, most):
    """How many items that two sequences begin with are the same."""
    same = [*itertools.islice(map(operator.is_, one, other), most)]
    return same.index(False) if False in same else most


class Told:
    """The entities of addresses, as far as they are told."""

    def __init__(self):
        self._nodes: frozenset[str] = frozenset()
        self._told: dict[str, Mapping[str, entities.Entity]] = {}

    def update(self, changed: Mapping[str, Mapping[str, entities.Entity]],
               nodes: Iterable[str],
               places: Mapping[str, frozenset[str]] = {}
               ) -> dict[str, Optional[entities.Entity]]:
        """Take over what selectors tell, and the addresses of this node.

        :param changed: by selector id; what says nothing is forgotten.
        :param places: likewise, of which addresses it tells something else;
            of those of which this is known.
        :returns: what is different: entity by address, None if nothing is
            told any more.
        """
        nodes = frozenset(nodes)
        touched = set(nodes ^ self._nodes)
        for name, told in changed.items():
            if name in places:
                touched |= places[name]
                continue
            before = self._told.get(name, {})
            touched.update(told.keys() ^ before.keys())
            touched.update(address for address, entity in told.items()
                           if before.get(address, entity) is not entity)
        before = {address: self.of(address) for address in touched}
        self._nodes = nodes
        for name, told in changed.items():
            if told:
                self._told[name] = told
            else:
                self._told.pop(name, None)
        now = {address: self.of(address) for address in touched}
        return {address: entity for address, entity in now.items()
                if entity != before[address]}

    def of(self, address: str) -> Optional[entities.Entity]:
        """What stands behind an address; None if nothing is told."""
        if address in self._nodes:
            return entities.Entity.HOST
        return max((told[address] for told in self._told.values()
                    if address in told), key=_rank, default=None)


def _rank(entity):
    return -1 if entity is None else _RANK.get(entity, len(_RANK))
