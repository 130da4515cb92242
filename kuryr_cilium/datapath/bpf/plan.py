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

"""What is written, and in which order, for a view to come into force; pure.

A :class:`Planner` knows what one generation of the maps holds and plans the
way from there to a view, as steps:

- DENY: endpoints whose ruleset does not fit any more drop everything;
- RULESETS: groups, ports and peer rows of rulesets that nobody uses yet;
- CLASSES: rows of rulesets in force for peer classes without addresses yet;
- ADDRESSES: addresses move to their class, or go;
- REDEFINED: rows of classes whose remaining addresses all changed alike;
- FLIPS: endpoints change their rulesets, both directions in one value;
- EPOCH: what connections were judged by is void;
- MERGE: classes that only a former ruleset told apart become one;
- DELETE: what nobody can reach any more.

A GRACE step waits for the packets in flight: they may have read an address
before a step and read the row of its class after it. So between two GRACE
steps no row that such a packet may be led to changes its meaning, and each
packet is judged by one membership of the selectors and one ruleset, either
the former or the new one.

Nothing is ever written to a key whose meaning for a ruleset in force spans
several rows: the ruleset gets a new number instead (see _spans_keys).

The planner takes it that its steps are carried out. If one fails, what the
maps hold is unknown: a new planner begins a new generation beside it (new
numbers throughout), and purging what is not its own ends the old one.
"""

import dataclasses
import enum
from typing import Callable, Iterable, Mapping, Optional

from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import limits as limits_
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import classes
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model


class Phase(enum.Enum):
    """What a step is for."""

    DENY = 'deny'
    RULESETS = 'rulesets'
    CLASSES = 'classes'
    ADDRESSES = 'addresses'
    REDEFINED = 'redefined'
    FLIPS = 'flips'
    EPOCH = 'epoch'
    MERGE = 'merge'
    GRACE = 'grace'
    DELETE = 'delete'


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Writes that may be done in any order; EPOCH and GRACE have none."""

    phase: Phase
    writes: tuple[rows.Write, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The way to a view.

    :ivar denied: pod UID -> why its endpoint denies everything.
    """

    steps: tuple[Step, ...]
    denied: Mapping[str, str]


@dataclasses.dataclass(slots=True)
class Live:
    """A ruleset in the maps.

    :ivar peers: class -> bits, where a row is needed.
    :ivar count: rows in kc_rs_peer.
    """

    number: int
    table: compiler.Table
    peers: dict[int, int] = dataclasses.field(default_factory=dict)
    count: int = 0

    def __post_init__(self):
        self.count = sum(len(rows.pages(bits)) for bits in (
            *self.peers.values(),
            *(self.table.base_bits(entity) for entity in entities.Entity)))

    def writes(self) -> Iterable[rows.Write]:
        yield from rows.ruleset_rows(self.number, self.table)
        for class_, bits in self.peers.items():
            yield from rows.peer_rows(self.number, class_, bits)

    def set_peer(self, class_: int, bits: Optional[int]) -> None:
        """Note the row of a class; None: it has none (any more)."""
        before = self.peers.pop(class_, None)
        if before is not None:
            self.count -= len(rows.pages(before))
        if bits is not None:
            self.peers[class_] = bits
            self.count += len(rows.pages(bits))


class Planner:
    """What one generation of the maps holds.

    :param allocate: kind ('space', 'class', 'ruleset') -> a number that was
        never used before.
    """

    def __init__(self, allocate: Callable[[str], int],
                 limits: limits_.Limits = limits_.Limits()):
        self._allocate = allocate
        self._limits = limits
        self.spaces = {4: allocate('space'), 6: allocate('space')}
        self._classes = classes.Classes(lambda: allocate('class'))
        self._view: Optional[model.View] = None
        self._selectors: dict[str, tuple[model.Selector,
                                         frozenset[str]]] = {}
        self._nodes: frozenset[str] = frozenset()
        self._live: dict[str, Live] = {}
        self._addresses: dict[rows.AddrKey, rows.AddrRow] = {}
        self._endpoints = endpoints.Endpoints(self.spaces)
        self._judges = endpoints.Judges()
        self._unsettled = False

    @property
    def view(self) -> Optional[model.View]:
        """The view of the last plan."""
        return self._view

    @property
    def live(self) -> Mapping[str, int]:
        """Ruleset id -> number, of the rulesets in force."""
        return {name: live.number for name, live in self._live.items()}

    def owner(self) -> Callable[[str, tuple | int], bool]:
        """A function that tells whether a key is of this generation."""
        spaces = frozenset(self.spaces.values())
        numbers = frozenset(live.number for live in self._live.values())

        def owns(table, key):
            if table in (rows.ADDR, rows.LOCAL):
                return key.space in spaces
            if table == rows.ENDPOINT:
                return key in self._endpoints
            return key.ruleset in numbers

        return owns

    def tables(self) -> dict[tuple, tuple]:
        """Everything that this generation holds: (table, key) -> value."""
        found = {(rows.ADDR, key): row
                 for key, row in self._addresses.items()}
        for live in self._live.values():
            for write in live.writes():
                found[write.table, write.key] = write.value
        found.update(self._endpoints.tables())
        return found

    def settle(self, locals_: Mapping[int, endpoints.Local]) -> Plan:
        """Bring endpoints in line with the last view, and nothing else.

        Before the first view only what drops everything is written: what
        an earlier process made active stays as it is.
        """
        writes, _ = self._endpoints.flip(locals_, self._judges)
        return Plan(_steps((Phase.FLIPS, writes)), self._denied(locals_))

    def plan(self, view: model.View,
             locals_: Mapping[int, endpoints.Local],
             nodes: Iterable[str]) -> Plan:
        """Plan the way to a view.

        :param locals_: by endpoint number.
        :param nodes: addresses of this node.
        """
        first = self._view is None
        nodes = frozenset(nodes)
        admission = self._admit(view, nodes)
        update, touched = self._classify(view, admission, nodes)
        self._view = view
        old, new, fresh, changes = self._rulesets(admission, update, touched)
        created = list(self._extend(
            (live for name, live in old.items()
             if name not in admission.refused), update.created))
        self._live = new
        self._judges = endpoints.Judges(view, self.live, admission.refused)
        deny = self._endpoints.deny(locals_, self._judges)
        moves, leaving = self._moves(update)
        redefined = list(self._redefine(new, changes))
        flips, rejudge = self._endpoints.flip(locals_, self._judges)
        retired = [live for live in old.values()
                   if not any(live is kept for kept in new.values())]
        steps = [(Phase.DENY, deny)]
        if deny:
            steps.append((Phase.GRACE, None))
        steps += [
            (Phase.RULESETS,
             [write for live in fresh for write in live.writes()]),
            (Phase.CLASSES, created), (Phase.ADDRESSES, moves)]
        if redefined and (leaving or self._unsettled):
            steps.append((Phase.GRACE, None))
        steps += [(Phase.REDEFINED, redefined), (Phase.FLIPS, flips)]
        if deny or moves or redefined or rejudge or first:
            steps.append((Phase.EPOCH, None))
        cleaning = self._clean(update, retired)
        self._unsettled = bool(moves) and not cleaning
        return Plan(_steps(*steps, *cleaning), self._denied(locals_))

    def _admit(self, view, nodes):
        members = {}
        for name, selector in view.selectors.items():
            known = self._selectors.get(name)
            if known is not None and (known[0] is selector
                                      or known[0] == selector):
                members[name] = known[1]
            else:
                members[name] = frozenset(filter(None, (
                    rows.canonical(address) for member in selector.members
                    for address in member.addresses)))
        self._members = members
        wanted = {ruleset for endpoint in view.endpoints.values()
                  for ruleset in (endpoint.ingress, endpoint.egress)}
        return limits_.admit(
            wanted - {model.ALLOW_ALL, model.DENY_ALL}, view.rulesets,
            members, {name: live.table for name, live in self._live.items()},
            len(nodes), self._limits)

    def _classify(self, view, admission, nodes):
        """Update the classes by what rulesets to come name.

        What only former rulesets name stays as it was: they judge until
        the flips.

        :returns: the update, and the selectors by which definitions differ.
        """
        named = {selector for table in admission.tables.values()
                 for selector in table.selectors
                 if selector in view.selectors}
        changed = {}
        for name in named:
            members = self._members[name]
            known = self._selectors.get(name)
            if known is None or known[1] != members:
                changed[name] = members
        peers = dict.fromkeys(self._nodes - nodes)
        peers.update(dict.fromkeys(nodes, entities.Entity.HOST))
        self._nodes = nodes
        update = self._classes.update(changed, peers)
        for name in named:
            self._selectors[name] = view.selectors[name], self._members[name]
        # NOTE: a class never changes its entity, only its selectors.
        return update, changed.keys()

    def _rulesets(self, admission, update, touched):
        """Make the rulesets to come.

        :returns: those in force until now, those to come (by id), of the
            latter those that have to be written, and by id those rows of
            redefined classes that change in place.
        """
        old = dict(self._live)
        new: dict[str, Live] = {}
        fresh, changes = [], {}
        index = None
        total = 0
        for name in sorted(admission.tables,
                           key=lambda name: (name not in old, name)):
            table = admission.tables[name]
            live = old.get(name)
            changed = {} if live is None else self._changed(
                live, update, touched)
            if live is None or _spans_keys(live, changed):
                index = index or self._index()
                live = Live(0, table, self._peers(table, index))
                count = live.count
            else:
                changes[name] = changed
                count = live.count + self._growth(live, update, changed)
            if count > self._limits.ruleset_peer_rows:
                reason = ('its policies tell more kinds of peers apart '
                          f'({count}) than a ruleset may '
                          f'({self._limits.ruleset_peer_rows})')
            elif total + count > self._limits.peer_rows:
                reason = limits_.full('kinds of peers')
            else:
                total += count
                new[name] = live
                if live is not old.get(name):
                    live.number = self._allocate('ruleset')
                    fresh.append(live)
                continue
            admission.refused[name] = reason
        return old, new, fresh, changes

    def _index(self):
        """The classes of each selector."""
        index: dict[str, list[int]] = {}
        for number, definition in self._classes.definitions.items():
            for selector in definition.selectors:
                index.setdefault(selector, []).append(number)
        return index

    def _peers(self, table, index):
        numbers = set().union(*(index.get(selector, ())
                                for selector in table.selectors))
        return {number: bits for number in numbers
                if (bits := self._bits(table, number)) is not None}

    def _bits(self, table, class_):
        """The row that a class needs, None if its entity's row serves."""
        entity, selectors = self._classes.definitions[class_]
        if table.selectors.keys().isdisjoint(selectors):
            return None
        bits = table.peer_bits(selectors, entity)
        return None if bits == table.base_bits(entity) else bits

    def _changed(self, live, update, touched):
        """Rows of redefined classes that are others now."""
        if live.table.selectors.keys().isdisjoint(touched):
            return {}
        changed = {}
        for number in update.redefined:
            bits = self._bits(live.table, number)
            if bits != live.peers.get(number):
                changed[number] = bits
        return changed

    def _growth(self, live, update, changed):
        """How many rows a ruleset gets."""
        created = sum(
            len(rows.pages(bits)) for number in update.created
            if (bits := self._bits(live.table, number)) is not None)
        return created + sum(
            bits is not None and number not in live.peers
            for number, bits in changed.items())

    def _extend(self, lives, created):
        """Rows of rulesets in force for classes that are new."""
        for live in lives:
            for number in created:
                bits = self._bits(live.table, number)
                if bits is not None:
                    live.set_peer(number, bits)
                    yield from rows.peer_rows(live.number, number, bits)

    def _moves(self, update):
        """Writes that move addresses.

        :returns: the writes, and whether an address leaves a class that is
            redefined.
        """
        rows_ = {self._address(address): None for address in update.gone}
        for address, number in update.moves.items():
            entity = self._classes.definitions[number].entity
            rows_[self._address(address)] = rows.AddrRow(number, int(entity))
        leaving = False
        for key, row in rows_.items():
            before = self._addresses.pop(key, None)
            leaving |= bool(before and before.class_ in update.redefined)
            if row is not None:
                self._addresses[key] = row
        return [rows.Write(rows.ADDR, key, row)
                for key, row in rows_.items()], leaving

    def _redefine(self, new, changes):
        for name, changed in changes.items():
            live = new.get(name)
            if live is None:
                continue
            for number, bits in changed.items():
                yield from _rewrite(live, number, bits)
                live.set_peer(number, bits)

    def _clean(self, update, retired):
        """The steps after the flips: forget what no ruleset names."""
        named = {selector for live in self._live.values()
                 for selector in live.table.selectors}
        unused = [name for name in self._selectors if name not in named]
        for name in unused:
            del self._selectors[name]
        merge = self._classes.forget(unused)
        created = list(self._extend(self._live.values(), merge.created))
        moves, _ = self._moves(merge)
        steps = [(Phase.GRACE, None), (Phase.CLASSES, created),
                 (Phase.MERGE, moves)]
        if merge.gone:
            steps.append((Phase.EPOCH, None))
        if moves:
            steps.append((Phase.GRACE, None))
        deletes = [rows.delete(write) for live in retired
                   for write in live.writes()]
        for live in self._live.values():
            for number in (*update.dropped, *merge.dropped):
                bits = live.peers.get(number)
                if bits is not None:
                    live.set_peer(number, None)
                    deletes += map(rows.delete, rows.peer_rows(
                        live.number, number, bits))
        steps.append((Phase.DELETE, deletes))
        if not any(writes for _, writes in steps):
            return []
        return steps

    def _denied(self, locals_):
        return {local.uid: reason for local in locals_.values()
                if self._view is not None
                and (reason := self._judges.of(local)[3])}

    def _address(self, address):
        return rows.AddrKey(self.spaces[rows.family(address)], address)


def _spans_keys(live, changed):
    """Whether a row in force would change in more than one key.

    A packet could read some of them before and some after: then the ruleset
    is written anew under another number, and flipped to.
    """
    return any(len(_rewrite(live, class_, bits)) > 1
               for class_, bits in changed.items())


def _rewrite(live, class_, bits):
    """Writes that change the row of a class; None: no row is needed."""
    had = live.peers.get(class_)
    before, after = ({} if value is None else {
        (write.table, write.key): write
        for write in rows.peer_rows(live.number, class_, value)}
        for value in (had, bits))
    writes = [write for key, write in after.items()
              if before.get(key) != write]
    writes += [rows.delete(write) for key, write in before.items()
               if key not in after]
    return writes


def _steps(*steps):
    """Steps without those that do nothing."""
    made = []
    for phase, writes in steps:
        if writes is None or writes:
            step = Step(phase, tuple(writes or ()))
            if phase is Phase.GRACE and made and made[-1] == step:
                continue
            made.append(step)
    if made and made[-1].phase is Phase.GRACE:
        made.pop()
    return tuple(made)
