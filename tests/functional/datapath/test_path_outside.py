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

"""Services as clients outside reach them, through the node's own stack."""

import contextlib
import errno
import socket

import fixtures

from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import outside
from tests.functional.datapath import paths
from tests.functional.datapath import scene

EXTERNAL, ANY = outside.EXTERNAL, outside.ANY
PORT, NODE_PORT = outside.PORT, outside.NODE_PORT


class Asked(scene.Place):
    """The client's view of an address of a service."""

    def __init__(self, v4, v6):
        super().__init__('', (v4, v6))


class PathOutsideCase(outside.OutsideCase):

    def setUp(self):
        super().setUp()
        self.external = Asked(EXTERNAL[4], EXTERNAL[6])
        #: Where the client asks: an external address, a node port.
        self.ways = ((self.external, PORT), (self.scene.node, NODE_PORT))
        #: Who may answer.
        self.places = (self.a, self.remote, self.scene.node)

    def serve_all(self, *places, **more):
        """Serve ports of some places at the external address and at nodes'."""
        for version in paths.FAMILIES:
            backends = [(place.address(version), 8080) for place in places]
            self.serve(EXTERNAL[version], PORT, *backends, **more)
            self.serve(ANY[version], NODE_PORT, *backends, **more)

    def every_way(self):
        """(version, who answers, who is asked, its port), as it is so."""
        for place in self.places:
            self.serve_all(place)
            for version in paths.FAMILIES:
                for asked, port in self.ways:
                    yield version, place, asked, port

    def datagrams(self, version, asked, port, source=0):
        """A socket of the client's that is connected to a service."""
        sock = self.client.socket(version, socket.SOCK_DGRAM, source)
        self.addCleanup(sock.close)
        sock.settimeout(5)
        sock.connect((asked.address(version), port))
        return sock


class TestReached(PathOutsideCase):

    def assertServed(self, place, seen_as):
        """The client gets answers of a place, which sees somebody."""
        for version in paths.FAMILIES:
            with scene.Server(place, version, 8080), \
                    scene.Echo(place, version, 8080) as echo:
                for asked, port in self.ways:
                    with scene.connect(self.client, version, asked,
                                       port) as sock:
                        peer = sock.getpeername()
                        self.assertEqual((asked.address(version), port),
                                         peer[:2])
                        self.assertTrue(scene.answers(sock))
                        self.assertTrue(scene.answers(sock, bytes(100000)))
                    with scene.Stream(self.client, version, asked,
                                      port) as stream:
                        stream.flows()
                        self.assertEqual([], stream.lost())
                self.assertEqual({seen_as.address(version)},
                                 {peer for peer, _ in echo.received})

    def test_by_a_local_pod_who_sees_the_client(self):
        self.serve_all(self.a)
        self.assertServed(self.a, self.client)
        self.assertEqual({}, self.drops())

    def test_by_a_host_elsewhere_that_sees_the_node(self):
        self.serve_all(self.remote)
        self.assertServed(self.remote, self.scene.node)
        self.assertEqual({}, self.drops())

    def test_by_the_node_itself(self):
        self.serve_all(self.scene.node)
        self.assertServed(self.scene.node, self.client)
        self.assertEqual({}, self.drops())

    def test_a_port_that_nobody_listens_on(self):
        for version, _place, asked, port in self.every_way():
            self.assertRaises(ConnectionRefusedError, scene.connect,
                              self.client, version, asked, port)
            sock = self.datagrams(version, asked, port)
            sock.send(b'x')
            self.assertRaises(ConnectionRefusedError, sock.recv, 10)

    def test_nobody_is_ready(self):
        self.serve_all()
        for version in paths.FAMILIES:
            for asked, port in self.ways:
                self.assertRaises(ConnectionRefusedError, scene.connect,
                                  self.client, version, asked, port)
                sock = self.datagrams(version, asked, port)
                sock.send(b'x')
                self.assertRaises(ConnectionRefusedError, sock.recv, 10)
        self.assertEqual({'no-backend'}, set(self.drops()))

    def test_only_local_backends_and_none(self):
        for version in paths.FAMILIES:
            self.silence(EXTERNAL[version], PORT)
            self.silence(ANY[version], NODE_PORT)
            for asked, port in self.ways:
                self.assertRaises(TimeoutError, scene.connect, self.client,
                                  version, asked, port, 0.3)
        self.assertEqual({'no-local-backend'}, set(self.drops()))

    def test_datagrams_in_fragments(self):
        data = bytes(range(256)) * 20
        for version, place, asked, port in self.every_way():
            server = place.socket(version, socket.SOCK_DGRAM, 8080)
            with contextlib.closing(server):
                server.settimeout(5)
                sock = self.datagrams(version, asked, port)
                for _time in range(3):
                    sock.send(data)
                    found, client = server.recvfrom(10000)
                    self.assertEqual(data, found)
                    server.sendto(found[::-1], client)
                    self.assertEqual(data[::-1], sock.recv(10000))

    def test_the_policy_of_a_local_pod_is_about_the_client(self):
        self.serve_all(self.a)
        for version in paths.FAMILIES:
            blocks = {'client': self.client.address(version),
                      'other': '192.0.2.77' if version == 4 else 'fd51::77'}
            for name, allowed in (('client', True), ('other', False)):
                self.judge(blocks[name])
                with scene.Server(self.a, version, 8080):
                    for asked, port in self.ways:
                        if allowed:
                            with scene.connect(self.client, version, asked,
                                               port) as sock:
                                self.assertTrue(scene.answers(sock))
                        else:
                            self.assertRaises(
                                TimeoutError, scene.connect, self.client,
                                version, asked, port, 0.3)

    def judge(self, address):
        """Let pod a be asked by a single address."""
        ruleset = scene.allow('block')
        block = model.Selector(
            'block', 'block', (), model.Block(
                address + ('/128' if ':' in address else '/32')))
        found = scene.view((
            self.a.endpoint(ruleset.id, model.ALLOW_ALL),
            self.b.endpoint(model.ALLOW_ALL, model.ALLOW_ALL)), (ruleset,))
        self.driver.apply(model.View(
            found.epoch, True, found.endpoints, found.rulesets,
            {'block': block}))

    def test_what_is_not_a_services_is_unharmed(self):
        self.serve_all(self.a)
        node = self.scene.node
        for version in paths.FAMILIES:
            self.assertTrue(self.ping(self.client, node, version))
            self.assertTrue(self.ping(node, self.remote, version))
            # What the node forwards.
            self.assertTrue(self.ping(self.client, self.remote, version))
            self.assertTrue(self.ping(self.client, self.a, version))
            for client, server, port in (
                    (self.client, node, 22), (node, self.client, 22),
                    (self.client, self.remote, 22),
                    (self.client, self.a, 8080),
                    # A port of the range that no service has.
                    (self.client, node, NODE_PORT + 1)):
                with scene.Server(server, version, port), \
                        scene.connect(client, version, server,
                                      port) as sock:
                    self.assertTrue(scene.answers(sock, bytes(100000)))
                with scene.Echo(server, version, port), \
                        scene.Stream(client, version, server,
                                     port) as stream:
                    stream.flows()
                    self.assertEqual([], stream.lost())
        self.assertEqual({}, self.flows())
        self.assertEqual({}, self.drops())


class TestGoesOn(PathOutsideCase):
    """Flows that are open while something changes."""

    def setUp(self):
        super().setUp()
        self._stack = self.useFixture(_Stack()).stack
        self.servers = [
            self._stack.enter_context(kind(place, version, 8080))
            for place in self.places for version in paths.FAMILIES
            for kind in (scene.Server, scene.Echo)]

    def open(self):
        """A connection and a stream of datagrams in every way."""
        connections, streams = [], []
        for version, _place, asked, port in self.every_way():
            connections.append(self._stack.enter_context(scene.connect(
                self.client, version, asked, port)))
            streams.append(self._stack.enter_context(scene.Stream(
                self.client, version, asked, port)))
            streams[-1].flows(3)
        return connections, streams

    def assertGoOn(self, connections, streams):
        for sock in connections:
            self.assertTrue(scene.answers(sock))
        for stream in streams:
            stream.flows()
        for stream in streams:
            self.assertEqual([], stream.lost())

    def test_without_the_service(self):
        flows = self.open()
        self.serve_all()
        self.assertGoOn(*flows)
        for version in paths.FAMILIES:
            self.assertRaises(ConnectionRefusedError, scene.connect,
                              self.client, version, *self.ways[0])

    def test_without_an_agent(self):
        flows = self.open()
        self.driver.stop()
        self.assertGoOn(*flows)
        # New ones too, and those that an agent finds which comes back.
        for version in paths.FAMILIES:
            with scene.connect(self.client, version, *self.ways[0]) as sock:
                self.assertTrue(scene.answers(sock))
        flows = self.open_again()
        self.driver = self.scene.driver()
        for pod in self.scene.pods:
            self.assertTrue(self.scene.node.run(self.driver.adopt,
                                                pod.attachment))
        self.apply()
        self.scene.node.run(self.driver.sweep)
        self.assertGoOn(*flows)

    def open_again(self):
        return [self._stack.enter_context(scene.connect(
            self.client, version, *self.ways[0]))
            for version in paths.FAMILIES], []

    def test_a_port_that_is_used_again(self):
        """By a client that does not wait, for another backend."""
        for version in paths.FAMILIES:
            for place in (self.a, self.remote, self.a, self.scene.node):
                self.serve_all(place)
                sock = self.client.socket(version, socket.SOCK_STREAM, 4321)
                # A reset in place of an end that would be waited for.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                b'\1\0\0\0\0\0\0\0')
                with contextlib.closing(sock):
                    sock.settimeout(5)
                    sock.connect((EXTERNAL[version], PORT))
                    self.assertTrue(scene.answers(sock))

    def test_the_client_closes_and_asks_again(self):
        for version, place, asked, port in self.every_way():
            for _time in range(2):
                with scene.connect(self.client, version, asked,
                                   port) as sock:
                    self.assertTrue(scene.answers(sock))
                    sock.shutdown(socket.SHUT_WR)
                    self.assertEqual(b'', sock.recv(10))
        base.wait_until(lambda: all(
            entry.flags & outside.Flag.CLOSING
            for entry in self.flows().values()), 5)


class TestNarrowLinks(PathOutsideCase):
    """Who sends too much is told what fits, by the name that it knows."""

    MTU = 1400
    _OPTIONS = {4: (socket.IPPROTO_IP, 10, 14),
                6: (socket.IPPROTO_IPV6, 23, 24)}

    def assertTold(self, sock, version, send):
        """The kernel of a sender learns the MTU of the path."""
        level, discover, mtu = self._OPTIONS[version]
        sock.setsockopt(level, discover, 2)     # never fragment

        def told():
            try:
                send(bytes(self.MTU))
            except OSError as error:
                return error.errno == errno.EMSGSIZE
        base.wait_until(told, 5)
        self.assertEqual(self.MTU, sock.getsockopt(level, mtu))

    def narrow(self, place, device):
        """Make the node's link to a place narrower; not the other end."""
        self.in_node('ip', 'link', 'set', device, 'mtu', str(self.MTU))

    def test_to_the_backend(self):
        self.narrow(self.a, self.a.kc)
        self.narrow(self.remote, 'up1')
        for version, place, asked, port in self.every_way():
            if place is self.scene.node:
                continue
            with scene.Echo(place, version, 8080):
                sock = self.datagrams(version, asked, port)
                sock.send(b'x')
                self.assertEqual(b'x', sock.recv(10))
                self.assertTold(sock, version, sock.send)
            self.in_client('ip', 'route', 'flush', 'cache')
            self.in_client('ip', '-6', 'route', 'flush', 'cache')

    def test_to_the_client(self):
        self.narrow(self.client, 'up0')
        for version, place, asked, port in self.every_way():
            if place is self.scene.node:
                continue
            server = place.socket(version, socket.SOCK_DGRAM, 8080)
            with contextlib.closing(server):
                server.settimeout(5)
                sock = self.datagrams(version, asked, port)
                sock.send(b'x')
                server.connect(server.recvfrom(10)[1])
                self.assertTold(server, version, server.send)
            for family in '-4', '-6':
                scene.run('ip', '-n', place.name, family, 'route', 'flush',
                          'cache')

    def in_client(self, *command):
        scene.run('nsenter', '--net=' + self.client.path, *command)


class _Stack(fixtures.Fixture):

    def _setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
