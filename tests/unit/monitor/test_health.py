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

import urllib.error
import urllib.request

import prometheus_client

from kuryr_cilium.monitor import health
from tests import base

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TestHealthServer(base.TestCase):

    def setUp(self):
        super().setUp()
        self.problem = None
        self.dead = None
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.Counter('seen', 'Seen.', registry=registry).inc()
        self.server = health.HealthServer(
            '127.0.0.1:0', {'neutron': lambda: self.problem},
            lambda: self.dead, registry)
        self.server.start()
        self.addCleanup(self.server.stop)

    def get(self, path):
        url = 'http://127.0.0.1:%d%s' % (self.server.port, path)
        try:
            with _OPENER.open(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def test_metrics(self):
        status, text = self.get('/metrics')
        self.assertEqual(200, status)
        self.assertIn('seen_total 1.0', text)

    def test_dependency_down_is_not_ready_but_alive(self):
        self.assertEqual((200, 'ok\n'), self.get('/readyz'))
        self.problem = 'no answer'
        self.assertEqual((503, 'neutron: no answer\n'), self.get('/readyz'))
        self.assertEqual((200, 'ok\n'), self.get('/healthz'))

    def test_dead_is_not_healthy(self):
        self.dead = 'thread x died'
        self.assertEqual((503, 'thread x died\n'), self.get('/healthz'))

    def test_failing_check_is_a_problem(self):
        self.server._checks['bad'] = lambda: 1 / 0
        status, text = self.get('/readyz')
        self.assertEqual(503, status)
        self.assertIn('bad: the check failed', text)

    def test_query_and_unknown_path(self):
        self.assertEqual(200, self.get('/healthz?verbose')[0])
        self.assertEqual(404, self.get('/')[0])


class TestParseAddress(base.TestCase):

    def test_addresses(self):
        for text, expected in (('127.0.0.1:9802', ('127.0.0.1', 9802)),
                               (':9802', ('', 9802)),
                               ('[::1]:1', ('::1', 1))):
            self.assertEqual(expected, health.parse_address(text))

    def test_refused(self):
        for text in ('', '9802', 'a:b', '::1:9', 'h:70000'):
            self.assertRaises(ValueError, health.parse_address, text)
