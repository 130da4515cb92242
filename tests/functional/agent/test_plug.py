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

"""Plugging pods: real namespaces, real Open vSwitch, real deaths.

The datapath is a stand-in that minds the order; ovn-controller is played.
"""

from concurrent import futures
import json
import os
import signal
import subprocess
import sys
import time

import fixtures as upstream

from kuryr_cilium.agent import store
from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from kuryr_cilium import vif as kc_vif
from tests import base
from tests.functional.agent import plug_process
from tests.functional.binding import fixtures
from tests.unit.binding import vifs

ADD_POINTS = ('record', 'links', 'attach', 'plug', 'pod', 'host', 'view',
              'wired', 'activate', 'ready')
DELETE_POINTS = ('del-unplug', 'del-detach', 'del-record')


class PlugCase(base.TestCase):

    kind = 'fake'

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.Node())
        fixtures.run('ip', 'link', 'add', 'up0', 'type', 'bridge')
        fixtures.run('ip', 'link', 'set', 'up0', 'up')
        for address in ('192.0.2.10/24', 'fd01::10/64'):
            fixtures.run('ip', 'address', 'add', address, 'dev', 'up0',
                         *(['nodad'] if ':' in address else []))
        self.switch = self.useFixture(fixtures.OpenVSwitch())
        self.ovn = self.useFixture(fixtures.Controller(self.switch))
        self.pod = self.useFixture(fixtures.Namespace())
        self.folder = self.useFixture(upstream.TempDir()).path
        self.vif = vifs.make()
        self.plugger = None
        self.before = self.seen()
        self.plugger = self.new_agent()
        self.links = self.plugger._binding.links(self.vif)

    def new_agent(self):
        """An agent that has started, in place of the one there was."""
        if self.plugger is not None:
            self.plugger._datapath.stop()
        made = plug_process.plugger(self.kind, self.folder,
                                    self.switch.remote)
        self.addCleanup(made._binding.close)
        self.addCleanup(made._datapath.stop)
        return made

    def bring_in_force(self):
        """What an agent does with the view on disk."""

    def pinned(self):
        """What the datapath keeps beyond a process."""
        path = os.path.join(self.folder, 'datapath.json')
        if not os.path.exists(path):
            return {}
        with open(path) as file:
            return json.load(file)

    def request(self, container='c1', vif=None, netns=None, **fields):
        return plug_process.request(vif or self.vif,
                                    netns or self.pod.path, container,
                                    **fields)

    def add(self, *args, seconds=20, **kwargs):
        self.bring_in_force()
        return self.plugger.add(self.request(*args, **kwargs),
                                time.monotonic() + base.scaled(seconds))

    def ping(self, namespace=None, address=None):
        """From the host to the pod, by the host's route.

        The stand-in lets all pass, and what the pod answers comes in by kc.
        """
        addresses = (address,) if address else kc_vif.addresses(self.vif)
        return all(subprocess.run(
            ['ping', '-c', '1', '-W', '%d' % base.scaled(2), one],
            capture_output=True).returncode == 0 for one in addresses)

    def seen(self):
        """All that a pod leaves on its node."""
        with netlink.Netlink() as net:
            names = set(net.names()) - {
                'br-int', 'ovs-' + fixtures.DATAPATH}
        records = os.path.join(self.folder, 'endpoints')
        return {
            'links': names,
            'ports': self.switch.vsctl('list-ports', 'br-int').split(),
            'interfaces': self.switch.vsctl(
                '--bare', '--columns=name', 'find', 'Interface',
                'external_ids:iface-id!=""').split(),
            'routes': fixtures.run('ip', 'route') + fixtures.run(
                'ip', '-6', 'route'),
            'records': os.path.isdir(records) and os.listdir(records) or [],
            'pinned': self.pinned(),
        }

    def assertClean(self):
        self.assertEqual(self.before, self.seen())

    def assertActive(self):
        self.assertTrue(self.pinned()[self.vif.id][1])

    def assertPlugged(self, container='c1'):
        self.bring_in_force()
        self.plugger.check(container, 'eth0')
        self.assertTrue(self.ping())
        self.assertEqual([self.links.tap], self.switch.vsctl(
            'list-ports', 'br-int').split())
        self.assertActive()
        record, = self.plugger._store.list()
        self.assertEqual(('ready', container), (record.state,
                                                record.container_id))


class TestAdd(PlugCase):

    def test_add(self):
        layout = self.add()

        self.assertEqual('eth0', layout.ifname)
        self.assertEqual(self.links.kc, layout.host_link)
        self.assertPlugged()
        self.assertEqual([(plug_process.UID, self.vif.id)],
                         self.plugger._views.waited)
        self.assertEqual([self.vif.id], self.plugger.plugged())
        inside = fixtures.run('ip', 'route', netns=self.pod)
        self.assertIn('default via 10.99.0.1 dev eth0', inside)
        self.assertIn('192.0.2.10 dev eth0 proto static scope link', inside)
        self.assertIn('10.99.3.7 dev %s proto static scope link src 192.0.2.10'
                      % self.links.kc, fixtures.run('ip', 'route'))
        inside = fixtures.run('ip', '-6', 'route', netns=self.pod)
        self.assertIn('default via fd99:: dev eth0', inside)
        self.assertIn('fd01::10 dev eth0', inside)

    def test_without_asking_the_network(self):
        """Node and pod: with Open vSwitch dead and neighbours flushed."""
        self.add()
        self.switch.stop('ovs-vswitchd')
        fixtures.run('ip', 'neighbour', 'flush', 'all', netns=self.pod)
        self.assertTrue(self.ping())

    def test_twice(self):
        self.add()
        index = self._index()
        again = self.plugger.add(self.request(), time.monotonic() + 5)
        self.assertEqual(self.links.kc, again.host_link)
        self.assertEqual(index, self._index())

    def test_again_repairs(self):
        self.add()
        for harm in (['ip', 'link', 'del', self.links.kq],
                     ['ip', '-n', self.pod.name, 'address', 'flush', 'dev',
                      'eth0'],
                     ['ip', '-n', self.pod.name, 'route', 'del', 'default'],
                     ['ip', '-n', self.pod.name, 'neighbour', 'del',
                      '192.0.2.10', 'dev', 'eth0'],
                     ['ip', 'route', 'del', '10.99.3.7/32'],
                     ['ovs-vsctl', '--db=' + self.switch.remote, 'del-port',
                      self.links.tap]):
            fixtures.run(*harm)
            self.assertEventually(self._is_broken, message=harm)
            self.add()
            self.assertPlugged()

    def _is_broken(self):
        try:
            self.plugger.check('c1', 'eth0')
        except exceptions.PodNetworkBroken:
            return True
        return False

    def _index(self):
        with netlink.Netlink() as net:
            return net.require(self.links.kc).index

    def test_other_vif_for_the_same_container(self):
        self.add()
        other = vifs.make(mac='fa:16:3e:00:03:08')
        self.add(vif=other)
        record, = self.plugger._store.list()
        self.assertEqual(other.id, record.vif_id)
        self.assertEqual({self.plugger._binding.links(other)},
                         self.plugger._binding.found_links())

    def test_no_node_address_of_a_family(self):
        self.plugger._node_ips = ('192.0.2.10',)
        self.add()
        self.plugger.check('c1', 'eth0')
        self.assertTrue(self.ping(address='10.99.3.7'))
        self.assertNotIn(self.links.kc, fixtures.run('ip', '-6', 'route'))

    def test_not_wired(self):
        self.ovn.idle.set()
        error = self.assertRaises(
            exceptions.VIFNotWired, self.plugger.add, self.request(),
            time.monotonic() + 1)
        self.assertIn('neutron-openvswitch-agent', str(error))
        self.assertFalse(self.plugger._datapath.pinned()[self.vif.id][1])
        self.ovn.idle.clear()
        self.add()
        self.assertPlugged()

    def test_not_in_a_view(self):
        self.plugger._views.error = exceptions.EndpointNotInView(reason='x')
        self.assertRaises(exceptions.EndpointNotInView, self.add)
        self.assertFalse(self.plugger._datapath.pinned()[self.vif.id][1])
        self.assertIsNotNone(self.plugger.delete('c1', 'eth0'))
        self.assertClean()

    def test_many_at_once(self):
        requests = []
        for number in range(1, 13):
            address = '10.99.4.%d' % number
            requests.append(self.request(
                'c%d' % number, vifs.make(
                    mac='fa:16:3e:00:04:%02x' % number,
                    subnets=(('10.99.0.0/16', '10.99.0.1', (address,), ()),)),
                self.useFixture(fixtures.Namespace()).path))
        self.add()  # connects
        self.plugger.delete('c1', 'eth0')
        files = len(os.listdir('/proc/self/fd'))
        with futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda request: self.plugger.add(
                request, time.monotonic() + 60), requests))
            for request in requests:
                self.plugger.check(request.container_id, 'eth0')
            list(pool.map(lambda request: self.plugger.delete(
                request.container_id, 'eth0'), requests))
        self.assertClean()
        self.assertLessEqual(len(os.listdir('/proc/self/fd')), files)

    def test_add_and_delete_at_once(self):
        with futures.ThreadPoolExecutor(2) as pool:
            for _ in range(4):
                pending = pool.submit(self.add)
                pool.submit(self.plugger.delete, 'c1', 'eth0').result()
                pending.result()
        self.plugger.delete('c1', 'eth0')
        self.assertClean()

    def test_busy(self):
        with self.plugger._locks.hold(self.links.kc, 0):
            self.assertRaises(exceptions.PlugBusy, self.plugger.add,
                              self.request(), time.monotonic() + 0.1)

    def test_namespace_gone(self):
        self.pod.remove()
        self.assertRaises(exceptions.NetnsGone, self.add)
        self.plugger.delete('c1', 'eth0')
        self.assertClean()


class TestDelete(PlugCase):

    def test_twice(self):
        self.add()
        record = self.plugger.delete('c1', 'eth0')
        self.assertEqual((plug_process.UID, self.vif.id), (record.uid,
                                                           record.vif_id))
        self.assertClean()
        self.assertIsNone(self.plugger.delete('c1', 'eth0'))
        self.assertClean()

    def test_unknown(self):
        self.assertIsNone(self.plugger.delete('c9', 'eth0'))
        self.assertRaises(exceptions.CNIContainerUnknown, self.plugger.check,
                          'c9', 'eth0')

    def test_after_the_namespace(self):
        self.add()
        self.pod.remove()
        self.assertIsNotNone(self.plugger.delete('c1', 'eth0'))
        self.assertClean()

    def test_of_a_sandbox_that_was_replaced(self):
        self.add('old')
        new = self.useFixture(fixtures.Namespace())
        self.add('new', netns=new.path)

        self.assertIsNone(self.plugger.delete('old', 'eth0'))
        self.assertPlugged('new')
        self.assertIsNotNone(self.plugger.delete('new', 'eth0'))
        self.assertClean()

    def test_database_dead(self):
        self.add()
        self.plugger._binding._switch._timeout = 1
        self.switch.stop_database()
        self.assertRaises(exceptions.SwitchUnavailable, self.plugger.delete,
                          'c1', 'eth0')
        self.assertFalse(self.ping(address='10.99.3.7'))
        self.switch.start_database()
        self.plugger = self.new_agent()
        self.assertEventually(self._deleted, timeout=20)
        self.assertClean()

    def _deleted(self):
        try:
            return self.plugger.delete('c1', 'eth0')
        except exceptions.SwitchUnavailable:
            return False


class Deaths:
    """kill -9 at each step; then the same again, or its undoing.

    For a PlugCase: with the real datapath, see test_plug_bpf.
    """

    def die(self, command, point, container='c1'):
        process = subprocess.run(
            [sys.executable, '-m', 'tests.functional.agent.plug_process',
             self.kind, self.folder, self.switch.remote, command,
             json.dumps(kc_vif.dumps(self.vif)), self.pod.path, container],
            env=dict(os.environ, KURYR_CILIUM_FAULT_POINT=point),
            capture_output=True, text=True)
        self.assertEqual(-signal.SIGKILL, process.returncode,
                         process.stderr[-2000:])
        # The next agent; this one's connection to OVSDB may serve it.
        self.plugger = self.new_agent()

    def test_add_then_add(self):
        for point in ADD_POINTS:
            self.die('add', point)
            self.add()
            self.assertPlugged()
            self.plugger.delete('c1', 'eth0')
            self.assertClean()

    def test_add_then_delete(self):
        for point in ADD_POINTS:
            self.die('add', point)
            self.assertIsNotNone(self.plugger.delete('c1', 'eth0'), point)
            self.assertClean()

    def test_add_then_start(self):
        for point in ('links', 'plug', 'activate'):
            self.die('add', point)
            released = self.plugger.sweep(starting=True)
            self.assertEqual([self.vif.id], [r.vif_id for r in released])
            self.assertClean()
        self.die('add', 'ready')
        self.assertEqual([], self.plugger.sweep(starting=True))
        self.assertPlugged()

    def test_delete_then_delete(self):
        for point in DELETE_POINTS:
            self.add()
            self.die('del', point)
            self.plugger.delete('c1', 'eth0')
            self.assertClean()

    def test_delete_then_add(self):
        for point in DELETE_POINTS:
            self.add()
            self.die('del', point)
            self.add()
            self.assertPlugged()

    def test_replacement(self):
        self.add('old')
        new = self.useFixture(fixtures.Namespace())
        self.die('add', 'record', 'new')
        self.assertIsNone(self.plugger.delete('old', 'eth0'))
        self.add('new', netns=new.path)
        self.assertPlugged('new')


class TestSweep(PlugCase):

    def test_restart_takes_over(self):
        self.add()
        self.plugger = self.new_agent()
        self.assertEqual([], self.plugger.sweep(starting=True))
        self.assertEqual(0, self.plugger.resume())
        self.assertPlugged()

    def test_programs_lost(self):
        self.add()
        self.plugger = self.new_agent()
        self.plugger._datapath.lose()
        self.plugger._datapath.known = False
        self.assertEqual([], self.plugger.sweep(starting=True))
        self.assertFalse(self.plugger._datapath.pinned()[self.vif.id][1])
        self.assertEqual(1, self.plugger.resume())
        self.assertRaises(exceptions.PodNetworkBroken, self.plugger.check,
                          'c1', 'eth0')
        self.plugger._datapath.known = True
        self.assertEqual(0, self.plugger.resume())
        self.assertPlugged()

    def test_namespace_gone(self):
        self.add()
        self.pod.remove()
        released = self.plugger.sweep()
        self.assertEqual([self.vif.id], [r.vif_id for r in released])
        self.assertClean()

    def test_unfinished_is_left_to_its_request(self):
        self.ovn.idle.set()
        self.assertRaises(exceptions.VIFNotWired, self.plugger.add,
                          self.request(), time.monotonic() + 0.5)
        self.assertEqual([], self.plugger.sweep())
        self.assertEqual([self.vif.id], self.plugger.plugged())

    def test_busy_is_left_alone(self):
        self.add()
        self.pod.remove()
        with self.plugger._locks.hold(self.links.kc, 0):
            self.assertEqual([], self.plugger.sweep())
        self.assertEqual(1, len(self.plugger.sweep()))

    def test_store_lost(self):
        self.add()
        record, = self.plugger._store.list()
        store.Store(self.folder + '/endpoints').delete(record)
        self.plugger = self.new_agent()
        self.assertEqual([], self.plugger.sweep(starting=True))
        seen = self.seen()
        # What is pinned, the datapath's own sweep removes.
        del seen['pinned'], self.before['pinned']
        self.assertEqual(self.before, seen)
