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

"""The local API and the CLI over a real socket."""

import io
import json
import pathlib
import stat
import threading

import fixtures

from kuryr_cilium.agent import api
from kuryr_cilium.agent import sockets
from kuryr_cilium.cli import client
from kuryr_cilium.cli import shell
from kuryr_cilium import exceptions
from kuryr_cilium.monitor import events
from tests import base
from tests.unit.monitor import test_events


class TestAPI(base.TestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'run' / 'api.sock'
        self.ring = events.Ring(100)
        self.server = api.APIServer(str(self.path), {
            '/v1/status': lambda: {'ready': True},
            '/v1/fault': lambda: 1 / 0}, self.ring)
        self.server.start()
        self.addCleanup(self.server.stop)
        self.addCleanup(self.ring.close)
        self.names = events.Names()
        self.names.update(test_events.VIEW)
        self.client = client.AgentClient(str(self.path))

    def add(self, **kwargs):
        return self.ring.add(lambda seq: events.name(
            seq, test_events.event(**kwargs), self.names))

    def monitor(self, *args):
        output = io.StringIO()
        app = shell.Shell('1', stdout=output)
        code = app.run(['--socket', str(self.path), 'monitor', *args])
        self.assertEqual(0, code)
        return output.getvalue().splitlines()

    def test_only_root_connects(self):
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def test_answers(self):
        self.assertEqual({'ready': True}, self.client.get('/v1/status'))
        self.assertTrue(self.server.is_alive())

    def test_refusals(self):
        error = self.assertRaises(exceptions.AgentRefused, self.client.get,
                                  '/v1/nothing')
        self.assertIn('/v1/events', str(error))
        error = self.assertRaises(exceptions.AgentRefused, self.client.get,
                                  '/v1/fault')
        self.assertIn('ZeroDivisionError', str(error))
        self.assertRaises(exceptions.AgentRefused, self.client.get,
                          '/v1/events?since=x')

    def test_events(self):
        self.add()
        self.add(verdict='allow')
        self.add(direction='egress')
        self.assertEqual([1, 2, 3],
                         [e['seq'] for e in self.client.events()])
        self.assertEqual([2, 3],
                         [e['seq'] for e in self.client.events(since=1)])
        self.assertEqual([1, 3], [
            e['seq'] for e in self.client.events(verdict='drop')])

    def test_follow(self):
        self.add()
        seen = []
        thread = threading.Thread(target=lambda: seen.extend(
            e['seq'] for e in self.client.events(follow=True)))
        thread.start()
        base.wait_until(lambda: seen == [1])
        self.add()
        base.wait_until(lambda: seen == [1, 2])
        self.ring.close()
        thread.join(5)
        self.assertFalse(thread.is_alive())

    def test_monitor(self):
        self.add()
        self.add(verdict='allow', source='fd99::9', destination='fd99::3:7')
        self.assertEqual([
            '2023-11-14T22:13:20.250Z  drop  ingress TCP    default/peer '
            '10.99.0.9:40000 -> default/web 10.99.3.7:80  (POLICY)  '
            '[NetworkPolicy/default/landing]',
            '2023-11-14T22:13:20.250Z  allow ingress TCP    [fd99::9]:40000 '
            '-> default/web [fd99::3:7]:80  [NetworkPolicy/default/landing]',
        ], self.monitor())
        self.assertEqual(1, len(self.monitor('--drops')))
        self.assertEqual(1, len(self.monitor('--pod', 'default/peer')))
        self.assertEqual([2], [json.loads(line)['seq'] for line
                               in self.monitor('--since', '1', '-f', 'json')])

    def test_nobody_there(self):
        self.server.stop()
        error = self.assertRaises(exceptions.AgentUnreachable,
                                  self.client.get, '/v1/status')
        self.assertIn('Is kuryr-cilium-agent running on this node',
                      str(error))
        self.assertRaises(exceptions.AgentUnreachable,
                          list, self.client.events(follow=True))


class TestInstanceLock(base.TestCase):

    def test_one_agent_a_node(self):
        path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'run' / 'agent.lock'
        first, second = sockets.InstanceLock(path), sockets.InstanceLock(path)
        first.acquire(0)
        error = self.assertRaises(exceptions.AlreadyRunning, second.acquire,
                                  0.2)
        self.assertIn('[agent] run_dir', str(error))
        waiter = threading.Thread(target=second.acquire, args=(10,))
        waiter.start()
        first.release()
        waiter.join(10)
        self.assertFalse(waiter.is_alive())
        self.assertRaises(exceptions.AlreadyRunning, first.acquire, 0)
        second.release()
