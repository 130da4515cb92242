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

"""Peer classes: one local number for each distinct set of selectors.

What a peer is, to policy, is the set of selectors that its address matches
(and the entity behind it). Each such set is a class; a class's definition
may change while its number stays, so that a change writes as little as
possible.

A prefix of :mod:`blocks` stands for all addresses in it of which nothing
else is known: it has a class like an address. Whatever is said here of
addresses holds for prefixes.

:meth:`Classes.update` only decides; its :class:`Update` is carried out in
this order, and each packet is then judged either as before or as after:

1. write the rows of ``created`` classes, for every ruleset in force;
2. write the address ``moves``, delete the ``gone`` addresses;
3. write (or delete) the rows of ``redefined`` classes;
4. after the packets in flight, delete the rows of ``dropped`` classes.

Nothing ever moves into a class that is redefined in the same update: an
address would meet the class's old rows.

What block an id stands for never changes, so blocks only come with rulesets
that are not in force yet: to those that are, an address matches the same
before, while and after the prefixes of new blocks are written.

When rulesets are replaced, the old ones judge until the endpoints are
flipped. So update with the selectors of old and new rulesets, flip, and
then :meth:`Classes.forget` what only the old ones named.
"""

import collections
import collections.abc
import dataclasses
import functools
import itertools
from typing import Callable, Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import blocks as blocks_
from kuryr_cilium.policy import entities

#: At most so many addresses are moved at one time only to give two classes
#: of the same definition one number.
MERGE_LIMIT = 512


class Definition(NamedTuple):
    """What makes two peers the same to every ruleset.

    :ivar covering: ids of the selectors of which a block covers the peer.
        Apart, since many definitions share one such set.
    """

    entity: entities.Entity
    selectors: frozenset[str]
    covering: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Update:
    """What has to be written; see the module's text for the order.

    :ivar created: numbers of new classes.
    :ivar moves: address -> number of its class, new addresses too. The
        entity is that of the class's definition.
    :ivar gone: addresses that have no class any more.
    :ivar redefined: numbers of classes that have another definition now.
    :ivar dropped: numbers of classes without addresses.
    """

    created: tuple[int, ...] = ()
    moves: Mapping[str, int] = dataclasses.field(default_factory=dict)
    gone: tuple[str, ...] = ()
    redefined: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


class Index:
    """Numbers of classes by what their definitions name."""

    def __init__(self):
        self._selectors: dict[str, set[int]] = {}
        self._covering: dict[frozenset[str], set[int]] = {}

    def add(self, number: int, definition: Definition) -> None:
        for selector in definition.selectors:
            self._selectors.setdefault(selector, set()).add(number)
        if definition.covering:
            self._covering.setdefault(definition.covering, set()).add(number)

    def discard(self, number: int, definition: Definition) -> None:
        for selector in definition.selectors:
            _discard(self._selectors, selector, number)
        if definition.covering:
            _discard(self._covering, definition.covering, number)

    def naming(self, selectors: collections.abc.Set[str]) -> set[int]:
        """Numbers of the classes that some selectors match."""
        found = set().union(*(self._selectors.get(selector, ())
                              for selector in selectors))
        for covering, numbers in self._covering.items():
            if not selectors.isdisjoint(covering):
                found |= numbers
        return found


class Classes:
    """Which class each address has.

    :param allocate: returns a class number that was never used before, from
        :data:`entities.FIRST_CLASS` on.
    """

    def __init__(self, allocate: Callable[[], int]):
        self._allocate = allocate
        self._members: dict[str, frozenset[str]] = {}
        self._entities: dict[str, entities.Entity] = {}
        self._selectors: dict[str, frozenset[str]] = {}
        self._coverage = blocks_.Coverage()
        self._strangers: set[str] = set()
        self._number: dict[str, int] = {}
        self._addresses: dict[int, set[str]] = {}
        self._definition: dict[int, Definition] = {}
        self._numbers: dict[Definition, set[int]] = {}
        self._index = Index()
        # Definitions that have, or had, several numbers.
        self._doubled: set[Definition] = set()
        # Numbers that have, or had, no address left.
        self._emptied: set[int] = set()

    @property
    def numbers(self) -> Mapping[str, int]:
        """Address -> number of its class."""
        return self._number

    @property
    def definitions(self) -> Mapping[int, Definition]:
        """Number -> what the class stands for."""
        return self._definition

    def naming(self, selectors: collections.abc.Set[str]) -> set[int]:
        """Numbers of the classes that some selectors match."""
        return self._index.naming(selectors)

    def update(self, members: Mapping[str, Iterable[str]],
               peers: Optional[Mapping[str, Optional[entities.Entity]]] = None,
               blocks: Optional[Mapping[
                   str, Optional[blocks_.Parsed]]] = None) -> Update:
        """Take over what selectors match now.

        :param members: for each selector that is new or has changed, its id
            and all the addresses that it matches; none: it is forgotten.
            Selectors that are not named stay as they are.
        :param peers: entity of an address, for those that are no pods of a
            selector (nodes, or pods where the view holds every pod). An
            address named here has a class though no selector matches it;
            None takes that back; what some selector matches nevertheless
            is taken for the world's until :meth:`forget`, since it may be
            a former ruleset's selector that has not heard of it.
        :param blocks: by the id of the selector that matches every address
            in it, whoever has it; None takes a block away.
        """
        peers = peers or {}
        self._strangers = {address for address, entity in peers.items()
                           if entity is None}
        return self._update(self._strangers | self._take(
            members, peers, blocks or {}))

    def forget(self, selectors: Iterable[str],
               peers: Optional[Mapping[str, Optional[entities.Entity]]] = None
               ) -> Update:
        """Drop selectors that no ruleset names any more.

        Classes keep their numbers, with smaller definitions. Those of one
        definition that an earlier change left become one.
        """
        selectors = tuple(selectors)
        strangers, self._strangers = self._strangers, set()
        return self._update(strangers | self._take(
            dict.fromkeys(selectors, ()), peers or {},
            dict.fromkeys(selectors)), merge=True)

    def _update(self, touched, merge=False):
        wanted = {address: self._wanted(address) for address in touched}
        gone = tuple(sorted(address for address, definition in wanted.items()
                            if definition is None
                            and address in self._number))
        for address in gone:
            self._remove(address)
        wanted = {address: definition
                  for address, definition in wanted.items()
                  if definition is not None}
        redefined = self._redefine(wanted)
        created: list[int] = []
        moves: dict[str, int] = {}
        for address in sorted(wanted):
            definition = wanted[address]
            if self._of(address) == definition:
                continue
            number = self._target(definition, redefined, created)
            self._remove(address)
            self._put(address, number)
            moves[address] = number
        if merge:
            self._merge(redefined, moves)
        empty = sorted(number for number in self._emptied
                       if not self._addresses[number])
        self._emptied.clear()
        for number in empty:
            self._drop(number)
        return Update(tuple(n for n in created if n in self._definition),
                      moves, gone,
                      tuple(n for n in redefined if n in self._definition),
                      tuple(n for n in empty if n not in created))

    def _take(self, members, peers, blocks):
        changed = set()
        for address, entity in peers.items():
            if self._entities.get(address) != entity:
                changed.add(address)
                if entity is None:
                    del self._entities[address]
                else:
                    self._entities[address] = entity
                self._learn(address)
        gained = collections.defaultdict(set)
        lost = collections.defaultdict(set)
        for selector, addresses in members.items():
            now = frozenset(addresses)
            before = self._members.get(selector, frozenset())
            for address in now - before:
                gained[address].add(selector)
            for address in before - now:
                lost[address].add(selector)
            if now:
                self._members[selector] = now
            else:
                self._members.pop(selector, None)
        # Equal sets are one object: a cluster has few distinct ones.
        intern = functools.cache(
            lambda old, plus, minus: (old | plus) - minus)
        for address in gained.keys() | lost.keys():
            changed.add(address)
            now = intern(self._selectors.get(address, frozenset()),
                         frozenset(gained.get(address, ())),
                         frozenset(lost.get(address, ())))
            if now:
                self._selectors[address] = now
            else:
                del self._selectors[address]
            self._learn(address)
        return changed | self._coverage.update(blocks)

    def _learn(self, address):
        if address in self._selectors or address in self._entities:
            self._coverage.learn(address)
        else:
            self._coverage.unlearn(address)

    def _wanted(self, address):
        selectors = self._selectors.get(address)
        entity = self._entities.get(address)
        if (selectors is None and entity is None
                and address not in self._coverage):
            return None
        if entity is None:
            # What is in no selector is the end of a block.
            entity = (entities.Entity.WORLD
                      if selectors is None or address in self._strangers
                      else entities.Entity.POD)
        return Definition(entity, selectors or frozenset(),
                          self._coverage.of(
                              address, entity is entities.Entity.WORLD))

    def _of(self, address):
        number = self._number.get(address)
        return self._definition[number] if number else None

    def _redefine(self, wanted):
        """Let the largest part of each class keep its number."""
        parts = collections.defaultdict(collections.Counter)
        for address, definition in wanted.items():
            number = self._number.get(address)
            if number and self._definition[number] != definition:
                parts[number][definition] += 1
        redefined = []
        for number, counts in sorted(parts.items()):
            # The entity is written with each address, so it can't change
            # for all of them at once.
            definition, count = max(
                counts.items(),
                key=lambda item: (item[0].entity ==
                                  self._definition[number].entity,
                                  item[1], sorted(item[0].selectors),
                                  sorted(item[0].covering)))
            if definition.entity != self._definition[number].entity:
                continue
            stay = len(self._addresses[number]) - sum(counts.values())
            if count <= stay:
                continue
            old = self._definition[number]
            for address in self._addresses[number]:
                # What stays as it was must move away now.
                wanted.setdefault(address, old)
            self._set_definition(number, definition)
            redefined.append(number)
        return redefined

    def _target(self, definition, redefined, created):
        numbers = [number for number in self._numbers.get(definition, ())
                   if number not in redefined]
        if numbers:
            return min(numbers)
        number = self._allocate()
        self._addresses[number] = set()
        self._set_definition(number, definition)
        created.append(number)
        return number

    def _merge(self, redefined, moves):
        budget = MERGE_LIMIT
        self._doubled = {definition for definition in self._doubled
                         if len(self._numbers.get(definition, ())) > 1}
        for definition in self._doubled:
            stable = self._numbers[definition].difference(redefined)
            if len(stable) < 2:
                continue
            into = max(stable, key=lambda n: (len(self._addresses[n]), -n))
            for number in sorted(stable - {into}):
                if len(self._addresses[number]) > budget:
                    continue
                budget -= len(self._addresses[number])
                for address in list(self._addresses[number]):
                    self._remove(address)
                    self._put(address, into)
                    moves[address] = into

    def _set_definition(self, number, definition):
        old = self._definition.get(number)
        if old is not None:
            self._unlist(number, old)
        self._definition[number] = definition
        self._index.add(number, definition)
        numbers = self._numbers.setdefault(definition, set())
        numbers.add(number)
        if len(numbers) > 1:
            self._doubled.add(definition)

    def _unlist(self, number, definition):
        _discard(self._numbers, definition, number)
        self._index.discard(number, definition)

    def _put(self, address, number):
        self._number[address] = number
        self._addresses[number].add(address)

    def _remove(self, address):
        number = self._number.pop(address, None)
        if number is not None:
            self._addresses[number].discard(address)
            if not self._addresses[number]:
                self._emptied.add(number)

    def _drop(self, number):
        self._unlist(number, self._definition.pop(number))
        del self._addresses[number]


def _discard(numbers, key, number):
    numbers[key].discard(number)
    if not numbers[key]:
        del numbers[key]


def counter(first: int = entities.FIRST_CLASS) -> Callable[[], int]:
    """An allocator of numbers that keeps nothing; for tests and traces."""
    return functools.partial(next, itertools.count(first))
