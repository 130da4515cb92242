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

import threading
import time

from oslo_config import cfg
import oslo_messaging
from oslo_messaging import conffixture

from kuryr_cilium.conf import rpc as rpc_conf
from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import client
from kuryr_cilium.rpc import server
from kuryr_cilium.rpc import sync
from kuryr_cilium.rpc import transport
from tests import base


class WorkerTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.worker = transport.Worker('worker')
        self.addCleanup(self.worker.stop)

    def test_returns_and_raises(self):
        self.worker.start()
        self.assertEqual(3, self.worker.run(lambda wanted: 3, 10))
        self.assertRaises(ZeroDivisionError, self.worker.run,
                          lambda wanted: 1 / 0, 10)
        self.assertTrue(self.worker.run(lambda wanted: wanted(), 10))

    def test_not_started(self):
        self.assertRaises(exceptions.Stopped, self.worker.run,
                          lambda wanted: None, 1)

    def test_what_nobody_waits_for_is_not_done(self):
        self.worker.start()
        gate, seen = threading.Event(), []
        self.addCleanup(gate.set)

        def blocked(wanted):
            gate.wait()
            seen.append(wanted())

        self.assertRaises(TimeoutError, self.worker.run, blocked, 0.01)
        self.assertRaises(TimeoutError, self.worker.run,
                          lambda wanted: seen.append('done'), 0.01)
        gate.set()
        self.assertEqual(1, self.worker.run(lambda wanted: 1, 10))
        self.assertEqual([False], seen)

    def test_stop_frees_who_waits(self):
        self.patch(transport, 'STOP_TIMEOUT', 0.05)
        self.worker.start()
        gate, last = threading.Event(), threading.Event()
        failures = []

        def wait(function):
            try:
                self.worker.run(function, 60)
            except exceptions.Stopped as error:
                failures.append(error)

        callers = [threading.Thread(target=wait, args=(function,))
                   for function in (lambda wanted: gate.wait(),
                                    lambda wanted: None)]
        callers[0].start()
        base.wait_until(lambda: self.worker._current is not None)
        callers[1].start()
        base.wait_until(lambda: self.worker._jobs)
        began = time.monotonic()
        self.worker.stop(last.set)
        for caller in callers:
            caller.join(5)
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(2, len(failures))
        gate.set()
        self.assertTrue(last.wait(5))


class FakeTransportTestCase(base.TestCase):
    """Both ends in one process, over oslo.messaging's fake driver."""

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        rpc_conf.register_opts(self.conf)
        fixture = self.useFixture(conffixture.ConfFixture(self.conf))
        fixture.transport_url = 'fake://'
        transport.set_defaults(self.conf, 'test', 'host', '/tmp')
        self.conf([], project='test')
        self.conf.set_override('call_timeout', 2, group='rpc')

    def started(self, end):
        self.addCleanup(end.stop)
        end.start()
        if isinstance(end, server._Server):
            base.wait_until(lambda: end.listening)
        return end

    def test_defaults_leave_the_operator_his_choice(self):
        conf = cfg.ConfigOpts()
        path = self.create_tempfiles([('some', (
            '[oslo_messaging_rabbit]\nrabbit_stream_fanout = false\n'
            'hostname = mine\n'))])[0]
        conf(['--config-file', path], project='test')
        transport.set_defaults(conf, 'process', 'host', '/tmp')
        group = conf.oslo_messaging_rabbit
        self.assertEqual((False, 'mine', 'process', True), (
            group.rabbit_stream_fanout, group.hostname, group.processname,
            group.rabbit_quorum_queue))

    def test_sync(self):
        view = {'selector:s%d' % n: model.Selector('s%d' % n, 'd')
                for n in range(10)}
        hosts = []
        self.started(server.ControllerServer(self.conf, sync.Pager(
            lambda host: hosts.append(host) or (7, True, view),
            page_objects=3)))
        caller = self.started(client.ControllerClient(self.conf))
        result = caller.sync_all('node-a', {'selector:gone': 'x'})
        self.assertEqual((7, True, view, {'selector:gone'}), (
            result.epoch, result.synced, result.changed, result.removed))
        self.assertEqual(['node-a'] * 4, hosts)
        self.assertEqual({}, caller.sync_all('node-a',
                                             result.digests).changed)

    def test_nobody_answers(self):
        self.conf.set_override('call_timeout', 1, group='rpc')
        caller = self.started(client.LeaderClient(self.conf))
        error = self.assertRaises(exceptions.RPCFailed, caller.plugged,
                                  'node-a', [])
        self.assertIn('kuryr-cilium-leader', str(error))

    def test_what_the_other_side_raises(self):
        self.started(server.ControllerServer(self.conf, sync.Pager(
            lambda host: 1 / 0)))
        caller = self.started(client.ControllerClient(self.conf))
        error = self.assertRaises(exceptions.RPCFailed, caller.sync_all,
                                  'node-a', {})
        self.assertIn('division', str(error))

    def test_reports_to_the_leader(self):
        class Leader:
            taken = []

            def released(self, ctxt, host, vifs):
                self.taken.append(('released', host, vifs))

            def plugged(self, ctxt, host, vifs):
                self.taken.append(('plugged', host, vifs))

        listening = self.started(server.LeaderServer(self.conf, Leader()))
        caller = self.started(client.LeaderClient(self.conf))
        caller.released('node-a', [{'vif_id': 'v', 'pod_uid': 'u'}])
        caller.plugged('node-a', {'v2', 'v1'})
        self.assertEqual([
            ('released', 'node-a', [{'vif_id': 'v', 'pod_uid': 'u'}]),
            ('plugged', 'node-a', ['v1', 'v2'])], Leader.taken)
        listening._stop.set()
        endpoint = listening._endpoint
        self.assertRaises(oslo_messaging.ExpectedException,
                          endpoint.plugged, {}, 'node-a', [])
        self.assertEqual(2, len(Leader.taken))

    def test_hints(self):
        heard = {'node-a': {}, 'node-b': {}}
        for host, mine in heard.items():
            self.started(server.HintServer(
                self.conf, host,
                lambda epoch, found, mine=mine: mine.update(found)))
        sender = self.started(client.HintSender(self.conf))
        sender.send('node-a', 3, {'endpoint:u': 'd1'})
        sender.send('node-a', 3, {'endpoint:u': 'd2', 'ruleset:r': None})
        sender.send(None, 3, {'selector:s': 'd3'})
        base.wait_until(lambda: heard == {
            'node-a': {'endpoint:u': 'd2', 'ruleset:r': None,
                       'selector:s': 'd3'},
            'node-b': {'selector:s': 'd3'}}, message=lambda: heard)

    def test_hints_are_gathered_after_the_first(self):
        self.conf.set_override('hint_delay', 1.0, group='rpc')
        heard = []
        for host in 'node-a', 'node-b':
            self.started(server.HintServer(
                self.conf, host,
                lambda *hint, host=host: heard.append((host, *hint))))
        sender = self.started(client.HintSender(self.conf))
        sender.send('node-a', 1, {'endpoint:first': 'd'})
        base.wait_until(lambda: heard)
        for number in range(50):
            sender.send('node-a', number, {'endpoint:%d' % number: 'd'})
        # Nobody waits for another node's hints.
        sender.send('node-b', 49, {'endpoint:b': 'd'})
        base.wait_until(lambda: len(heard) == 3)
        self.assertEqual(['node-a', 'node-b', 'node-a'],
                         [host for host, _epoch, _objects in heard])
        self.assertEqual((49, 50), (heard[2][1], len(heard[2][2])))
