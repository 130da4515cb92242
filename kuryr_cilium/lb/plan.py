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
of one set, the former or the new one.
"""

import collections
import dataclasses
from typing import Callable, Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Rows that there is room for.

    :ivar addresses: of kc_svc.
    :ivar backends: half of kc_backend: a change needs the former and the new.
    """

    addresses: int = 131072
    backends: int = 262144


class Row(NamedTuple):
    """Where an address leads to.

    :ivar backends: number of a set of backends.
    :ivar count: how many there are in it; 0: it is refused.
    :ivar service: number of the service, as long as it lives.
    """

    backends: int
    count: int
    service: int
    affinity: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order.

    :ivar backends: (number, index) -> target, of new sets.
    :ivar addresses: rows that are new or different.
    :ivar gone: addresses that are nobody's any more.
    :ivar unused: (number, count) of sets to delete, after the packets in
        flight.
    :ivar left: services and targets that they had and have no more.
    """

    backends: Mapping[tuple[int, int], frontends.Target]
    addresses: Mapping[frontends.Key, Row]
    gone: tuple[frontends.Key, ...]
    unused: tuple[tuple[int, int], ...]
    left: frozenset[tuple[int, str, int]]


class Table:
    """Services as they are in force on a node.

    :param allocate: returns a number that was never used before.
    """

    def __init__(self, node: str, zone: str, allocate: Callable[[], int],
                 limits: Limits = Limits()):
        self._node = node
        self._zone = zone
        self._allocate = allocate
        self._limits = limits
        self._services: dict[str, model.Service] = {}
        self._numbers: dict[str, int] = {}
        # Key -> id of a service -> what it wants there.
        self._claims: dict[frontends.Key, dict[str, frontends.Frontend]] = {}
        self._rows: dict[frontends.Key, Row] = {}
        # Targets -> number of the set, and how many addresses lead to it.
        self._sets: dict[tuple, int] = {}
        self._uses: collections.Counter[tuple] = collections.Counter()
        self._targets: dict[frontends.Key, tuple] = {}
        self._written = 0
        self.refused: dict[str, str] = {}

    @property
    def services(self) -> Mapping[str, model.Service]:
        """By id, those that were refused too."""
        return self._services

    @property
    def names(self) -> Mapping[int, str]:
        """Number of a service -> its id."""
        return {number: name for name, number in self._numbers.items()}

    @property
    def rows(self) -> Mapping[frontends.Key, Row]:
        """What is in force."""
        return self._rows

    @property
    def sets(self) -> frozenset[int]:
        """Numbers of the sets of backends in force."""
        return frozenset(self._sets.values())

    def owner(self, key: frontends.Key) -> Optional[str]:
        """Id of the service that has an address."""
        claims = self._claims.get(key)
        return min(claims, key=self._rank) if claims else None

    def update(self, changed: Mapping[str, Optional[model.Service]]) -> Plan:
        """Plan what makes services as they are wanted.

        :param changed: by id; None: it is gone.
        """
        touched: set[frontends.Key] = set()
        before = {name: self._served(name) for name in changed}
        for name, service in changed.items():
            self._claim(name, service, touched)
        plan = self._turn(touched)
        left = {(number, *target) for name, (number, targets)
                in before.items() if number
                for target in targets - self._served(name)[1]}
        for name, service in changed.items():
            if service is None:
                self._numbers.pop(name, None)
        return dataclasses.replace(plan, left=frozenset(left))

    def conflicts(self) -> dict[str, str]:
        """Services that want an address that another one has: id -> why."""
        found = {}
        for key, claims in self._claims.items():
            if len(claims) > 1:
                owner = self.owner(key)
                for name in claims.keys() - {owner}:
                    found[name] = '%s is taken by the service %s' % (
                        _text(key), owner)
        return found

    def _claim(self, name, service, touched):
        before = self._services.pop(name, None)
        if before is not None:
            for item in frontends.frontends(before, self._node, self._zone):
                claims = self._claims.get(item.key, {})
                claims.pop(name, None)
                if not claims:
                    self._claims.pop(item.key, None)
                touched.add(item.key)
        if service is None:
            return
        self._services[name] = service
        if name not in self._numbers:
            self._numbers[name] = self._allocate()
        for item in frontends.frontends(service, self._node, self._zone):
            self._claims.setdefault(item.key, {})[name] = item
            touched.add(item.key)

    def _turn(self, touched):
        backends, addresses, gone = {}, {}, []
        released = []
        self.refused = {}
        for key in sorted(touched):
            name = self.owner(key)
            old = self._targets.get(key)
            if name is None:
                if self._rows.pop(key, None) is not None:
                    gone.append(key)
                    del self._targets[key]
                    released.append(old)
                continue
            item = self._claims[key][name]
            number = self._set(item.targets, name, backends)
            if number is None or (key not in self._rows and len(self._rows)
                                  >= self._limits.addresses):
                number, item = 0, item._replace(targets=())
                self.refused[name] = (
                    'the node has no room for more services: %d addresses, '
                    '%d backends' % (len(self._rows), self._written))
                if key not in self._rows and len(self._rows) >= (
                        self._limits.addresses):
                    continue
            row = Row(number, len(item.targets), self._numbers[name],
                      item.affinity)
            self._uses[item.targets] += 1
            self._targets[key] = item.targets
            if old is not None:
                released.append(old)
            if self._rows.get(key) != row:
                self._rows[key] = addresses[key] = row
        return Plan(backends, addresses, tuple(gone),
                    tuple(self._unused(released)), frozenset())

    def _set(self, targets, name, backends):
        """Number of a set; None if there is no room for it."""
        if not targets:
            return 0
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

    def _served(self, name):
        """Number of a service, and all (address, port) it may lead to."""
        service = self._services.get(name)
        if service is None:
            return self._numbers.get(name), set()
        return self._numbers[name], {
            (target.address, target.port)
            for item in frontends.frontends(service, self._node, self._zone)
            for target in item.targets}

    def _rank(self, name):
        return self._services[name].created, name


def counts(services: Iterable[model.Service]) -> collections.Counter:
    """How many services, ports and backends there are."""
    found: collections.Counter[str] = collections.Counter()
    for service in services:
        found['services'] += 1
        found['ports'] += len(service.ports)
        found['backends'] += sum(len(port.backends) for port in service.ports)
    return found


def _text(key):
    address = '[%s]' % key.address if ':' in key.address else key.address
    return '%s:%d' % (address, key.port)
