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

"""Controllers and agents over a real RabbitMQ."""

import os
import subprocess
import sys
import tempfile
import time

from oslo_config import cfg
from oslo_messaging import conffixture

from kuryr_cilium.conf import rpc as rpc_conf
from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import client
from kuryr_cilium.rpc import server
from kuryr_cilium.rpc import sync
from kuryr_cilium.rpc import transport
from tests import base
from tests.functional.rpc import fixtures


def view_of(count):
    return {'selector:s%d' % number: model.Selector(
        's%d' % number, 'definition %d' % number, (
            model.Member('u%d' % number, ('10.0.0.1', 'fd00::1')),))
            for number in range(count)}


class Leader:
    """What a leader is told."""

    def __init__(self):
        self.told = []

    def released(self, ctxt, host, vifs):
        self.told.append((host, 'released', [vif['vif_id'] for vif in vifs]))

    def plugged(self, ctxt, host, vifs):
        self.told.append((host, 'plugged', vifs))


class RabbitTestCase(base.TestCase):
    """One broker for a class of tests."""

    nodes = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.rabbit = fixtures.RabbitMQ(cls.nodes)
        cls.rabbit.setUp()
        cls.addClassCleanup(cls.rabbit.cleanUp)

    def setUp(self):
        super().setUp()
        self.view = view_of(3)

    def conf(self, process, host, user='controller'):
        """The configuration of a process of its own."""
        conf = cfg.ConfigOpts()
        rpc_conf.register_opts(conf)
        self.useFixture(conffixture.ConfFixture(conf))
        transport.set_defaults(conf, process, host, tempfile.gettempdir())
        conf([], project='test')
        conf.set_override('transport_url', self.rabbit.url(user))
        conf.set_override('call_timeout', 5, group='rpc')
        return conf

    def started(self, end, listening=True):
        self.addCleanup(end.stop)
        end.start()
        if listening and isinstance(end, server._Server):
            base.wait_until(lambda: end.listening, 30, 'server listens')
        return end

    def controller(self, host='controller-0', **kwargs):
        conf = self.conf('kuryr-cilium-controller', host)
        return conf, self.started(server.ControllerServer(
            conf, sync.Pager(lambda node: (4, True, self.view), **kwargs)))

    def agent(self, host, user='controller', listening=True):
        conf = self.conf('kuryr-cilium-agent', host, user)
        hints = {}
        self.started(server.HintServer(
            conf, host, lambda epoch, found: hints.update(found)), listening)
        return hints, self.started(client.ControllerClient(conf)), \
            self.started(client.LeaderClient(conf))

    def synced(self, caller):
        """A sync, once it succeeds."""
        def attempt():
            try:
                return caller.sync_all('node-a', {})
            except exceptions.RPCFailed:
                return None
        return base.wait_until(attempt, 60, 'sync succeeds')


class WireTestCase(RabbitTestCase):

    def test_sync_in_pages_from_two_replicas(self):
        self.view = view_of(1200)
        self.controller('controller-0', page_objects=100)
        self.controller('controller-1', page_objects=100)
        _hints, caller, _leader = self.agent('node-a')
        result = caller.sync_all('node-a', {'selector:gone': 'x'})
        self.assertEqual((4, True, self.view, {'selector:gone'}), (
            result.epoch, result.synced, result.changed, result.removed))
        again = caller.sync_all('node-a', result.digests)
        self.assertEqual(({}, frozenset()), (again.changed, again.removed))

    def test_reports_reach_the_leader(self):
        leader = Leader()
        conf, _server = self.controller()
        leading = self.started(server.LeaderServer(conf, leader))
        _hints, _caller, reporter = self.agent('node-a')
        reporter.released('node-a', [{'vif_id': 'v1', 'pod_uid': 'u1'}])
        reporter.plugged('node-a', ['v3', 'v2'])
        told = [('node-a', 'released', ['v1']),
                ('node-a', 'plugged', ['v2', 'v3'])]
        self.assertEqual(told, leader.told)
        leading.stop()
        self.assertRaises(exceptions.RPCFailed, reporter.plugged, 'node-a',
                          ['late'])
        following = Leader()
        self.started(server.LeaderServer(conf, following))
        reporter.plugged('node-a', ['v4'])
        # A report that nobody took in time is not taken later: by then it
        # would be wrong.
        self.assertEqual([('node-a', 'plugged', ['v4'])], following.told)
        self.assertEqual(told, leader.told)

    def test_hints_to_one_and_to_all(self):
        conf, _server = self.controller()
        first, second = self.agent('node-a')[0], self.agent('node-b')[0]
        sender = self.started(client.HintSender(conf))
        sender.send('node-a', 4, {'endpoint:u1': 'd1'})
        sender.send('node-b', 4, {'endpoint:u2': 'd2'})
        sender.send(None, 4, {'selector:s1': 'd3', 'selector:s2': None})
        base.wait_until(lambda: (first, second) == (
            {'endpoint:u1': 'd1', 'selector:s1': 'd3', 'selector:s2': None},
            {'endpoint:u2': 'd2', 'selector:s1': 'd3', 'selector:s2': None}),
            10, lambda: (first, second))


class OutageTestCase(RabbitTestCase):

    def test_restart(self):
        conf, _server = self.controller()
        hints, caller, _leader = self.agent('node-a')
        sender = self.started(client.HintSender(conf))
        self.assertEqual(self.view, self.synced(caller).changed)

        for wipe in (False, True):
            self.rabbit.stop()
            began = time.monotonic()
            self.assertRaises(exceptions.RPCFailed, caller.sync_all,
                              'node-a', {})
            self.assertLess(time.monotonic() - began, 8)
            sender.send('node-a', 4, {'endpoint:%s' % wipe: 'd'})
            if wipe:
                self.rabbit.wipe()
            self.rabbit.start()
            self.assertEqual(self.view, self.synced(caller).changed)
            if not wipe:
                # NOTE: with its queue gone, a hint may go to nobody.
                base.wait_until(lambda: 'endpoint:False' in hints, 60,
                                'the hint of the outage arrives')

        def hinted():
            sender.send('node-a', 4, {'endpoint:after': 'd'})
            sender.send(None, 4, {'selector:after': 'd'})
            return {'endpoint:after', 'selector:after'} <= hints.keys()
        base.wait_until(hinted, 60, 'hints arrive again', 0.5)

    def test_start_before_rabbitmq(self):
        self.rabbit.stop()
        conf = self.conf('kuryr-cilium-controller', 'controller-0')
        began = time.monotonic()
        answering = self.started(server.ControllerServer(
            conf, sync.Pager(lambda node: (4, True, self.view))), False)
        hints, caller, _leader = self.agent('node-a', listening=False)
        self.assertLess(time.monotonic() - began, 1)
        self.assertFalse(answering.listening)
        self.rabbit.start()
        self.assertEqual(self.view, self.synced(caller).changed)
        sender = self.started(client.HintSender(conf))

        def hinted():
            sender.send(None, 4, {'selector:s': 'd'})
            return hints
        base.wait_until(hinted, 60, 'hints arrive', 0.5)

    def test_stop_without_rabbitmq(self):
        conf, _server = self.controller()
        _hints, caller, reporter = self.agent('node-a')
        sender = self.started(client.HintSender(conf))
        self.synced(caller)
        self.rabbit.stop()
        self.addCleanup(self.rabbit.start)
        sender.send('node-a', 4, {'endpoint:u': 'd'})
        self.assertRaises(exceptions.RPCFailed, caller.sync_all, 'node-a',
                          {})
        for end in (_server, caller, reporter, sender):
            began = time.monotonic()
            end.stop()
            self.assertLess(time.monotonic() - began, 4, end)

    def test_a_process_ends_without_rabbitmq(self):
        self.rabbit.stop()
        self.addCleanup(self.rabbit.start)
        program = (
            'import sys\n'
            'from oslo_config import cfg\n'
            'from kuryr_cilium import exceptions\n'
            'from kuryr_cilium.conf import rpc\n'
            'from kuryr_cilium.rpc import client, server, transport\n'
            'conf = cfg.CONF\n'
            'if not hasattr(conf, "rpc"): rpc.register_opts(conf)\n'
            'transport.set_defaults(conf, "p", "h", "/tmp")\n'
            'conf(["--config-file", sys.argv[1]], project="test")\n'
            'conf.set_override("call_timeout", 1.0, group="rpc")\n'
            'ends = [client.ControllerClient(conf), client.HintSender(conf),'
            ' server.HintServer(conf, "h", print)]\n'
            'for end in ends: end.start()\n'
            'ends[1].send(None, 1, {"selector:s": "d"})\n'
            'try: ends[0].sync_all("h", {})\n'
            'except exceptions.RPCFailed: print("failed")\n'
            'for end in ends: end.stop()\n')
        path = self.create_tempfiles([(
            'rpc', '[DEFAULT]\ntransport_url = %s\n' % self.rabbit.url())])[0]
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', program, path],
            timeout=30, capture_output=True, text=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
        self.assertEqual((0, 'failed\n'), (done.returncode, done.stdout),
                         done.stderr)


class PermissionsTestCase(RabbitTestCase):

    nodes = ('node-a', 'node-b')

    def test_a_node_can_do_its_work(self):
        conf, _server = self.controller()
        leader = Leader()
        self.started(server.LeaderServer(conf, leader))
        hints, caller, reporter = self.agent('node-a', user='node-a')
        self.assertEqual(self.view, caller.sync_all('node-a', {}).changed)
        reporter.plugged('node-a', ['v1'])
        self.assertEqual([('node-a', 'plugged', ['v1'])], leader.told)
        sender = self.started(client.HintSender(conf))
        sender.send('node-a', 4, {'endpoint:u1': 'd1'})
        sender.send(None, 4, {'selector:s1': 'd3'})
        base.wait_until(lambda: len(hints) == 2, 10, lambda: hints)

    def test_a_node_cannot_do_others(self):
        self.controller()
        self.agent('node-b', user='node-b')
        conf = self.conf('kuryr-cilium-agent', 'node-a', 'node-a')
        sender = self.started(client.HintSender(conf))
        heard, _caller, _reporter = self.agent('node-b', user='node-b')
        sender.send('node-b', 4, {'endpoint:u1': 'forged'})
        as_node_b = server.HintServer(conf, 'node-b', print)
        as_leader = server.LeaderServer(conf, Leader())
        as_controller = server.ControllerServer(conf, sync.Pager(None))
        for forged in (as_node_b, as_leader, as_controller):
            self.started(forged, listening=False)
        # Whatever is refused above is refused before this is done.
        honest, caller, _leader = self.agent('node-a', user='node-a')
        self.synced(caller)
        self.assertEqual([False] * 3, [
            forged.listening for forged in (as_node_b, as_leader,
                                            as_controller)])
        self.assertNotIn('endpoint:u1', heard)
