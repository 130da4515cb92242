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

"""What sockets of pods ask of services, on real links.

By TCP a connection is led when it is made; all else, and TCP as well without
``[services] pod_sockets``, is translated on the pod's link.
"""

import contextlib
import errno
import os
import socket
import subprocess
import threading

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium.lb import model
from kuryr_cilium.linux import netns
from kuryr_cilium.policy import model as policy
from tests import base
from tests.functional.datapath import host as h
from tests.functional.datapath import paths
from tests.functional.datapath import scene

VIP = {4: '172.30.0.10', 6: 'fd30::10'}
PORT, BACKEND_PORT = 80, 8080
#: Family of the socket, that of the service, and how the address is written.
WAYS = ((4, 4, '%s'), (6, 6, '%s'), (6, 4, '::ffff:%s'))


class ServiceCase(paths.PathCase):

    pod_sockets = True

    def prepare(self):
        self.scene.options(pod_sockets=self.pod_sockets)
        conf = self.scene.conf.services
        for version, prefixes in (
                (4, ('172.30.0.0/16', conf.self_address4)),
                (6, ('fd30::/64', conf.self_address6))):
            for prefix in prefixes:
                # Whatever router it takes, the programs know the way.
                self.scene._ip(self.a, 'route', 'add', prefix, 'via',
                               self.b.address(version))

    def setUp(self):
        super().setUp()
        self.apply()
        self.macs = {place: scene.run(
            'ip', '-n', place.name, '-br', 'link', 'show', 'eth0').split()[2]
            for place in (self.a, self.b, self.stranger)}

    def serve(self, *places, **more):
        """Have a service of some places in force."""
        service = model.Service(
            'shop', 'web', '', tuple(VIP.values()), ports=tuple(
                model.Port(str(protocol), protocol, PORT, backends=tuple(
                    model.Backend(place.address(version), BACKEND_PORT,
                                  'node', mac=self.macs[place],
                                  network_id='net')
                    for place in places for version in paths.FAMILIES))
                for protocol in (6, 17)), **more)
        self.assertEqual({}, self.driver.serve(
            {service.id: service}, model.Node('node'), frozenset()))

    @contextlib.contextmanager
    def servers(self, *places):
        with contextlib.ExitStack() as stack:
            for place in places:
                for version in paths.FAMILIES:
                    stack.enter_context(scene.Server(place, version,
                                                     BACKEND_PORT))
            yield

    def connect(self, family=4, address=VIP[4], port=PORT, place=None):
        sock = (place or self.a).socket(family, socket.SOCK_STREAM)
        self.addCleanup(sock.close)
        sock.settimeout(base.scaled(5))
        sock.connect((address, port))
        return sock

    def ways(self):
        for family, version, form in WAYS:
            yield family, version, form % VIP[version]

    def entry(self, sock, kind=6):
        """The entry of a pod's connection, which is not an alias."""
        address, lport = sock.getsockname()[:2]
        found = []
        for table in (maps.CONNECTIONS, maps.HALF_OPEN):
            for keys, values in conntrack.batches(self.fd(table)):
                for key, value in zip(keys, values):
                    key = layout.CtKey.unpack(key)
                    value = layout.Ct.unpack(value)
                    if (key.protocol, '.' in key.raddr, key.lport,
                            value.direction) == (
                                kind, '.' in address, lport,
                                layout.Direction.EGRESS) and not (
                                    value.flags & (layout.CtFlag.OPEN
                                                   | layout.CtFlag.ALIAS)):
                        found.append((key, value))
        (key, value), = found
        return key, value

    def fd(self, table):
        return self.driver._maps.fd(table)

    def assertLed(self, sock, version, led=True):
        """By itself, or by the pod's link."""
        key, entry = self.entry(sock)
        self.assertIn(key.raddr, [pod.address(version)
                                  for pod in self.scene.pods])
        self.assertEqual((BACKEND_PORT, VIP[version]),
                         (key.rport, entry.nat))
        self.assertEqual((PORT, 0) if led else (0, PORT),
                         (entry.asked_port, entry.nat_port))


class ReachMixin:
    """Whichever way, a pod sees the same."""

    def test_every_backend(self):
        self.serve(self.b, self.stranger)
        with self.servers(self.b, self.stranger):
            for family, version, address in self.ways():
                found = set()
                for _time in range(20):
                    with self.connect(family, address) as sock:
                        self.assertTrue(scene.answers(sock))
                        self.assertEqual((address, PORT),
                                         sock.getpeername()[:2])
                        found.add(self.entry(sock)[0].raddr)
                self.assertEqual({self.b.address(version),
                                  self.stranger.address(version)}, found)

    def test_by_the_switch_and_by_the_local_hop(self):
        self.serve(self.b)
        with self.servers(self.b):
            for fastpath in (False, True):
                self.apply(fastpath)
                for family, version, address in self.ways():
                    with self.connect(family, address) as sock:
                        self.assertTrue(scene.answers(sock))
                        self.assertLed(sock, version, self.pod_sockets)

    def test_nobody_is_ready(self):
        self.serve()
        for family, _, address in self.ways():
            error = self.assertRaises(OSError, self.connect, family, address)
            self.assertEqual(errno.ECONNREFUSED, error.errno)
        # And no such port.
        self.serve(self.b)
        error = self.assertRaises(OSError, self.connect, port=81)
        self.assertEqual(errno.ECONNREFUSED, error.errno)
        self.assertLessEqual(4, self.driver.drops()['no-backend'])

    def test_policy_judges_the_backend(self):
        self.serve(self.b)
        with self.servers(self.b):
            for port, allowed in ((BACKEND_PORT, True), (PORT, False)):
                rule = scene.allow('sel-a', ports=((6, port),))
                self.driver.apply(scene.view(
                    (self.a.endpoint(policy.ALLOW_ALL, policy.ALLOW_ALL),
                     self.b.endpoint(rule.id, policy.ALLOW_ALL)),
                    (rule,), {'sel-a': (self.a,)}))
                for family, _, address in self.ways():
                    if allowed:
                        self.connect(family, address).close()
                        continue
                    sock = self.a.socket(family, socket.SOCK_STREAM)
                    self.addCleanup(sock.close)
                    sock.settimeout(0.3)
                    self.assertRaises(TimeoutError, sock.connect,
                                      (address, PORT))

    def test_affinity(self):
        self.serve(self.b, self.stranger, affinity=100)
        with self.servers(self.b, self.stranger):
            for version in paths.FAMILIES:
                found = set()
                for _time in range(10):
                    with self.connect(version, VIP[version]) as sock:
                        self.assertTrue(scene.answers(sock))
                        self.assertLedByLink(sock)
                        found.add(self.entry(sock)[0].raddr)
                self.assertEqual(1, len(found))

    def assertLedByLink(self, sock):
        self.assertEqual(PORT, self.entry(sock)[1].nat_port)

    def test_a_pod_reaches_itself(self):
        self.serve(self.a)
        with self.servers(self.a):
            for family, _, address in self.ways():
                with self.connect(family, address) as sock:
                    self.assertTrue(scene.answers(sock))
                    self.assertEqual((address, PORT),
                                     sock.getpeername()[:2])

    def test_datagrams(self):
        self.serve(self.b)
        for version in paths.FAMILIES:
            with scene.Echo(self.b, version, BACKEND_PORT):
                sock = self.a.socket(version, socket.SOCK_DGRAM)
                self.addCleanup(sock.close)
                sock.settimeout(base.scaled(5))
                sock.connect((VIP[version], PORT))
                sock.send(b'?')
                self.assertEqual(b'?', sock.recv(10))
                self.assertEqual(PORT, self.entry(sock, 17)[1].nat_port)

    def test_a_connection_keeps_its_backend(self):
        self.serve(self.b)
        with self.servers(self.b, self.stranger):
            found = [self.connect(family, address)
                     for family, _, address in self.ways()]
            self.serve(self.stranger)
            self.scene.node.run(self.driver.sweep)
            for sock in found:
                self.assertTrue(scene.answers(sock))
            with self.connect() as sock:
                self.assertEqual(self.stranger.v4, self.entry(sock)[0].raddr)

    def test_events_name_the_service(self):
        """First verdicts, and drops both ways once policy forbids it."""
        found = []
        reader = threading.Thread(
            target=lambda: found.extend(self.driver.events()), daemon=True)
        reader.start()
        self.addCleanup(reader.join)
        self.addCleanup(self.driver.stop)
        self.serve(self.b)

        def seen(**fields):
            return [event for event in found if all(
                getattr(event, name) == value
                for name, value in fields.items())]

        for version in paths.FAMILIES:
            for fastpath in (False, True):
                found.clear()
                self.apply(fastpath)
                with self.servers(self.b):
                    sock = self.connect(version, VIP[version])
                    self.assertTrue(scene.answers(sock))
                    there = dict(source=self.a.address(version), protocol=6,
                                 destination=self.b.address(version),
                                 destination_port=BACKEND_PORT)
                    self.assertEventually(lambda: seen(
                        uid='uid-a', direction='egress', verdict='allow',
                        service='shop/web', **there))
                    # The backend knows of no service.
                    self.assertEventually(lambda: seen(
                        uid='uid-b', direction='ingress', verdict='allow',
                        service='', **there))
                    self.apply(fastpath, a_out=paths.nothing(
                        policy.Direction.EGRESS))
                    sock.send(b'x')
                    self.assertEventually(lambda: seen(
                        uid='uid-a', direction='egress', verdict='drop',
                        service='shop/web', **there))
                # The server has ended the connection.
                self.assertEventually(lambda: seen(
                    uid='uid-a', direction='ingress', verdict='drop',
                    service='shop/web', source=self.b.address(version),
                    source_port=BACKEND_PORT))


class TestLed(ReachMixin, ServiceCase):

    def test_a_socket_may_ask_again(self):
        self.serve(self.b)
        sock = self.a.socket(4, socket.SOCK_STREAM)
        self.addCleanup(sock.close)
        error = self.assertRaises(OSError, sock.connect, (VIP[4], PORT))
        self.assertEqual(errno.ECONNREFUSED, error.errno)
        with self.servers(self.b):
            # The backend itself: it is no service's any more.
            sock.connect((self.b.v4, BACKEND_PORT))
            self.assertEqual((self.b.v4, BACKEND_PORT), sock.getpeername())
            self.assertEqual((0, 0), self.entry(sock)[1][9:11])

    def test_one_port_twice_to_one_backend(self):
        self.serve(self.b)
        with self.servers(self.b):
            one, other = (self.a.socket(4, socket.SOCK_STREAM, 4000)
                          for _time in range(2))
            for sock in (one, other):
                self.addCleanup(sock.close)
            one.connect((VIP[4], PORT))
            error = self.assertRaises(OSError, other.connect, (VIP[4], PORT))
            self.assertEqual(errno.EADDRNOTAVAIL, error.errno)

    def test_sockets_of_other_namespaces_are_left_to_the_link(self):
        """Who has a namespace of its own in a pod, or is not known yet."""
        self.serve(self.b)
        self.driver._sockets.set_pod(self.a.attachment.vif_id, '')
        with self.servers(self.b), self.connect() as sock:
            self.assertTrue(scene.answers(sock))
            self.assertLed(sock, 4, False)

    def namespaces(self):
        return {layout.U64.unpack(key)[0]: layout.U32.unpack(value)[0]
                for key, value in libbpf.map_items(
                    self.fd(sockets.NAMESPACES))}

    def cookie(self, place):
        return place.run(netns.cookie)

    def test_whose_sockets_are_led(self):
        node, a, b = map(self.cookie, (self.scene.node, self.a, self.b))
        whose = {node: sockets.Whose.NODE, a: sockets.Whose.POD,
                 b: sockets.Whose.POD}
        self.assertEqual(whose, self.namespaces())
        self.scene.node.run(self.driver.detach, self.b.attachment.vif_id)
        del whose[b]
        self.assertEqual(whose, self.namespaces())
        # The next agent knows of one pod, and of none that has gone.
        self.driver._sockets.set_pod('gone', self.b.path)
        self.driver.stop()
        self.driver = self.scene.driver()
        self.assertTrue(self.scene.node.run(self.driver.adopt,
                                            self.a.attachment))
        self.driver.apply(scene.view([self.a.endpoint(
            policy.ALLOW_ALL, policy.ALLOW_ALL)]))
        self.scene.node.run(self.driver.sweep)
        self.assertEqual(whose, self.namespaces())

    def test_a_namespace_that_has_gone(self):
        self.driver._sockets.set_pod('x', os.path.join(
            self.scene.bpffs, 'nobody'))
        self.assertEqual(3, len(self.namespaces()))

    def test_what_was_asked_is_kept_with_the_socket(self):
        self.serve(self.b)
        with self.servers(self.b):
            with self.connect() as sock:
                self.assertEqual(((VIP[4], PORT), (self.b.v4, BACKEND_PORT)),
                                 h.led(self.fd('kc_led'), sock))
            with self.connect(address=self.b.v4, port=BACKEND_PORT) as sock:
                self.assertIsNone(h.led(self.fd('kc_led'), sock))

    def test_without_an_agent(self):
        self.serve(self.b)
        self.driver.stop()
        with self.servers(self.b), self.connect() as sock:
            self.assertTrue(scene.answers(sock))
            self.assertEqual((self.b.v4, BACKEND_PORT), self.peer(sock))

    def peer(self, sock):
        """To whom the kernel has connected a socket."""
        found = subprocess.run(
            ['nsenter', '--net=' + self.a.path, 'ss', '-Htn', 'sport', '=',
             ':%d' % sock.getsockname()[1]], check=True,
            capture_output=True, text=True).stdout.split()
        address, _, port = found[4].rpartition(':')
        return address, int(port)


class TestByTheLink(ReachMixin, ServiceCase):

    pod_sockets = False

    def test_the_option_counts_for_pods_of_before(self):
        self.serve(self.b)
        self.driver._sockets.set_pod(self.a.attachment.vif_id, self.a.path)
        self.restart()
        self.apply()
        self.scene.node.run(self.driver.sweep)
        with self.servers(self.b), self.connect() as sock:
            self.assertTrue(scene.answers(sock))
            self.assertLed(sock, 4, False)
