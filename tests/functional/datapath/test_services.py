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

"""Services in real maps: what is written, and what goes."""

from unittest import mock

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium import exceptions
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.functional.datapath import test_programs_services as programs

A, PEER, OTHER = bench.A, bench.PEER, bench.OTHER
VIP, SECOND, SELF = programs.VIP, programs.SECOND, programs.SELF
SYN, SYN_ACK, ACK, HALF = (programs.SYN, programs.SYN_ACK, programs.ACK,
                           programs.HALF)
NODE_PORTS = (30000, 32767)
#: Numbers of the networks of backends.
NETWORKS = {'net': bench.NETWORK, 'other': bench.NETWORK + 1}
MACS = {PEER[4]: '02:00:00:00:07:01', OTHER[4]: '02:00:00:00:07:02'}


def service(*targets, name='a', vip=VIP[4], port=80, protocol=p.UDP, **more):
    """A service with backends: (address, port) and what a Backend takes."""
    backends = tuple(model.Backend(*target) if type(target) is tuple
                     else target for target in targets)
    return model.Service('n1', name, '', (vip,), ports=(
        model.Port('', protocol, port, backends=backends),), **more)


def many(count, number=1, **more):
    return service(*(('10.%d.%d.1' % (number, n), 80) for n in range(count)),
                   **more)


class ServicesCase(bench.Case):

    sizes = None
    outside = False

    def setUp(self):
        super().setUp()
        if self.sizes:
            self.bench = self.useFixture(bench.Bench(self.sizes))
        self.maps = maps_.Maps(self.bench.maps)
        self.begin()

    def begin(self):
        """As a process does that has just started."""
        self.services = services.Services(
            self.maps, writer.Writer(self.maps), NETWORKS.get,
            (SELF[4], SELF[6]), NODE_PORTS, self.outside)

    def update(self, *wanted, zone='', nodes=()):
        return self.services.update({item.id: item for item in wanted},
                                    model.Node('node-a', zone),
                                    frozenset(nodes))

    def rows(self, table):
        return {bytes(key): bytes(value) for key, value in libbpf.map_items(
            self.bench.fd(table))}

    def addresses(self):
        """(address, port, protocol) -> row."""
        return {service_rows.SvcKey.unpack(key)[1:]:
                service_rows.Svc.unpack(value)
                for key, value in self.rows('kc_svc').items()}

    def sets(self):
        """Number of a set -> its backends by index, without number 0."""
        found = {}
        for key, value in self.rows('kc_backend').items():
            key = service_rows.BackendKey.unpack(key)
            if key.backends:
                found.setdefault(key.backends, {})[key.index] = (
                    service_rows.Backend.unpack(value))
        return found

    def assertInForce(self, *wanted):
        """These services and nothing else; each has one port."""
        rows, sets = self.addresses(), self.sets()
        self.assertEqual({key for item in wanted for key in (
            (item.addresses[0], 0, 0), (
                item.addresses[0], item.ports[0].port,
                item.ports[0].protocol))}, set(rows))
        led_to = set()
        for item in wanted:
            row = rows[(item.addresses[0], item.ports[0].port,
                        item.ports[0].protocol)]
            self.assertEqual(
                [backend.address for backend in item.ports[0].backends],
                [sets[row.backends][index].address
                 for index in range(row.count)])
            led_to.add(row.backends)
        self.assertEqual(led_to, set(sets))
        self.assertEqual(
            {4: SELF[4], 6: SELF[6]},
            {key.index: service_rows.Backend.unpack(value).address
             for key, value in
             ((service_rows.BackendKey.unpack(key), value) for key, value
              in self.rows('kc_backend').items()) if not key.backends})

    def sweep(self):
        return conntrack.sweep(self.maps, lambda number: True,
                               lost=self.services.lost())

    def flow(self, vip, sport, protocol=p.UDP, port=80):
        """Open a flow to a service, and answer; who is the backend."""
        self.assertOut(bench.REDIRECT, programs.l4(
            A.v4, vip, protocol, sport, port))
        found = p.Parsed(self.bench.frame)
        self.assertInto(bench.REDIRECT, programs.l4(
            found.flow[1], A.v4, protocol, found.flow[3], sport, SYN_ACK))
        self.assertEqual(vip, p.Parsed(self.bench.frame).flow[0])
        self.goes_on(vip, sport, protocol, port)
        return found.flow[1]

    def goes_on(self, vip, sport, protocol=p.UDP, port=80):
        """Who gets the next packet of a flow."""
        self.assertOut(bench.REDIRECT, programs.l4(
            A.v4, vip, protocol, sport, port, ACK))
        return p.Parsed(self.bench.frame).flow[1]


class TestUpdate(ServicesCase):

    def test_addresses_of_nodes(self):
        def known():
            return {key[0] for key in self.addresses() if key[2] == 255}
        self.update(nodes=('192.0.2.1', 'fd51::1'))
        self.assertEqual({'192.0.2.1', 'fd51::1'}, known())
        self.update(nodes=('192.0.2.1', '192.0.2.2'))
        self.assertEqual({'192.0.2.1', '192.0.2.2'}, known())
        self.begin()
        self.update(nodes=('192.0.2.3',))
        self.assertEqual({'192.0.2.3'}, known())

    def test_what_is_written(self):
        backend = model.Backend(PEER[4], 8080, mac=MACS[PEER[4]],
                                network_id='other')
        self.assertEqual({}, self.update(service(
            backend, (OTHER[4], 80), affinity=30)))
        self.assertInForce(service(backend, (OTHER[4], 80)))
        row = self.addresses()[VIP[4], 80, p.UDP]
        self.assertEqual((2, 30), (row.count, row.affinity))
        self.assertEqual('n1/a', self.services.name(row.number))
        self.assertEqual('', self.services.name(99999))
        self.assertEqual({
            0: service_rows.Backend(PEER[4], 8080, MACS[PEER[4]],
                                    NETWORKS['other']),
            1: service_rows.Backend(OTHER[4], 80, None, 0)},
            self.sets()[row.backends])
        self.assertEqual(30000 << 16 | 32767,
                         self.maps.meta(layout.Meta.NODE_PORTS))

    def test_an_address_that_two_want(self):
        self.assertEqual({}, self.services.conflicts())
        self.update(many(1), many(1, 2, name='b'))
        self.assertEqual(['n1/b'], list(self.services.conflicts()))

    def test_only_what_is_different(self):
        wanted = [many(5, n, name='s%d' % n, vip='172.30.0.%d' % n)
                  for n in range(1, 30)]
        self.update(*wanted)
        before = {table: self.rows(table) for table in ('kc_svc',
                                                        'kc_backend')}
        wanted[7] = many(6, 8, name='s8', vip='172.30.0.8')
        with mock.patch.object(libbpf, 'map_update_batch',
                               wraps=libbpf.map_update_batch) as update, \
                mock.patch.object(libbpf, 'map_delete_batch',
                                  wraps=libbpf.map_delete_batch) as delete:
            self.update(*wanted)
            self.assertEqual([6, 1], [call.args[3]
                                      for call in update.call_args_list])
            self.assertEqual([5], [call.args[2]
                                   for call in delete.call_args_list])
            self.update(*wanted)
            self.assertEqual((2, 1), (update.call_count, delete.call_count))
        self.assertInForce(*wanted)
        for table, count in (('kc_svc', 1), ('kc_backend', 6)):
            now = self.rows(table)
            self.assertEqual(count, len(now.items() - before[table].items()))

    def test_all_go(self):
        self.update(many(3))
        self.update()
        self.assertInForce()

    def test_another_zone(self):
        def of(zone, address):
            return model.Backend(address, 80, zones=(zone,))
        wanted = service(of('x', PEER[4]), of('y', OTHER[4]))
        for zone, address in (('x', PEER[4]), ('y', OTHER[4])):
            self.update(wanted, zone=zone)
            self.assertInForce(service((address, 80)))

    def test_another_process(self):
        self.update(many(5), many(3, 2, name='b', vip=SECOND[4]))
        former = set(self.sets())
        numbers = {row.number for row in self.addresses().values()}
        self.begin()
        self.assertIsNone(self.services.table)
        self.assertEqual('', self.services.name(min(numbers)))
        wanted = many(4), many(2, 3, name='c', vip='172.30.0.12')
        self.update(*wanted)
        self.assertInForce(*wanted)
        # Numbers that a packet might still have are never used again.
        self.assertGreater(min(self.sets()), max(former | numbers))
        # Without any services, too.
        self.begin()
        self.update()
        self.assertInForce()

    def test_flows_of_an_earlier_process(self):
        self.update(service((PEER[4], 53)))
        self.flow(VIP[4], 4000)
        self.begin()
        self.update(service((PEER[4], 53)))
        self.sweep()
        self.assertEqual(PEER[4], self.goes_on(VIP[4], 4000))
        self.begin()
        self.update(service((OTHER[4], 53)))
        self.sweep()
        self.assertEqual(OTHER[4], self.goes_on(VIP[4], 4000))


class TestOutside(ServicesCase):

    sizes = {'kc_source': 16}
    outside = True
    EXTERNAL = '198.51.100.1'

    def external(self, *ranges, local=False, number=1):
        return service(
            (PEER[4], 80), name='s%d' % number, vip='172.30.0.%d' % number,
            external=('198.51.100.%d' % number,), external_local=local,
            source_ranges=ranges)

    def outside_rows(self):
        return {service_rows.SvcKey.unpack(key)[1:3]:
                service_rows.Svc.unpack(value)
                for key, value in self.rows('kc_svc').items()
                if service_rows.SvcKey.unpack(key).scope == frontends.OUTSIDE}

    def ranges(self):
        """Number of a service -> who may ask it."""
        found = {}
        for key, value in self.rows('kc_source').items():
            key = service_rows.SourceKey.unpack(key)
            found.setdefault(key.service, {})[key.network] = (
                layout.U32.unpack(value)[0])
        return found

    def test_what_is_written(self):
        self.assertEqual({}, self.update(self.external(
            '203.0.113.0/24', 'fd77::/64')))
        rows = self.outside_rows()
        self.assertEqual([(self.EXTERNAL, 80)], list(rows))
        row = rows[self.EXTERNAL, 80]
        self.assertEqual(PEER[4], self.sets()[row.backends][0].address)
        self.assertEqual({row.number: {
            '0.0.0.0/0': 0, '::/0': 0, '203.0.113.0/24': 1,
            'fd77::/64': 1}}, self.ranges())
        # As the longest prefix that the kernel finds.
        for client, allowed in (('203.0.113.7', 1), ('203.0.114.7', 0),
                                ('fd77::7', 1), ('fd78::7', 0)):
            length = 32 if '.' in client else 128
            self.assertEqual(allowed, layout.U32.unpack(libbpf.map_lookup(
                self.bench.fd('kc_source'), service_rows.SourceKey(
                    row.number, '%s/%d' % (client, length)).pack()))[0])

    def test_others_may_ask(self):
        self.update(self.external('203.0.113.0/24'))
        number = self.outside_rows()[self.EXTERNAL, 80].number
        self.update(self.external('0.0.0.0/0', '198.18.0.0/15'))
        self.assertEqual({number: {'0.0.0.0/0': 1, '::/0': 0,
                                   '198.18.0.0/15': 1}}, self.ranges())
        self.update(service((PEER[4], 80), name='s1',
                            external=(self.EXTERNAL,)))
        self.assertEqual({}, self.ranges())
        self.assertNotEqual(number, self.outside_rows()[
            self.EXTERNAL, 80].number)
        self.update()
        self.assertEqual({}, self.outside_rows())

    def test_in_which_order(self):
        """Nobody is led to what is not whole, nor asked by what is not."""
        names = {self.bench.fd(table): table for table in (
            'kc_svc', 'kc_backend', 'kc_source')}
        done = []

        def watch(method):
            real = getattr(libbpf, method)

            def call(fd, *args):
                done.append((method.split('_')[1], names[fd]))
                return real(fd, *args)
            return mock.patch.object(libbpf, method, call)

        self.update(self.external('203.0.113.0/24'))
        with watch('map_update_batch'), watch('map_delete_batch'):
            self.update(self.external('198.18.0.0/15', number=2))
        self.assertEqual([
            ('update', 'kc_source'), ('update', 'kc_svc'),
            ('delete', 'kc_svc'), ('delete', 'kc_source')], done)

    def test_silence(self):
        self.update(self.external(local=True))
        row = self.outside_rows()[self.EXTERNAL, 80]
        self.assertEqual((0xffffffff, 0), (row.backends, row.count))

    def test_another_process(self):
        self.update(self.external('203.0.113.0/24'),
                    self.external('203.0.113.0/24', number=2))
        self.begin()
        self.update(self.external('198.18.0.0/15'))
        self.assertEqual([{'0.0.0.0/0': 0, '::/0': 0, '198.18.0.0/15': 1}],
                         list(self.ranges().values()))

    def test_full(self):
        wanted = self.external(*('10.0.%d.0/24' % n for n in range(5)))
        self.update(wanted)
        for _time in range(3):
            self.assertRaises(
                exceptions.DatapathError, self.update, wanted, self.external(
                    *('10.1.%d.0/24' % n for n in range(12)), number=2))
            # Nobody is let in who was not before.
            rows = self.outside_rows()
            self.assertEqual([(self.EXTERNAL, 80)], list(rows))
            self.assertEqual(7, len(self.ranges()[
                rows[self.EXTERNAL, 80].number]))
        self.update(self.external('203.0.113.0/24'))
        self.assertEqual([3], list(map(len, self.ranges().values())))


class TestFull(ServicesCase):

    sizes = {'kc_backend': 64, 'kc_svc': 16}

    def test_and_the_next_call_begins_anew(self):
        wanted = many(30)
        self.update(wanted)
        for _time in range(3):
            # Room for two, not for three, generations.
            self.assertRaises(exceptions.DatapathError, self.update,
                              many(40, 2), many(3, 3, name='b',
                                                vip=SECOND[4]))
            self.assertIsNone(self.services.table)
            # What was in force is.
            row = self.addresses()[VIP[4], 80, p.UDP]
            self.assertEqual(30, len(self.sets()[row.backends]))
            self.assertIn(self.goes_on(VIP[4], 4000),
                          {b.address for b in wanted.ports[0].backends})
        self.update(many(30, 4))
        self.assertInForce(many(30, 4))

    def test_addresses(self):
        self.update(many(1))
        wanted = [many(1, n, name='s%d' % n, vip='172.30.1.%d' % n)
                  for n in range(10)]
        error = self.assertRaises(exceptions.DatapathError, self.update,
                                  *wanted)
        self.assertIn('map kc_svc could not be written', str(error))
        self.update(*wanted[:3])
        self.assertInForce(*wanted[:3])


class TestSweep(ServicesCase):

    def entries(self, protocol=p.UDP):
        """Entries by whether they are aliases."""
        found = [entry for table in ('kc_ct', HALF) for key, entry
                 in self.bench.connections(table=table).items()
                 if key.protocol == protocol]
        return sorted(bool(entry.flags & layout.CtFlag.ALIAS)
                      for entry in found)

    def test_an_alias_lives_as_long_as_its_connection(self):
        self.update(service((PEER[4], 53)))
        self.flow(VIP[4], 4000)
        self.bench.age(100)
        self.sweep()
        self.assertEqual([False, True], self.entries())
        main = layout.CtKey(A.number, p.UDP, 0, 4000, 53, PEER[4])
        libbpf.map_delete(self.bench.fd('kc_ct'), main.pack())
        self.bench.age(20)
        self.sweep()
        self.assertEqual([True], self.entries())
        self.bench.age(31)
        self.sweep()
        self.assertEqual([], self.entries())

    def test_a_lost_backend(self):
        tcp = service((PEER[4], 80), name='tcp', protocol=p.TCP,
                      vip='172.30.0.12')
        keeps = service((PEER[4], 53), name='keeps', vip=SECOND[4])
        self.update(service((PEER[4], 53)), keeps, tcp)
        self.flow(VIP[4], 4000)
        self.flow(SECOND[4], 4001)
        self.flow('172.30.0.12', 4002, p.TCP)
        self.assertOut(bench.REDIRECT, programs.l4(A.v4, PEER[4], p.UDP,
                                                   4003, 53))
        self.sweep()
        self.assertIsNone(self.services.lost())
        self.update(service((OTHER[4], 53)), keeps,
                    service((OTHER[4], 80), name='tcp', protocol=p.TCP,
                            vip='172.30.0.12'))
        # It is known to be gone, the sweep is still to come.
        self.assertEqual(PEER[4], self.goes_on(VIP[4], 4000))
        self.assertEqual(1, self.sweep().removed)
        self.assertEqual(OTHER[4], self.goes_on(VIP[4], 4000))
        # Of another service, of TCP, and of none.
        self.assertEqual(PEER[4], self.goes_on(SECOND[4], 4001))
        self.assertEqual(PEER[4], self.goes_on('172.30.0.12', 4002, p.TCP))
        self.assertIn(layout.CtKey(A.number, p.UDP, 0, 4003, 53, PEER[4]),
                      self.bench.connections(table=HALF))
        self.assertEqual(0, self.sweep().removed)

    def test_a_lost_backend_of_a_busy_flow(self):
        """It changes between the moments when it is read and deleted."""
        self.update(service((PEER[4], 53)))
        self.flow(VIP[4], 4000)

        def lost(*_flow):
            self.goes_on(VIP[4], 4000)
            return True
        self.assertEqual(1, conntrack.sweep(
            self.maps, lambda number: True, lost=lost).removed)

    def test_what_drains_keeps_its_flows(self):
        self.update(service((PEER[4], 53)))
        self.flow(VIP[4], 4000)
        drains = model.Backend(PEER[4], 53, draining=True)
        self.update(service(drains, (OTHER[4], 53)))
        self.sweep()
        self.assertEqual(PEER[4], self.goes_on(VIP[4], 4000))
        self.assertEqual(OTHER[4], self.flow(VIP[4], 4001))
        self.update(service((OTHER[4], 53)))
        self.sweep()
        self.assertEqual(OTHER[4], self.goes_on(VIP[4], 4000))

    def test_a_service_that_is_gone(self):
        self.update(service((PEER[4], 53)))
        self.flow(VIP[4], 4000)
        self.update()
        self.sweep()
        self.assertEqual(VIP[4], self.goes_on(VIP[4], 4000))

    def test_a_pod_that_reaches_itself(self):
        self.update(service((A.v4, 53)), service((PEER[4], 53), name='b',
                                                 vip=SECOND[4]))
        self.assertOut(bench.REDIRECT, programs.l4(A.v4, VIP[4], p.UDP,
                                                   4000, 80))
        self.update(service((A.v4, 53)), service((OTHER[4], 53), name='b',
                                                 vip=SECOND[4]))
        self.assertEqual(0, self.sweep().removed)
        self.assertOut(bench.REDIRECT, programs.l4(A.v4, SELF[4], p.UDP, 53,
                                                   4000))
        self.assertEqual(VIP[4], p.Parsed(self.bench.frame).flow[0])


class TestAffinity(ServicesCase):

    def test_a_lost_backend_is_forgotten(self):
        both = (PEER[4], 53), (OTHER[4], 53)
        keeps = service((PEER[4], 53), name='keeps', vip=SECOND[4],
                        affinity=100)
        self.update(service(*both, affinity=100), keeps)
        first = self.flow(VIP[4], 4000)
        self.flow(SECOND[4], 4001)
        self.assertEqual(2, len(self.rows('kc_affinity')))
        second, = {PEER[4], OTHER[4]} - {first}
        # At once: no sweep is needed.
        self.update(service((second, 53), affinity=100), keeps)
        self.assertEqual(1, len(self.rows('kc_affinity')))
        self.assertEqual(second, self.flow(VIP[4], 4002))
        # When the first one comes back, clients stay where they are.
        self.update(service(*both, affinity=100), keeps)
        for sport in range(4003, 4020):
            self.assertEqual(second, self.flow(VIP[4], sport))

    def test_it_outlives_the_agent(self):
        both = (PEER[4], 53), (OTHER[4], 53)
        self.update(service(*both, affinity=100))
        first = self.flow(VIP[4], 4000)
        second, = {PEER[4], OTHER[4]} - {first}
        self.begin()
        self.update(service(*both, affinity=100),
                    service(*both, name='b', vip=SECOND[4], affinity=100))
        for sport in range(4001, 4020):
            self.assertEqual(first, self.flow(VIP[4], sport))
        # What was lost while the agent was away is forgotten.
        self.begin()
        self.update(service((second, 53), affinity=100))
        self.assertEqual({}, self.rows('kc_affinity'))
        self.assertEqual(second, self.flow(VIP[4], 4030))
        # A MAC address may have changed, too.
        self.bench.age_affinity(200)
        for mac in ('02:00:00:00:07:01', '02:00:00:00:07:02'):
            self.begin()
            self.update(service(model.Backend(
                second, 53, mac=mac, network_id='net'), affinity=100))
            self.assertOut(bench.REDIRECT, programs.l4(
                A.v4, VIP[4], p.UDP, int(mac[-2:]) + 5000, 80))
            self.assertEqual(mac, p.Parsed(self.bench.frame).dmac)

    def test_on_the_link_and_beyond(self):
        near = model.Backend(PEER[4], 53, mac=MACS[PEER[4]],
                             network_id='net')
        far = model.Backend(OTHER[4], 53, mac=MACS[OTHER[4]],
                            network_id='other')
        for affinity in (0, 100):
            for backend, mac in ((near, MACS[PEER[4]]),
                                 (far, bench.ROUTER_MAC)):
                self.update(service(backend, affinity=affinity))
                self.sweep()
                for sport in range(4000, 4003):
                    self.flow(VIP[4], sport + affinity)
                    self.assertOut(bench.REDIRECT, programs.l4(
                        A.v4, VIP[4], p.UDP, sport + affinity, 80))
                    self.assertEqual(mac, p.Parsed(self.bench.frame).dmac)

    def test_one_on_the_link_that_is_taken(self):
        near = model.Backend(PEER[4], 53, mac=MACS[PEER[4]],
                             network_id='net')
        far = model.Backend(OTHER[4], 53, mac=MACS[OTHER[4]],
                            network_id='other')
        self.update(service(near, name='b', vip=SECOND[4]),
                    service(near, far))
        for sport in range(4000, 4020):
            self.flow(SECOND[4], sport)
            self.assertOut(bench.REDIRECT, programs.l4(A.v4, VIP[4], p.UDP,
                                                       sport, 80))
            found = p.Parsed(self.bench.frame)
            self.assertEqual((OTHER[4], bench.ROUTER_MAC),
                             (found.flow[1], found.dmac))
