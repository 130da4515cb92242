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

"""What is written for services to be as they are wanted; pure.

A set of backends is written under a number of its own before anything leads
to it; a row of an address then turns to it in one write, and what nobody is
led to any more goes after the packets in flight. So a packet finds the whole
of one set, the former or the new one. In the same way source ranges are there
before the row that asks for them. While they change, those that are allowed
come first and those that are not go last: who may ask before and after is let
in all the time. An address that becomes a service's comes after clients have
forgotten which of its backends they had by affinity, and have no more.
"""

import collections
import dataclasses
from typing import Callable, Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model

UDP = 17
#: Row.backends of what is dropped without an answer.
SILENT = 0xffffffff
#: What is not said to be allowed, where there are source ranges.
EVERYBODY = ('0.0.0.0/0', '::/0')


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Rows that there is room for.

    Half of the maps: what an earlier process has left goes last.

    :ivar addresses: of kc_svc.
    :ivar backends: of kc_backend.
    :ivar ranges: of kc_source.
    """

    addresses: int = 131072
    backends: int = 262144
    ranges: int = 32768


class Row(NamedTuple):
    """Where an address leads to.

    :ivar backends: number of a set of backends; or SILENT.
    :ivar count: how many there are in it; 0: it is refused, or dropped.
    :ivar service: number of the addresses of a service by which a client
        gets the same backend, as long as they live.
    """

    backends: int
    count: int
    service: int
    affinity: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order.

    :ivar backends: (number, index) -> target, of new sets.
    :ivar ranges: (Row.service, network) -> whether clients in it may ask,
        unless a longer one says otherwise; in an order of their own.
    :ivar addresses: rows that are new or different.
    :ivar gone: addresses that are nobody's any more.
    :ivar forget: (Row.service, address, port): targets that clients may
        have by affinity, and may have no more; after the packets in flight.
    :ivar late: rows of new addresses, by which clients would get such
        targets until they are forgotten.
    :ivar unused: (number, count) of sets to delete, after the packets in
        flight.
    :ivar open: keys of ranges to delete, then too.
    :ivar lost: whether UDP flows have lost their backends: ask Table.alive().
    """

    backends: Mapping[tuple[int, int], frontends.Target]
    ranges: Mapping[tuple[int, str], bool]
    addresses: Mapping[frontends.Key, Row]
    gone: tuple[frontends.Key, ...]
    forget: frozenset[tuple[int, str, int]]
    late: Mapping[frontends.Key, Row]
    unused: tuple[tuple[int, int], ...]
    open: tuple[tuple[int, str], ...]
    lost: bool


class Table:
    """Services as they are in force on a node.

    :param allocate: returns a number that was never used before.
    :param outside: whether clients outside are served too.
    :param known: Row.service of what an earlier process has in force. The
        first update takes over the numbers of which it is clear whose they
        are, and affinity with them.
    """

    def __init__(self, node: str, zone: str, allocate: Callable[[], int],
                 limits: Limits = Limits(), outside: bool = False,
                 known: Mapping[frontends.Key, int] = {}):
        self._node = node
        self._zone = zone
        self._allocate = allocate
        self._limits = limits
        self._outside = outside
        self._known = known
        self._services: dict[str, model.Service] = {}
        self._frontends: dict[str, tuple[frontends.Frontend, ...]] = {}
        # Id of a service -> group -> Row.service.
        self._numbers: dict[str, dict[frontends.Group, int]] = {}
        self._names: dict[int, str] = {}
        # Key -> id of a service -> what it wants there.
        self._claims: dict[frontends.Key, dict[str, frontends.Frontend]] = {}
        # Keys that several want.
        self._contested: set[frontends.Key] = set()
        self._rows: dict[frontends.Key, Row] = {}
        # What is in force, without what was refused.
        self._targets: dict[frontends.Key, tuple] = {}
        self._alive: dict[frontends.Key, frozenset[tuple[str, int]]] = {}
        # Targets -> number of the set, and how many addresses lead to it.
        self._sets: dict[tuple, int] = {}
        self._uses: collections.Counter[tuple] = collections.Counter()
        self._written = 0
        # Row.service -> network -> whether clients in it may ask.
        self._ranges: dict[int, dict[str, bool]] = {}
        self._ranged = 0
        # Key -> id of the service that there was no room for.
        self._refused: dict[frontends.Key, str] = {}

    @property
    def services(self) -> Mapping[str, model.Service]:
        """By id, those that were refused too."""
        return self._services

    @property
    def names(self) -> Mapping[int, str]:
        """Row.service -> id of the service."""
        return self._names

    @property
    def rows(self) -> Mapping[frontends.Key, Row]:
        """What is in force."""
        return self._rows

    @property
    def sets(self) -> frozenset[int]:
        """Numbers of the sets of backends in force."""
        return frozenset(self._sets.values())

    @property
    def ranges(self) -> frozenset[tuple[int, str]]:
        """(Row.service, network) of the source ranges in force."""
        return frozenset((number, network)
                         for number, networks in self._ranges.items()
                         for network in networks)

    @property
    def refused(self) -> dict[str, str]:
        """Id of a service -> why an address of it is not served.

        The next update tries again.
        """
        return {name: 'the node has no room for more services: %d addresses, '
                '%d backends, %d source ranges' % (
                    len(self._rows), self._written, self._ranged)
                for name in self._refused.values()}

    def owner(self, key: frontends.Key) -> Optional[str]:
        """Id of the service that has an address."""
        claims = self._claims.get(key)
        return min(claims, key=lambda name: self._rank(key, name)
                   ) if claims else None

    def alive(self, address: str, port: int, protocol: int,
              backend: tuple[str, int]) -> bool:
        """Whether a flow to a service may keep the backend that it has.

        :param address: what the client asked, with port and protocol.
        """
        for scope in (frontends.INSIDE, frontends.OUTSIDE):
            for asked in (address, frontends.ANY[frontends.family(address)]):
                found = self._alive.get(
                    frontends.Key(asked, port, protocol, scope))
                if found is not None:
                    if backend in found:
                        return True
                    break
        return False

    def update(self, changed: Mapping[str, Optional[model.Service]]) -> Plan:
        """Plan what makes services as they are wanted.

        :param changed: by id; None: it is gone.
        """
        touched = set(self._refused)
        forget: set[tuple[int, str, int]] = set()
        made = {name: self._frontends_of(service)
                for name, service in changed.items()}
        # Numbers under which clients may have targets that must be forgotten.
        stale = self._take_over(made)
        for name, service in changed.items():
            before = self._frontends.get(name, ())
            had = self._had(name, before)
            self._claim(name, service, made[name], touched)
            now = self._frontends.get(name, ())
            forget |= {(number, target.address, target.port) for number, target
                       in had - self._had(name, now)}
        ranges, unused = self._restrict(
            sorted({*self._refused.values(), *changed}), touched)
        stale |= {number for number, _, _ in forget}
        plan = self._turn(touched, frozenset(forget), stale, ranges, unused)
        self._known = {}
        for name in changed:
            self._forget_numbers(name)
        return plan

    def conflicts(self) -> dict[str, str]:
        """Services that want an address that another one has: id -> why."""
        found = {}
        for key in sorted(self._contested, reverse=True):
            owner = self.owner(key)
            for name in self._claims[key].keys() - {owner}:
                found[name] = '%s is taken by the service %s' % (
                    _text(key), owner)
        return found

    def _frontends_of(self, service):
        if service is None:
            return ()
        found = [*frontends.frontends(service, self._node, self._zone)]
        if self._outside:
            found += frontends.outside(service, self._node, self._zone)
        return tuple(found)

    def _take_over(self, made):
        """Go on with the numbers that are known.

        A number that two want, or two of which one wants, may have been
        another service's.

        :returns: these.
        """
        taken = set()
        wanted, wanting = (collections.defaultdict(set) for _ in range(2))
        if self._known:
            for name, items in made.items():
                for item in items:
                    number = self._known.get(item.key)
                    if number:
                        wanted[name, item.group].add(number)
                        wanting[number].add((name, item.group))
        for (name, group), numbers in wanted.items():
            number = min(numbers)
            if len(numbers) == len(wanting[number]) == 1:
                self._numbers.setdefault(name, {})[group] = number
                self._names[number] = name
                taken.add(number)
        return taken

    def _claim(self, name, service, items, touched):
        for item in self._frontends.pop(name, ()):
            claims = self._claims[item.key]
            claims.pop(name, None)
            if len(claims) < 2:
                self._contested.discard(item.key)
            if not claims:
                del self._claims[item.key]
            touched.add(item.key)
        self._services.pop(name, None)
        if service is None:
            return
        self._services[name] = service
        self._frontends[name] = items
        numbers = self._numbers.setdefault(name, {})
        for item in items:
            if item.group not in numbers:
                number = numbers[item.group] = self._allocate()
                self._names[number] = name
            claims = self._claims.setdefault(item.key, {})
            claims[name] = item
            if len(claims) > 1:
                self._contested.add(item.key)
            touched.add(item.key)

    def _restrict(self, names, touched):
        """What makes the source ranges of services as they are wanted.

        Without room for all of them nobody may ask.
        """
        allowed, denied, unused = {}, {}, []
        for name in names:
            items = self._frontends.get(name, ())
            groups = {item.group for item in items if item.group.restricted}
            for group, number in self._numbers.get(name, {}).items():
                had = self._ranges.pop(number, {})
                wanted = {} if group not in groups else {
                    **dict.fromkeys(EVERYBODY, False), **dict.fromkeys(
                        self._services[name].source_ranges, True)}
                added = wanted.keys() - had.keys()
                if self._ranged + len(added) > self._limits.ranges:
                    wanted, added = {}, ()
                    touched.update(item.key for item in items
                                   if item.group == group)
                self._ranged += len(added)
                for network, value in wanted.items():
                    if had.get(network) is not value:
                        (allowed if value else denied)[number, network] = value
                unused += ((number, network) for network in had
                           if network not in wanted)
                if wanted:
                    self._ranges[number] = wanted
        self._ranged -= len(unused)
        return {**allowed, **denied}, tuple(unused)

    def _turn(self, touched, forget, stale, ranges, unused):
        backends, addresses, gone, released = {}, {}, [], []
        lost, new, waiting = False, set(), set()
        # What is in force comes before what is new, if there is little room.
        # The ports of an address come before what refuses all others, and go
        # after it.
        for key in sorted(touched, key=lambda key: (
                key not in self._rows, not key.port, key)):
            name = self.owner(key)
            item = self._claims[key][name] if name is not None else None
            had = self._alive.pop(key, frozenset())
            lost |= key.protocol == UDP and not had <= (
                item.alive if item else frozenset())
            if key in self._targets:
                released.append(self._targets.pop(key))
            self._refused.pop(key, None)
            if item is None:
                if self._rows.pop(key, None) is not None:
                    gone.append(key)
                continue
            self._alive[key] = item.alive
            if key not in self._rows and len(
                    self._rows) >= self._limits.addresses:
                self._refused[key] = name
                continue
            service = self._numbers[name][item.group]
            number = None
            if not item.group.restricted or service in self._ranges:
                number = self._set(item, backends)
            if number is None:
                self._refused[key] = name
                number, item = 0, item._replace(targets=())
            self._targets[key] = item.targets
            self._uses[item.targets] += 1
            row = Row(number, len(item.targets), service, item.affinity)
            former = self._rows.get(key)
            if former == row:
                continue
            self._rows[key] = addresses[key] = row
            if service != (former.service if former else
                           self._known.get(key)):
                new.add(key)
                if row.affinity and service in stale:
                    waiting.add(key.address)
        late = {key: addresses.pop(key) for key in list(addresses)
                if key.address in waiting and key in new}
        gone.sort(key=lambda key: key.port)
        return Plan(backends, ranges, addresses, tuple(gone), forget, late,
                    tuple(self._unused(released)), unused, lost)

    def _set(self, item, backends):
        """Number of a set; None if there is no room for it."""
        targets = item.targets
        if not targets:
            return SILENT if item.silent else 0
        number = self._sets.get(targets)
        if number is None:
            # Former sets go after the new ones are there.
            if self._written + len(targets) > self._limits.backends:
                return None
            number = self._sets[targets] = self._allocate()
            self._written += len(targets)
            for index, target in enumerate(targets):
                backends[number, index] = target
        return number

    def _unused(self, released):
        for targets in released:
            self._uses[targets] -= 1
            if self._uses[targets]:
                continue
            del self._uses[targets]
            number = self._sets.pop(targets, None)
            if number is not None:
                self._written -= len(targets)
                yield number, len(targets)

    def held(self) -> dict[tuple[int, str, int], str]:
        """Targets that clients may have by affinity.

        :returns: (Row.service, address, port) -> MAC address.
        """
        return {(number, target.address, target.port): target.mac
                for name, items in self._frontends.items()
                for number, target in self._had(name, items)}

    def _had(self, name, items):
        """All (Row.service, target) that clients may have."""
        return {(self._numbers[name][item.group], target)
                for item in items if item.affinity for target in item.targets}

    def _forget_numbers(self, name):
        """Those of groups that a service has no more."""
        numbers = self._numbers.get(name, {})
        groups = {item.group for item in self._frontends.get(name, ())}
        for group in numbers.keys() - groups:
            del self._names[numbers.pop(group)]
        if not numbers:
            self._numbers.pop(name, None)

    def _rank(self, key, name):
        """Of two that claim an address the one with the lower rank has it.

        A cluster address is nobody else's: who may write externalIPs has no
        say in where it leads to.
        """
        service = self._services[name]
        return key.address not in service.addresses, service.created, name


def counts(services: Iterable[model.Service]) -> collections.Counter:
    """How many services, ports and backends there are."""
    found: collections.Counter[str] = collections.Counter(
        services=0, ports=0, backends=0)
    for service in services:
        found['services'] += 1
        found['ports'] += len(service.ports)
        found['backends'] += sum(len(port.backends) for port in service.ports)
    return found


def _text(key):
    address = '[%s]' % key.address if ':' in key.address else key.address
    return '%s:%d' % (address, key.port)
