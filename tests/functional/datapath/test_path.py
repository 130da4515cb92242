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

"""What well-behaved pods experience, in real namespaces."""

import hashlib
import itertools
import os
import socket
import threading

from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import packets as p
from tests.functional.datapath import paths
from tests.functional.datapath import scene

FAMILIES = paths.FAMILIES
#: <linux/in.h>
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0
_SENT = 8 << 20


class TestTraffic(paths.PathCase):

    def test_ping(self):
        for target, version in self.ways():
            self.assertTrue(self.ping(self.a, target, version))
            self.assertTrue(self.ping(target, self.a, version))
            # In fragments.
            self.assertTrue(self.ping(self.a, target, version, '-s', '4000'))

    def test_local_hop_needs_no_switch(self):
        self.apply(fastpath=True)
        for version in FAMILIES:
            # Neighbours are asked for through the switch.
            self.assertTrue(self.ping(self.a, self.b, version))
        self.scene._ip(self.scene.switch, 'link', 'set', 'br0', 'down')
        for version in FAMILIES:
            self.assertTrue(self.ping(self.a, self.b, version))
        self.apply(fastpath=False)
        self.assertFalse(self.ping(self.a, self.b, 4))

    def test_much_data_both_ways(self):
        """Large segments, as the pods' kernels make them."""
        for target, version in self.ways():
            for source, sink in ((self.a, target), (target, self.a)):
                self.assertEqual(*self.transfer(source, sink, version))

    def transfer(self, source, sink, version):
        """Digests of what was sent and received."""
        listener = sink.socket(version, socket.SOCK_STREAM, 7)
        self.addCleanup(listener.close)
        listener.listen()
        data = os.urandom(1 << 20) * (_SENT >> 20)
        received = hashlib.sha256()

        def receive():
            peer, _ = listener.accept()
            peer.settimeout(20)
            with peer:
                while part := peer.recv(1 << 16):
                    received.update(part)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        with scene.connect(source, version, sink, 7) as sock:
            sock.settimeout(20)
            sock.sendall(data)
        thread.join(20)
        listener.close()
        return hashlib.sha256(data).digest(), received.digest()

    def test_datagrams_in_fragments(self):
        for target, version in self.ways():
            with scene.Echo(target, version, 7) as echo:
                sock = self.a.socket(version, socket.SOCK_DGRAM)
                self.addCleanup(sock.close)
                if version == 4:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER,
                                    _IP_PMTUDISC_DONT)
                data = os.urandom(2000)
                sock.settimeout(5)
                sock.sendto(data, (target.address(version), 7))
                self.assertEqual(data, sock.recv(4096))
                self.assertEqual([(self.a.address(version), data)],
                                 echo.received)

    def test_refusals_are_told(self):
        """ICMP errors, and resets."""
        for target, version in self.ways():
            sock = self.a.socket(version, socket.SOCK_DGRAM)
            self.addCleanup(sock.close)
            sock.connect((target.address(version), 9))

            def refused():
                try:
                    sock.send(b'hello')
                except ConnectionRefusedError:
                    return True

            base.wait_until(refused, 10, self.driver.drops)
            self.assertRaises(ConnectionRefusedError, scene.connect, self.a,
                              version, target, 9)

    def test_multicast(self):
        self.apply()
        for version, group in ((4, '239.1.2.3'), (6, 'ff05::123')):
            receiver = self.b.socket(version, socket.SOCK_DGRAM)
            self.addCleanup(receiver.close)
            receiver.bind((group, 77))
            receiver.settimeout(0.2)
            self.b.run(self.join, receiver, version, group)
            sender = self.a.socket(version, socket.SOCK_DGRAM)
            self.addCleanup(sender.close)
            self.a.run(self.by_eth0, sender, version)

            def received():
                sender.sendto(b'all', (group, 77))
                try:
                    return receiver.recvfrom(100)[1][0]
                except TimeoutError:
                    return None

            self.assertEqual(self.a.address(version), base.wait_until(
                received, 10, self.driver.drops))

    def join(self, sock, version, group):
        index = socket.if_nametoindex('eth0')
        if version == 4:
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                p.packed(group) + bytes(4) + index.to_bytes(4, 'little'))
        else:
            sock.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                p.packed(group) + index.to_bytes(4, 'little'))

    def by_eth0(self, sock, version):
        index = socket.if_nametoindex('eth0')
        if version == 4:
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                bytes(8) + index.to_bytes(4, 'little'))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF,
                            index)

    def test_neighbours_are_found_and_kept(self):
        self.apply(a_in=paths.nothing(model.Direction.INGRESS))
        for version in FAMILIES:
            self.assertTrue(self.ping(self.a, self.stranger, version))
            for place, peer in ((self.a, self.stranger),
                                (self.stranger, self.a)):
                known = scene.run('ip', '-n', place.name, 'neigh', 'show',
                                  peer.address(version))
                self.assertIn('lladdr', known)


class TestChanges(paths.PathCase):

    RULES = {'a_out': model.Direction.EGRESS, 'b_in': model.Direction.INGRESS}

    def assertCut(self, stream, echo):
        before = self.driver.drops()['policy-changed']
        received = len(echo.received)
        base.wait_until(lambda: self.driver.drops()['policy-changed']
                        > before + 20, 10, self.driver.drops)
        # One may have been on its way when the view was applied.
        self.assertLessEqual(len(echo.received), received + 1)

    def test_under_open_flows(self):
        """Cut at either end, whoever sends, and restored."""
        for (fastpath, (name, direction), version) in itertools.product(
                (False, True), self.RULES.items(), FAMILIES):
            self.apply(fastpath)
            with scene.Echo(self.b, version, 7) as echo, \
                    scene.Stream(self.a, version, self.b, 7) as stream, \
                    scene.Server(self.b, version, 7), \
                    scene.connect(self.a, version, self.b, 7) as sock:
                stream.flows()
                self.assertTrue(scene.answers(sock))
                self.apply(fastpath, **{name: paths.nothing(direction)})
                self.assertCut(stream, echo)
                self.assertFalse(scene.answers(sock, timeout=0.3))
                # What b sends by itself is dropped too.
                answered = len(stream.answered)
                for _ in range(20):
                    echo._socket.sendto(b'77777777', (
                        self.a.address(version),
                        stream._socket.getsockname()[1]))
                self.assertCut(stream, echo)
                self.assertNotIn(77777777, stream.answered)
                self.assertLessEqual(len(stream.answered), answered + 1)
                self.apply(fastpath)
                stream.flows()
                with scene.connect(self.a, version, self.b, 7) as again:
                    self.assertTrue(scene.answers(again))

    def test_the_other_direction_stays_open(self):
        for fastpath, version in itertools.product((False, True), FAMILIES):
            self.apply(fastpath)
            with scene.Server(self.b, version, 7), \
                    scene.connect(self.a, version, self.b, 7) as sock:
                self.assertTrue(scene.answers(sock))
                self.apply(fastpath,
                           a_in=paths.nothing(model.Direction.INGRESS),
                           b_out=paths.nothing(model.Direction.EGRESS))
                self.assertTrue(scene.answers(sock))
