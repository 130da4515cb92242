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

"""Plugging pods into the real datapath: what passes, and when."""

import os
import shutil
import subprocess

from kuryr_cilium import exceptions
from tests.functional.agent import plug_process
from tests.functional.agent import test_plug
from tests.functional.binding import fixtures


class BPFCase(test_plug.PlugCase):

    kind = 'bpf'

    def setUp(self):
        self._in_force = None
        super().setUp()

    def new_agent(self):
        if self.plugger is None:
            self.mount()
        return super().new_agent()

    def mount(self):
        """A BPF file system of the test's own."""
        path = os.path.dirname(plug_process.pin_dir(self.folder))
        if not os.path.ismount(path):
            os.makedirs(path)
            fixtures.run('mount', '-t', 'bpf', 'bpf', path)
            self.addCleanup(fixtures.run, 'umount', path)

    def bring_in_force(self):
        if self._in_force is not self.plugger:
            self._in_force = self.plugger
            self.plugger._datapath.apply(plug_process.view(self.vif))
            self.plugger.resume()

    def pinned(self):
        folder = plug_process.pin_dir(self.folder) + '/links'
        found = os.listdir(folder) if os.path.isdir(folder) else []
        if self.plugger is None:
            return found
        return found + list(self.plugger._datapath._maps.interfaces())

    def assertActive(self):
        self.assertEqual({self.vif.id},
                         set(self.plugger._datapath.attachments()))

    def assertClean(self):
        # Entries of links that no process had adopted go with a sweep.
        self.bring_in_force()
        self.plugger._datapath.sweep()
        super().assertClean()

    def flood(self):
        """A process that pings the pod 50 times a second until SIGINT."""
        process = subprocess.Popen(
            ['ping', '-q', '-i', '0.02', '10.99.3.7'],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for_packets(self):
        """Until the host has sent ten more to its pod."""
        def sent():
            return fixtures.counters(self.links.kc)['tx']['packets']

        wanted = sent() + 10
        self.assertEventually(lambda: sent() >= wanted)

    def lost(self, process):
        process.send_signal(2)
        line, = [line for line in process.communicate()[0].splitlines()
                 if 'packet loss' in line]
        sent, received = [int(part.split()[0])
                          for part in line.split(', ')[:2]]
        self.assertGreater(received, 10)
        return sent - received


class TestPlug(BPFCase):

    def test_node_reaches_its_pod(self):
        self.add()
        self.assertPlugged()
        self.switch.stop('ovs-vswitchd')
        fixtures.run('ip', 'neighbour', 'flush', 'all', netns=self.pod)
        self.assertTrue(self.ping())

    def test_nothing_passes_before_the_end(self):
        self.plugger._views.error = exceptions.EndpointNotInView(reason='x')
        self.assertRaises(exceptions.EndpointNotInView, self.add)
        for address in ('10.99.3.7', 'fd99::3:7'):
            self.assertFalse(self.ping(address=address))
        self.assertNotEqual('0', self.switch.vsctl(
            'get', 'Interface', self.links.tap, 'ofport'))
        fixtures.run('ping', '-c', '3', '-i', '0.2', '-W', '1', '10.99.0.1',
                     netns=self.pod, check=False)
        self.assertEqual('0', self.switch.vsctl(
            'get', 'Interface', self.links.tap, 'statistics:rx_packets'))

    def test_restart_loses_no_packet(self):
        self.add()
        flood = self.flood()
        for _ in range(3):
            self.wait_for_packets()
            self.plugger = self.new_agent()
            self.assertEqual([], self.plugger.sweep(starting=True))
            self.bring_in_force()
            self.plugger._datapath.sweep()
        self.wait_for_packets()
        self.assertEqual(0, self.lost(flood))
        self.assertPlugged()

    def test_programs_lost(self):
        self.add()
        folder = plug_process.pin_dir(self.folder)
        self.plugger._datapath.stop()
        shutil.rmtree(folder)
        self.plugger = None
        self.plugger = self.new_agent()
        self.assertEqual([], self.plugger.sweep(starting=True))
        self.assertFalse(self.ping(address='10.99.3.7'))
        self.bring_in_force()
        self.assertPlugged()

    def test_delete(self):
        self.add()
        for _ in range(2):
            self.plugger.delete('c1', 'eth0')
            self.assertClean()


class TestDeath(test_plug.Deaths, BPFCase):
    """kill -9 at each step, with the real datapath."""
