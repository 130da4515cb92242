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

"""What is written for services, write by write."""

import copy
import dataclasses
import ipaddress
import itertools

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.lb import plan
from tests import base
from tests.unit.lb import oracle
from tests.unit.lb import strategies
from tests.unit.lb import test_services

NODE, ZONE = strategies.NODE, strategies.ZONE
VIP, TCP, UDP = '172.30.0.1', 6, 17
KEY = frontends.Key(VIP, 80, TCP)
OTHER = frontends.Key('172.30.0.2', 80, TCP)


class Maps:
    """The maps of a node; every write keeps packets on their way."""

    def __init__(self):
        self.addresses = {}
        self.backends = {}
        self.ranges = {}
        self.affine = set()  # what clients may have, as in Plan.forget
        self._meant = {}    # number -> targets that it was first used for
        self._services = {}

    def leads_to(self, key):
        """Targets of a key, None if there is no row."""
        row = self.addresses.get(key)
        return None if row is None else tuple(
            self.backends[row.backends, index] for index in range(row.count))

    def answer(self, key, client):
        """What a client outside gets; see kc_source_v1."""
        row = self.addresses.get(key)
        if row is not None:
            best = max((
                (ipaddress.ip_network(text).prefixlen, allowed)
                for (number, text), allowed in self.ranges.items()
                if number == row.service and ipaddress.ip_address(client)
                in ipaddress.ip_network(text)), default=(0, True))
            if not best[1] or row.backends == plan.SILENT:
                return oracle.SILENCE
        return self.leads_to(key)

    def carry_out(self, planned, names):
        """Do a plan, and look at all addresses after each write."""
        sets = {}
        for (number, index), target in planned.backends.items():
            assert (number, index) not in self.backends
            sets.setdefault(number, {})[index] = target
        for number, targets in sets.items():
            assert list(targets) == list(range(len(targets))), targets
            meant = tuple(targets.values())
            assert self._meant.setdefault(number, meant) == meant
        final = copy.deepcopy(self)
        for work in final._writes(planned):
            work()
        questions = [(key, client)
                     for key in {*self.addresses, *final.addresses}
                     for client in strategies.CLIENTS[:None if key.scope
                                                      else 1]]
        former = {question: self.answer(*question) for question in questions}
        wanted = {question: final.answer(*question) for question in questions}
        keys = {key for key, _ in questions}
        reached = {key: self.reaches(key) | final.reaches(key)
                   for key in keys}
        for key in keys:
            # Nobody has by affinity what is not led to.
            assert final.leads_to(key) in ((), None) or final.reaches(
                key) == {target[:2] for target in final.leads_to(key)}, key
        for work in self._writes(planned):
            work()
            for key in keys:
                assert self.reaches(key) <= reached[key], key
            for question in questions:
                # A KeyError: a packet finds a part of a set.
                assert self.answer(*question) in (
                    former[question], wanted[question]), question
        for key, row in self.addresses.items():
            # The number of one service's group is never another's.
            owner = self._services.setdefault(row.service, names[row.service])
            assert owner == names[row.service]
            assert row.backends or not row.count
            assert row.backends != plan.SILENT or not row.count

    def reaches(self, key):
        """All that clients get, by affinity too; they remember it."""
        targets = self.leads_to(key)
        if not targets:
            return {targets}
        row = self.addresses[key]
        found = {(target.address, target.port) for target in targets}
        if row.affinity:
            version = frontends.family(targets[0].address)
            found |= {had[1:] for had in self.affine if had[0] == row.service
                      and frontends.family(had[1]) == version}
            self.affine |= {(row.service, *target) for target in found}
        return found

    def _writes(self, planned):
        for key, target in planned.backends.items():
            yield lambda: self.backends.update({key: target})
        for key, allowed in planned.ranges.items():
            yield lambda: self.ranges.update({key: allowed})
        for key, row in planned.addresses.items():
            yield lambda: self.addresses.update({key: row})
        for key in planned.gone:
            yield lambda: self.addresses.pop(key)
        yield lambda: self.affine.difference_update(planned.forget)
        for key, row in planned.late.items():
            yield lambda: self.addresses.update({key: row})
        for key in planned.open:
            yield lambda: self.ranges.pop(key)
        for number, count in planned.unused:
            for index in range(count):
                yield lambda: self.backends.pop((number, index))


class PlanCase(base.TestCase):

    def table(self, limits=plan.Limits(), outside=True):
        self.table_ = plan.Table(NODE, ZONE, itertools.count(1).__next__,
                                 limits, outside)
        self.maps = Maps()

    def update(self, changed):
        planned = self.table_.update(changed)
        self.maps.carry_out(planned, self.table_.names)
        self.assertEqual(self.maps.addresses, self.table_.rows)
        self.assertEqual(set(self.maps.ranges), self.table_.ranges)
        led_to = {row.backends for row in self.table_.rows.values()
                  if row.count}
        self.assertEqual(led_to, self.table_.sets)
        self.assertEqual(
            {(row.backends, index) for row in self.table_.rows.values()
             for index in range(row.count)}, set(self.maps.backends))
        return planned

    def content(self):
        return {key: self.maps.leads_to(key) for key in self.maps.addresses}


def service(name, targets, number=1, port=80, protocol=TCP, affinity=0,
            **more):
    """A service with backends (address, port), all of node-b."""
    return model.Service(
        'n1', name, strategies.CREATED[0], ('172.30.0.%d' % number,),
        ports=(model.Port('', protocol, port, backends=tuple(
            model.Backend(*target, 'node-b') for target in targets)),),
        affinity=affinity, **more)


def many(name, count, number=1, **more):
    return service(name, [('10.%d.%d.1' % (number, n), 80)
                          for n in range(count)], number, **more)


def rows(data, count):
    """States of a cluster, one after the other."""
    where = data.draw(strategies.places())
    return [test_services.listed(sum(data.draw(strategies.clusters(where)),
                                     [])).services for _time in range(count)]


def changes(former, wanted):
    return {name: wanted.get(name) for name in {*former, *wanted}
            if former.get(name) != wanted.get(name)}


class TestAnyPlan(PlanCase):

    @strategies.SETTINGS
    @hypothesis.given(st.data())
    def test_every_write(self, data):
        self.table()
        former = {}
        for wanted in [*rows(data, data.draw(st.integers(1, 4))), {}]:
            planned = self.update(changes(former, wanted))
            winners = test_services.winners(wanted)
            self.assertEqual({key: item.targets
                              for key, item in winners.items()},
                             self.content())
            for key, item in winners.items():
                row = self.table_.rows[key]
                self.assertEqual(item.affinity, row.affinity)
                owner = self.table_.owner(key)
                self.assertEqual(owner, self.table_.names[row.service])
                self.assertIn(item, list(frontends.frontends(
                    wanted[owner], NODE, ZONE)) + list(frontends.outside(
                        wanted[owner], NODE, ZONE)))
                for client in strategies.CLIENTS if key.scope else ():
                    self.assertEqual(self._let_in(item, wanted[owner], client),
                                     self.maps.answer(key, client))
            self._left(planned, former, wanted)
            self.assertEqual({}, self.table_.refused)
            former = wanted
        empty = vars(plan.Table(NODE, ZONE, None, outside=True))
        self.assertEqual(
            {name: value for name, value in empty.items()
             if name != '_allocate'},
            {name: value for name, value in vars(self.table_).items()
             if name != '_allocate'})

    def _let_in(self, item, of, client):
        if item.group.restricted and not any(
                ipaddress.ip_address(client) in ipaddress.ip_network(text)
                for text in of.source_ranges):
            return oracle.SILENCE
        return item.targets or (oracle.SILENCE if item.silent else ())

    def _left(self, planned, former, wanted):
        """What is forgotten was there; flows are said to be lost."""
        names = dict(self.table_.names)
        for number, address, port in planned.forget:
            for row_key, row in self.table_.rows.items():
                if row.service == number:
                    self.assertNotIn(
                        (address, port), {target[:2] for target in
                                          self.maps.leads_to(row_key)}
                        if names[number] in wanted else ())
        before = test_services.winners(former)
        now = test_services.winners(wanted)
        lost = [key for key, item in before.items() if key.protocol == UDP
                and not item.alive <= (
                    now[key].alive if key in now else frozenset())]
        self.assertEqual(bool(lost), planned.lost)
        for key, item in now.items():
            for backend in item.alive:
                self.assertTrue(self.table_.alive(*key[:3], backend))
        for key in lost:
            others = {backend for other, item in now.items()
                      if other[:3] == key[:3] for backend in item.alive}
            for backend in before[key].alive:
                self.assertIs(backend in others,
                              self.table_.alive(*key[:3], backend))

    @strategies.SETTINGS
    @hypothesis.given(st.data(), st.integers(0, 12), st.integers(0, 8),
                      st.integers(0, 8))
    def test_little_room(self, data, addresses, backends, ranges):
        limits = plan.Limits(addresses, backends, ranges)
        self.table(limits)
        former = {}
        states = rows(data, data.draw(st.integers(1, 4)))
        for wanted in [*states, states[-1], states[-1]]:
            self.update(changes(former, wanted))
            self.assertLessEqual(len(self.maps.addresses), addresses)
            self.assertLessEqual(len(self.maps.backends), backends)
            self.assertLessEqual(len(self.maps.ranges), ranges)
            winners = test_services.winners(wanted)
            content = self.content()
            self.assertLessEqual(set(content), set(winners))
            wrong = {self.table_.owner(key) for key, item in winners.items()
                     if content.get(key) != item.targets
                     or item.group.restricted
                     and self.table_.rows[key].service
                     not in {number for number, _ in self.maps.ranges}}
            # Nobody is told so in vain, and nobody fails to be told.
            self.assertEqual(wrong, set(self.table_.refused))
            # Refused, not led astray.
            for key in winners:
                self.assertIn(content.get(key, ()),
                              ((), winners[key].targets))
                for client in strategies.CLIENTS if key.scope else ():
                    self.assertIn(self.maps.answer(key, client), (
                        None, (), self._let_in(winners[key], wanted[
                            self.table_.owner(key)], client)))
            former = wanted
        # What remains refused could not be had by trying again.
        self.assertEqual(self.content(), content)


class TestTable(PlanCase):

    def setUp(self):
        super().setUp()
        self.table()

    def test_equal_sets_are_one(self):
        planned = self.update({name: service(name, [('10.0.0.1', 80)], number)
                               for name, number in (('a', 1), ('b', 2))})
        self.assertEqual(1, len(planned.backends))
        self.assertEqual((), self.update({'a': None}).unused)
        self.assertEqual(1, len(self.update({'b': None}).unused))

    def test_only_what_is_different(self):
        self.update({name: many(name, 5, number)
                     for name, number in (('a', 1), ('b', 2))})
        planned = self.update({'a': many('a', 6, 1), 'b': many('b', 5, 2)})
        self.assertEqual({KEY}, set(planned.addresses))
        self.assertEqual(6, len(planned.backends))
        self.assertEqual(1, len(planned.unused))

    def test_ports_before_what_refuses_others(self):
        self.table()
        planned = self.update({'n1/a': service('a', [('10.0.0.1', 80)])})
        self.assertEqual([80, 0], [key.port for key in planned.addresses])
        self.assertEqual((0, 80), tuple(
            key.port for key in self.update({'n1/a': None}).gone))

    def test_an_old_one_keeps_its_address(self):
        mine = many('mine', 1, 1)
        thief = many('thief', 1, 2, external=(VIP,))
        old = '2020-01-01T00:00:00Z'
        for thief in (thief, dataclasses.replace(thief, created=old)):
            self.update({'mine': mine, 'thief': thief})
            self.assertEqual('mine', self.table_.owner(KEY))
            self.assertEqual(
                {'thief': '172.30.0.1:80 is taken by the service mine'},
                self.table_.conflicts())
        self.update({'mine': None})
        self.assertEqual('thief', self.table_.owner(KEY))
        self.assertEqual({}, self.table_.conflicts())

    def test_numbers_are_taken_over(self):
        def again(*known):
            found = plan.Table(NODE, ZONE, itertools.count(50).__next__,
                               known=dict(known))
            found.update(wanted)
            return [found.rows[key].service for key in keys]

        wanted = {'n1/a': service('a', [('10.0.0.1', 80)],
                                  external=('198.51.100.1',)),
                  'n1/b': service('b', [('10.0.0.2', 80)], 2,
                                  external=('198.51.100.1',))}
        mine, theirs, both = keys = (
            KEY, frontends.Key('172.30.0.2', 80, TCP),
            frontends.Key('198.51.100.1', 80, TCP))
        # The address that both want was n1/a's.
        self.assertEqual([7, 8, 7], again((mine, 7), (theirs, 8)))
        self.assertEqual(7, again((mine, 7))[0])
        for found in (again((mine, 7), (theirs, 8), (both, 7)),
                      again((mine, 7), (theirs, 7)),
                      again((both, 7)), again()):
            self.assertTrue({7, 8}.isdisjoint(found), found)

    def test_affinity_is_of_one_port(self):
        backends = (model.Backend('10.0.0.1', 8080),)
        secure = (model.Backend('10.0.0.1', 8443),)
        self.update({'a': model.Service(
            'n1', 'a', '', (VIP, 'fd30::1'), ('198.51.100.1',), (
                model.Port('http', TCP, 80, 30080, backends),
                model.Port('https', TCP, 443, 0, secure)), 100, True)})
        found = {}
        for key, row in self.table_.rows.items():
            found.setdefault(row.service, set()).add(key[:2])
        # Another port is served elsewhere; so is what has to stay here.
        self.assertEqual([
            {('0.0.0.0', 30080), ('198.51.100.1', 80), ('::', 30080)},
            {('172.30.0.1', 0), ('fd30::1', 0)},
            {('172.30.0.1', 80), ('fd30::1', 80)},
            {('172.30.0.1', 443), ('fd30::1', 443)},
            {('198.51.100.1', 443)}], sorted(found.values(), key=sorted))
        self.assertEqual({'a'}, set(self.table_.names.values()))

    def test_affinity_is_forgotten(self):
        for affinity, forgotten in ((0, 0), (100, 1)):
            self.update({'a': many('a', 3, affinity=affinity)})
            number = self.table_.rows[KEY].service
            planned = self.update({'a': many('a', 2, affinity=affinity)})
            self.assertEqual([(number, '10.1.2.1', 80)][:forgotten],
                             sorted(planned.forget))
        # Another pod has the address.
        self.update({'a': service('a', [('10.1.0.1', 80)], affinity=100)})
        planned = self.update({'a': model.Service('n1', 'a', '', (VIP,), (), (
            model.Port('', TCP, 80, 0, (
                model.Backend('10.1.0.1', 80, mac='02:00:00:00:00:01'),)),),
            100)})
        self.assertEqual({(number, '10.1.0.1', 80)}, planned.forget)

    def test_a_new_address_waits_until_clients_have_forgotten(self):
        def late(backend, affinity=100, **more):
            return {key.address for key in self.update({'a': service(
                'a', [(backend, 80)], affinity=affinity, **more)}).late}

        more = {'external': ('198.51.100.1',)}
        late('10.0.0.1')
        self.assertEqual({'198.51.100.1'}, late('10.0.0.2', **more))
        late('10.0.0.2')
        # Nobody has to forget anything, or could have anything.
        self.assertEqual(set(), late('10.0.0.2', **more))
        late('10.0.0.2', 0)
        self.assertEqual(set(), late('10.0.0.3', 0, **more))

    def test_a_new_address_after_a_restart(self):
        new = frontends.Key('198.51.100.1', 80, TCP)
        for affinity, late in ((0, set()), (100, {new})):
            again = plan.Table(NODE, ZONE, itertools.count(50).__next__,
                               known={KEY: 7})
            planned = again.update({'n1/a': service(
                'a', [('10.0.0.1', 80)], affinity=affinity,
                external=('198.51.100.1',))})
            self.assertEqual(late, set(planned.late))
            self.assertEqual(7, again.rows[new].service)

    def test_what_drains_keeps_its_flows(self):
        drains = model.Backend('10.0.0.1', 53, draining=True)
        ready = model.Backend('10.0.0.2', 53)
        gone = model.Backend('10.0.0.3', 53)

        def having(*backends):
            return model.Service('n1', 'a', '', (VIP,), ('198.51.100.1',), (
                model.Port('', UDP, 53, 30053, backends),))

        self.update({'a': having(ready, gone, dataclasses.replace(
            drains, draining=False))})
        self.assertTrue(self.update({'a': having(drains, ready)}).lost)
        for asked in ((VIP, 53), ('198.51.100.1', 53), ('192.0.2.1', 30053)):
            for backend, alive in ((drains, True), (ready, True),
                                   (gone, False)):
                self.assertIs(alive, self.table_.alive(
                    *asked, UDP, (backend.address, 53)))
        self.assertFalse(self.update({'a': having(
            drains, ready, gone)}).lost)
        self.assertTrue(self.update({'a': None}).lost)
        self.assertFalse(self.table_.alive(VIP, 53, UDP, ('10.0.0.2', 53)))


class TestOutside(PlanCase):

    EXTERNAL = frontends.Key('198.51.100.1', 80, TCP, frontends.OUTSIDE)

    def restricted(self, *ranges, **more):
        return model.Service('n1', 'a', '', (VIP,), ('198.51.100.1',), (
            model.Port('', TCP, 80, 30080, (
                model.Backend('10.0.0.1', 80, 'node-b'),)),),
            source_ranges=ranges, **more)

    def test_only_if_told(self):
        self.table(outside=False)
        self.update({'a': self.restricted('203.0.113.0/24')})
        self.assertEqual({frontends.INSIDE},
                         {key.scope for key in self.table_.rows})
        self.assertEqual({}, self.maps.ranges)

    def test_who_may_ask(self):
        self.table()
        any_node = frontends.Key('0.0.0.0', 30080, TCP, frontends.OUTSIDE)
        for ranges, client, allowed in (
                (('203.0.113.0/24',), '203.0.113.7', True),
                (('203.0.113.0/24',), '198.18.0.1', False),
                (('203.0.113.0/24', '203.0.113.200/32'), '203.0.113.7', True),
                (('203.0.113.200/32',), '203.0.113.7', False),
                (('0.0.0.0/0', '203.0.113.200/32'), '198.18.0.1', True),
                # Of another family is not let in by this one.
                (('::/0',), '203.0.113.7', False),
                ((), '203.0.113.7', False)):
            self.update({'a': self.restricted(*ranges)})
            self.assertIs(allowed, self.maps.answer(
                self.EXTERNAL, client) != oracle.SILENCE, ranges)
            # As with kube-proxy, they are not about ports of nodes.
            self.assertNotEqual(oracle.SILENCE,
                                self.maps.answer(any_node, client))
        self.update({'a': dataclasses.replace(self.restricted(),
                                              source_ranges=None)})
        self.assertEqual({}, self.maps.ranges)

    def test_local(self):
        self.table()
        for backends, answer in (
                (('node-b',), oracle.SILENCE), ((), ()),
                ((NODE, 'node-b'), ('10.0.0.0',))):
            port = model.Port('', TCP, 80, 0, tuple(
                model.Backend('10.0.0.%d' % number, 80, node)
                for number, node in enumerate(backends)))
            self.update({'a': model.Service(
                'n1', 'a', '', (VIP,), ('198.51.100.1',), (port,),
                external_local=True)})
            found = self.maps.answer(self.EXTERNAL, '203.0.113.7')
            if found != oracle.SILENCE:
                found = tuple(target.address for target in found)
            self.assertEqual(answer, found)
            # What pods send takes the short way.
            self.assertEqual(len(backends), len(self.maps.leads_to(
                self.EXTERNAL._replace(scope=frontends.INSIDE))))


class TestLimits(PlanCase):

    def test_ranges_without_room(self):
        self.table(plan.Limits(ranges=3))
        key = TestOutside.EXTERNAL
        made = TestOutside.restricted
        self.update({'a': made(self, '203.0.113.0/24')})
        self.assertEqual({}, self.table_.refused)
        # No more than it may, and no more of what it might.
        self.update({'a': made(self, '198.18.0.0/16', '192.0.2.0/24')})
        self.assertEqual(['a'], list(self.table_.refused))
        self.assertEqual((), self.maps.leads_to(key))
        self.assertEqual({}, self.maps.ranges)
        self.update({'a': made(self, '198.18.0.0/16')})
        self.assertEqual({}, self.table_.refused)
        self.assertEqual(oracle.SILENCE,
                         self.maps.answer(key, '203.0.113.7'))
        self.assertEqual(1, len(self.maps.answer(key, '198.18.0.1')))

    def test_what_is_in_force_comes_first(self):
        for limits in (plan.Limits(addresses=2), plan.Limits(backends=3)):
            self.table(limits)
            self.update({'b': many('b', 1, 2)})
            self.update({'a': many('a', 2, 1), 'b': many('b', 2, 2)})
            self.assertEqual({'a'}, set(self.table_.refused))
            self.assertEqual(2, len(self.maps.leads_to(OTHER)))

    def test_told_until_there_is_room(self):
        self.table(plan.Limits(backends=4))
        self.update({'a': many('a', 3, 1), 'b': many('b', 2, 2)})
        for changed in ({}, {'c': many('c', 1, 3)}, {}):
            self.update(changed)
            self.assertEqual(
                {'b': 'the node has no room for more services: %d addresses, '
                 '%d backends, 0 source ranges' % (
                     len(self.maps.addresses), len(self.maps.backends))},
                self.table_.refused)
            self.assertEqual((), self.maps.leads_to(OTHER))
        self.update({'a': None})
        self.update({})
        self.assertEqual({}, self.table_.refused)
        self.assertEqual(2, len(self.maps.leads_to(OTHER)))

    def test_refused_and_gone(self):
        self.table(plan.Limits(backends=1))
        self.update({'a': many('a', 3, 1)})
        self.update({'a': None})
        self.assertEqual({}, self.table_.refused)
        self.assertEqual({}, self.content())

    def test_counts(self):
        self.assertEqual(
            {'services': 2, 'ports': 2, 'backends': 5},
            plan.counts([many('a', 2), many('b', 3)]))
