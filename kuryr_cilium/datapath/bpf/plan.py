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
several rows: the ruleset gets a new number instead (see live.spans_keys).

The planner takes it that its steps are carried out. If one fails, what the
maps hold is unknown: a new planner begins a new generation beside it (new
numbers throughout), and purging what is not its own ends the old one.
"""

import dataclasses
import enum
import operator
from typing import Callable, Iterable, Iterator, Mapping, Optional

from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import limits as limits_
from kuryr_cilium.datapath.bpf import live as live_
from kuryr_cilium.datapath.bpf import peers as peers_
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import classes
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

    :ivar steps: those that bring it in force.
    :ivar denied: pod UID -> why its endpoint denies everything.
    :ivar clean: plans the steps after them, which forget what nobody needs
        any more: no packet waits for these. If they are never carried out,
        those of a later plan do it.
    """

    steps: tuple[Step, ...]
    denied: Mapping[str, str]
    clean: Callable[[], tuple['Step', ...]] = tuple

    def walk(self) -> Iterator[Step]:
        """All steps; one is to be done before the next is asked for."""
        yield from self.steps
        yield from self.clean()


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
        self._told = peers_.Told()
        self._view: Optional[model.View] = None
        # Of the last view, and what the classes are made of.
        self._selectors = peers_.Selectors()
        self._peers: dict[str, peers_.Peers] = {}
        self._nodes: frozenset[str] = frozenset()
        self._live: dict[str, live_.Live] = {}
        # By address, or prefix.
        self._addresses: dict[str, rows.AddrRow] = {}
        self._endpoints = endpoints.Endpoints(self.spaces)
        self._judges = endpoints.Judges()
        # Whether packets may be in flight that read addresses before they
        # moved.
        self._unsettled = False
        # What is to be cleaned up: rulesets, and numbers of classes.
        self._retired: list[live_.Live] = []
        self._dropped: list[int] = []

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
            if table in (rows.ADDR, rows.CIDR, rows.LOCAL):
                return key.space in spaces
            if table == rows.ENDPOINT:
                return key in self._endpoints
            return key.ruleset in numbers

        return owns

    def tables(self) -> dict[tuple, tuple]:
        """Everything that this generation holds: (table, key) -> value."""
        written = [self._address(name, row)
                   for name, row in self._addresses.items()]
        for live in self._live.values():
            written.extend(live.writes())
        found = {(write.table, write.key): write.value for write in written}
        found.update(self._endpoints.tables())
        return found

    def settle(self, locals_: Mapping[int, endpoints.Local]) -> Plan:
        """Bring endpoints in line with the last view, and nothing else.

        Before the first view only what drops everything is written: what
        an earlier process made active stays as it is.
        """
        judged = self._judges.judge(locals_)
        writes, _ = self._endpoints.flip(locals_, judged)
        return Plan(_steps((Phase.FLIPS, writes)), _denied(locals_, judged))

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
        update, touched = self._classify(admission, nodes)
        self._view = view
        created = live_.Created(update.created, self._classes.definitions)
        old, new, fresh, changes = self._rulesets(
            admission, update, touched, created)
        extended = list(_extend(
            (live for name, live in old.items()
             if name not in admission.refused), created))
        self._live = new
        self._retired += [live for name, live in old.items()
                          if new.get(name) is not live]
        self._dropped += update.dropped
        self._judges = endpoints.Judges(view, self.live, admission.refused)
        judged = self._judges.judge(locals_)
        deny = self._endpoints.deny(locals_, judged)
        moves, leaving = self._moves(update)
        redefined = list(self._redefine(new, changes))
        flips, rejudge = self._endpoints.flip(locals_, judged)
        steps = [(Phase.DENY, deny)]
        if deny:
            steps.append((Phase.GRACE, None))
        steps += [
            (Phase.RULESETS, _by_table(
                write for live in fresh for write in live.writes())),
            (Phase.CLASSES, extended), (Phase.ADDRESSES, moves)]
        if redefined and (leaving or self._unsettled):
            steps.append((Phase.GRACE, None))
        steps += [(Phase.REDEFINED, redefined), (Phase.FLIPS, flips)]
        if deny or moves or redefined or rejudge or first:
            steps.append((Phase.EPOCH, None))
        return Plan(self._settled(_steps(*steps)), _denied(locals_, judged),
                    self._clean)

    def _admit(self, view, nodes):
        self._selectors.take(view.selectors, self._peers)
        wanted = {ruleset for endpoint in view.endpoints.values()
                  for ruleset in (endpoint.ingress, endpoint.egress)}
        return limits_.admit(
            wanted - {model.ALLOW_ALL, model.DENY_ALL}, view.rulesets,
            self._selectors,
            {name: live.table for name, live in self._live.items()},
            len(nodes), self._limits)

    def _classify(self, admission, nodes):
        """Update the classes by what rulesets to come name.

        What only former rulesets name stays as it was: they judge until
        the flips.

        :returns: the update, and the selectors by which definitions differ.
        """
        named = peers_.needed(admission.tables.values(),
                              self._selectors.outside)
        read = self._selectors.peers
        changed, places = {}, {}
        for name in named:
            now, before = read[name], self._peers.get(name)
            if now is before:
                continue
            self._peers[name] = now
            peers, touched = self._selectors.changes.get(name, (None, ()))
            if before is not None and peers is before:
                changed[name], places[name] = now, touched
            elif now != before:
                changed[name] = now
        self._nodes = nodes
        former = [name for name in self._peers.keys() - named
                  if not entities.is_entity(name)]
        # What entities need is told by their own selectors.
        told = self._told.update(
            {**{name: found.told for name, found in changed.items()},
             **dict.fromkeys(former, {})}, nodes, places)
        if entities.CLUSTER in named:
            # Former selectors may have kept what is no pod any more.
            told.update((address, None) for name in former
                        for address in self._peers[name].addresses
                        if self._told.of(address) is None)
        update = self._classes.update(
            {name: found.addresses for name, found in changed.items()
             if not entities.is_entity(name)}, told,
            {name: found.block for name, found in changed.items()
             if found.block})
        # NOTE: a class never changes its entity, only its selectors.
        return update, changed.keys()

    def _rulesets(self, admission, update, touched, created):
        """Make the rulesets to come.

        :returns: those in force until now, those to come (by id), of the
            latter those that have to be written, and by id those rows of
            redefined classes that change in place.
        """
        old = dict(self._live)
        new: dict[str, live_.Live] = {}
        fresh, changes = [], {}
        total = 0
        for name in sorted(admission.tables,
                           key=lambda name: (name not in old, name)):
            table = admission.tables[name]
            live = old.get(name)
            changed = {} if live is None else self._changed(
                live, update, touched)
            if live is None or live_.spans_keys(live, changed):
                live = live_.Live(0, table, self._rows(table))
                count = live.count
            else:
                changes[name] = changed
                count = live.count + _growth(live, created, changed)
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

    def _rows(self, table):
        """The rows of classes that a ruleset needs."""
        return live_.peer_table(
            table, self._classes.naming(table.selectors.keys()),
            self._classes.definitions)

    def _bits(self, table, class_):
        return live_.peer_bits(table, self._classes.definitions[class_])

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

    def _moves(self, update):
        """Writes that move addresses.

        :returns: the writes, and whether an address leaves a class that is
            redefined.
        """
        redefined = frozenset(update.redefined)
        moves: dict[str, Optional[rows.AddrRow]] = dict.fromkeys(update.gone)
        classes_ = {}
        for name, number in update.moves.items():
            row = classes_.get(number)
            if row is None:
                entity = self._classes.definitions[number].entity
                row = classes_[number] = rows.AddrRow(number, int(entity))
            moves[name] = row
        leaving = False
        writes, prefixes = [], []
        for name, row in moves.items():
            before = self._addresses.pop(name, None)
            leaving |= before is not None and before.class_ in redefined
            if row is not None:
                self._addresses[name] = row
            write = self._address(name, row)
            (prefixes if write.table == rows.CIDR else writes).append(write)
        return writes + prefixes, leaving

    def _redefine(self, new, changes):
        for name, changed in changes.items():
            live = new.get(name)
            if live is None:
                continue
            for number, bits in changed.items():
                yield from live_.rewrite(live, number, bits)
                live.set_peer(number, bits)

    def _clean(self):
        """The steps after a view is in force: forget what nobody names."""
        named = peers_.needed(
            (live.table for live in self._live.values()),
            {name for name, found in self._peers.items() if found.outside})
        unused = self._peers.keys() - named
        for name in unused:
            del self._peers[name]
        merge = self._classes.forget(unused, self._told.update(
            dict.fromkeys(unused, {}), self._nodes))
        extended = list(_extend(self._live.values(), live_.Created(
            merge.created, self._classes.definitions)))
        moves, _ = self._moves(merge)
        steps = [(Phase.GRACE, None), (Phase.CLASSES, extended),
                 (Phase.MERGE, moves)]
        if merge.gone:
            steps.append((Phase.EPOCH, None))
        if moves:
            steps.append((Phase.GRACE, None))
        deletes = [rows.delete(write) for live in self._retired
                   for write in live.writes()]
        for live in self._live.values():
            for number in (*self._dropped, *merge.dropped):
                bits = live.peers.get(number)
                if bits is not None:
                    live.set_peer(number, None)
                    deletes += map(rows.delete, rows.peer_rows(
                        live.number, number, bits))
        self._retired, self._dropped = [], []
        steps.append((Phase.DELETE, _by_table(deletes)))
        if not any(writes for _, writes in steps):
            return ()
        return self._settled(_steps(*steps))

    def _settled(self, steps):
        """Note whether a grace period follows the last move of addresses."""
        for step in steps:
            if step.phase is Phase.GRACE:
                self._unsettled = False
            elif step.phase in (Phase.ADDRESSES, Phase.MERGE):
                self._unsettled = True
        return steps

    def _address(self, name, row):
        """The write of an address or a prefix."""
        space = self.spaces[rows.family(name)]
        if '/' in name:
            return rows.Write(rows.CIDR, rows.CidrKey(space, name), row)
        return rows.Write(rows.ADDR, rows.AddrKey(space, name), row)


def _denied(locals_, judged):
    return {locals_[number].uid: judgement.reason
            for number, judgement in judged.items()
            if judgement.reason is not None}


def _growth(live, created, changed):
    """How many rows a ruleset gets."""
    return sum(len(rows.pages(bits))
               for bits in created.of(live).values()) + sum(
        bits is not None and number not in live.peers
        for number, bits in changed.items())


def _extend(lives, created):
    """Rows of rulesets in force for classes that are new."""
    for live in lives:
        for number, bits in created.of(live).items():
            live.set_peer(number, bits)
            yield from rows.peer_rows(live.number, number, bits)


def _by_table(writes):
    """Rows of one table are written at once if they stand together."""
    return sorted(writes, key=operator.attrgetter('table'))


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
