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

"""The ports where load balancers ask, with real sockets of both families."""

import dataclasses
import http.client
import json
import socket

import fixtures

from kuryr_cilium.agent import healthports
from kuryr_cilium.lb import model
from tests import base

LOOPBACK = {4: '127.0.0.1', 6: '::1'}


def free_port():
    """One that nobody has, of either family."""
    with socket.socket(socket.AF_INET6) as found:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(('::', 0))
        return found.getsockname()[1]


def backend(address, node='node-a', **more):
    return model.Backend(address, 80, node, **more)


class TestHealthPorts(base.TestCase):

    def setUp(self):
        super().setUp()
        self.ports = healthports.HealthPorts('node-a')
        self.ports.start()
        self.addCleanup(self.ports.stop)
        self.port = free_port()

    def service(self, *backends, name='web', port=None, versions=(4, 6)):
        addresses = {4: '172.30.0.1', 6: 'fd30::1'}
        return model.Service(
            'shop', name, '', tuple(addresses[v] for v in versions),
            ports=(model.Port('http', 6, 80, 0, backends),
                   model.Port('more', 6, 81, 0, tuple(
                       dataclasses.replace(item, port=81)
                       for item in backends))),
            external_local=True, health_port=port or self.port)

    def serve(self, *services, refused={}):
        self.ports.update({item.id: item for item in services}, refused)

    def ask(self, version=4, port=None, method='GET'):
        """(status, headers, body), None if nobody answers."""
        connection = http.client.HTTPConnection(
            LOOPBACK[version], port or self.port, timeout=10)
        try:
            connection.request(method, '/')
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        except ConnectionError:
            return None
        finally:
            connection.close()

    def await_answer(self, **question):
        return base.wait_until(lambda: self.ask(**question), 10)

    def await_silence(self, **question):
        base.wait_until(lambda: self.ask(**question) is None, 10)

    def test_an_answer(self):
        self.serve(self.service(backend('10.0.0.1'), backend('10.0.0.2'),
                                backend('10.0.0.3', 'node-b'),
                                backend('10.0.0.4', draining=True),
                                backend('fd00::1')))
        for version, count in ((4, 2), (6, 1)):
            status, headers, body = self.await_answer(version=version)
            self.assertEqual(200, status)
            self.assertEqual(
                ('application/json', 'nosniff', str(count)),
                (headers['Content-Type'], headers['X-Content-Type-Options'],
                 headers['X-Load-Balancing-Endpoint-Weight']))
            self.assertEqual({
                'service': {'namespace': 'shop', 'name': 'web'},
                'localEndpoints': count, 'serviceProxyHealthy': True},
                json.loads(body))
        status, headers, body = self.ask(method='HEAD')
        self.assertEqual((200, '2', b''), (
            status, headers['X-Load-Balancing-Endpoint-Weight'], body))

    def test_what_follows_changes(self):
        here, there = backend('10.0.0.1'), backend('10.0.0.1', 'node-b')
        drains = backend('10.0.0.1', draining=True)
        for item, status in ((here, 200), (there, 503), (here, 200),
                             (drains, 503)):
            self.serve(self.service(item))
            self.assertEqual(status, self.await_answer()[0])
        self.serve(self.service(here), refused={'shop/web': 'no room'})
        self.assertEqual(503, self.ask()[0])
        self.serve(self.service(here))
        self.ports.fail()
        status, _, body = self.ask()
        self.assertEqual((503, False), (
            status, json.loads(body)['serviceProxyHealthy']))
        other = free_port()
        self.serve(self.service(here, port=other))
        self.assertEqual(200, self.await_answer(port=other)[0])
        self.await_silence()
        self.serve()
        self.await_silence(port=other)

    def test_families_of_the_service_only(self):
        for versions, absent in (((4,), 6), ((6,), 4)):
            self.serve(self.service(versions=versions))
            self.await_answer(version=versions[0])
            self.await_silence(version=absent)

    def test_no_port(self):
        self.serve(dataclasses.replace(self.service(), health_port=0))
        self.assertIsNone(self.ask())
        self.assertEqual({}, self.ports.problems())

    def test_a_port_that_is_taken(self):
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.healthports.RETRY', 0.05))
        with socket.socket() as taken:
            taken.bind(('0.0.0.0', self.port))
            taken.listen()
            self.serve(self.service(backend('10.0.0.1')))
            base.wait_until(lambda: self.ports.problems() == {
                'shop/web': 'health check port %d of IPv4: Address already '
                'in use' % self.port}, 10)
            self.await_answer(version=6)
        self.assertEqual(200, self.await_answer()[0])
        self.assertEqual({}, self.ports.problems())

    def test_more_clients_than_it_has_room_for(self):
        self.serve(self.service(backend('10.0.0.1')))
        self.await_answer()
        idle = []
        for _number in range(healthports.CLIENTS):
            idle.append(socket.create_connection(('127.0.0.1', self.port)))
            self.addCleanup(idle[-1].close)
        with socket.create_connection(('127.0.0.1', self.port)) as more:
            more.settimeout(10)
            self.assertEqual(b'', more.recv(1))
        for connection in idle:
            connection.close()
        self.assertEqual(200, self.await_answer()[0])

    def test_stops_and_starts(self):
        self.serve(self.service(backend('10.0.0.1')))
        self.await_answer()
        self.ports.stop()
        self.assertIsNone(self.ask())
        self.assertFalse(self.ports.is_alive())
        self.ports.start()
        self.assertEqual(200, self.await_answer()[0])
