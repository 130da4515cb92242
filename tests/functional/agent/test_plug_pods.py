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

"""Two pods of a node, plugged as the agent does: what passes the switch.

Everything here is the product's own, but the views' source: binding, BPF
programs, Open vSwitch with the datapath of fixtures.DATAPATH, which forwards
by MAC addresses.
"""

import dataclasses
import hashlib
import itertools
import os
import socket
import struct
import subprocess
import threading
import time

from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from tests import base
from tests.functional.agent import plug_process
from tests.functional.agent import test_plug_bpf
from tests.functional.binding import fixtures
from tests.functional.datapath import packets as p
from tests.functional.datapath import scene
from tests.functional.datapath import wire
from tests.unit.binding import vifs

FAMILIES = (4, 6)
NETWORK = '0b5ad0a4-0000-4000-8000-00000000000a'
MTU = 1442
_SENT = 1 << 20
_ETHERNET = 14


class Pod(scene.Place):
    """A pod: its VIF, and the CNI container that it is plugged for."""

    def __init__(self, namespace, number, links):
        addresses = '10.99.3.%d' % number, 'fd99::3:%d' % number
        super().__init__(namespace.name, addresses)
        self.uid = '0b5ad0a4-0000-4000-8000-%012d' % number
        self.container = 'c%d' % number
        self.vif = vifs.make(mac='fa:16:3e:00:03:%02d' % number, subnets=(
            ('10.99.0.0/16', '10.99.0.1', addresses[:1], ()),
            ('fd99::/64', 'fd99::', addresses[1:], ())))
        self.vif.network.id = NETWORK
        self.links = links(self.vif)

    def endpoint(self, ingress=model.ALLOW_ALL, egress=model.ALLOW_ALL,
                 fastpath=False):
        plain, = plug_process.view(self.vif).endpoints.values()
        return dataclasses.replace(
            plain, uid=self.uid, name=self.container, ingress=ingress,
            egress=egress, fastpath=fastpath)

    def member(self):
        return model.Member(self.uid, (self.v4, self.v6))


class Node:
    """The node, which the test itself is in, as a scene's place."""

    @staticmethod
    def run(function, *args):
        return function(*args)


class PodsCase(test_plug_bpf.BPFCase):

    def setUp(self):
        super().setUp()
        # Without a controller it learns MAC addresses then.
        self.switch.vsctl('del-fail-mode', 'br-int')
        self.stranger = self.make_stranger()
        self.before = self.seen()
        self.a, self.b = self.pods = [
            Pod(self.useFixture(fixtures.Namespace()), number,
                self.plugger._binding.links) for number in (7, 8)]
        self.driver = self.plugger._datapath

    def bring_in_force(self):
        """The views here are apply()'s."""

    def make_stranger(self):
        """What is on the switch and not the product's."""
        namespace = self.useFixture(fixtures.Namespace('stranger'))
        made = scene.Place(namespace.name, ('10.99.200.1', 'fd99::200:1'))
        fixtures.run('ip', 'link', 'add', 'stranger', 'mtu', str(MTU), 'up',
                     'type', 'veth', 'peer', 'name', 'eth0', 'mtu', str(MTU),
                     'netns', made.name)
        for command in (
                ('address', 'add', made.v4 + '/16', 'dev', 'eth0'),
                ('address', 'add', made.v6 + '/64', 'dev', 'eth0', 'nodad'),
                ('link', 'set', 'eth0', 'up')):
            fixtures.run('ip', '-n', made.name, *command)
        if fixtures.DATAPATH == 'netdev':
            fixtures.run('ethtool', '-K', 'eth0', 'tx', 'off',
                         netns=namespace)
        self.switch.vsctl('add-port', 'br-int', 'stranger')
        return made

    def apply(self, *endpoints, rulesets=(), selectors=None):
        self.driver.apply(scene.view(endpoints, rulesets, selectors))

    def plug(self, *pods):
        for pod in pods:
            self.plugger.add(
                self.request(pod.container, pod.vif, pod.path, uid=pod.uid),
                time.monotonic() + base.scaled(20))
            self.plugger.check(pod.container, 'eth0')

    def unplug(self, *pods):
        for pod in pods:
            self.plugger.delete(pod.container, 'eth0')

    def plug_both(self):
        self.apply(*(pod.endpoint() for pod in self.pods))
        self.plug(*self.pods)

    def ways(self):
        """(peer of a, whether by the switch, version), while it is so."""
        for fastpath, version in itertools.product((False, True), FAMILIES):
            self.apply(*(pod.endpoint(fastpath=fastpath)
                         for pod in self.pods))
            yield self.b, not fastpath, version
        for version in FAMILIES:
            yield self.stranger, True, version

    def reaches(self, source, target, version, count=2, patience=None):
        """Whether pings are answered, within so many seconds each."""
        return subprocess.run(
            ['nsenter', '--net=' + source.path, 'ping', '-c', str(count),
             '-i', '0.2', '-W', '%d' % (patience or base.scaled(2)),
             target.address(version)], capture_output=True).returncode == 0

    def echoes(self, source, target, version):
        """Whether a datagram comes back, of whom it came."""
        with scene.Echo(target, version, 7) as echo:
            sock = source.socket(version, socket.SOCK_DGRAM)
            self.addCleanup(sock.close)
            sock.connect((target.address(version), 7))
            return scene.answers(sock, timeout=base.scaled(5)) and \
                echo.received == [(source.address(version), b'x')]

    def transfer(self, source, sink, version):
        """Digests of what was sent and received by TCP."""
        listener = sink.socket(version, socket.SOCK_STREAM, 7)
        self.addCleanup(listener.close)
        listener.listen()
        data = os.urandom(_SENT)
        received = hashlib.sha256()

        def receive():
            peer, _ = listener.accept()
            peer.settimeout(base.scaled(20))
            with peer:
                while part := peer.recv(1 << 16):
                    received.update(part)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        with scene.connect(source, version, sink, 7,
                           base.scaled(20)) as sock:
            sock.sendall(data)
        thread.join(base.scaled(20))
        listener.close()
        return hashlib.sha256(data).digest(), received.digest()

    def into_switch(self, pod):
        """How many bytes the switch has had of a pod."""
        return fixtures.counters(pod.links.tap)['rx']['bytes']

    def assertDropped(self, source, target, version, port):
        """A datagram is dropped for the policy, and does not arrive."""
        before = self.driver.drops()['policy']
        with scene.Echo(target, version, port) as echo, \
                source.socket(version, socket.SOCK_DGRAM) as sock:
            sock.sendto(b'x', (target.address(version), port))
            self.assertEventually(
                lambda: self.driver.drops()['policy'] > before,
                message=self.driver.drops)
            self.assertEqual([], echo.received)


class TestPods(PodsCase):

    def test_traffic(self):
        """ICMP, UDP and TCP, both ways, by the switch and the local hop."""
        self.plug_both()
        for peer, by_switch, version in self.ways():
            self.assertTrue(self.reaches(self.a, peer, version))
            self.assertTrue(self.reaches(peer, self.a, version))
            self.assertTrue(self.echoes(self.a, peer, version))
            self.assertTrue(self.echoes(peer, self.a, version))
            before = self.into_switch(self.a)
            self.assertEqual(*self.transfer(self.a, peer, version))
            self.assertEqual(by_switch,
                             self.into_switch(self.a) - before > _SENT)
            self.assertEqual(*self.transfer(peer, self.a, version))

    def test_what_the_switch_is_given(self):
        """Segments no larger than the MTU, with their checksums."""
        self.plug_both()
        for version in FAMILIES:
            with wire.Capture(Node, self.a.links.tap) as capture:
                self.assertEqual(*self.transfer(self.a, self.b, version))
                self.assertTrue(self.echoes(self.a, self.b, version))
                self.assertEventually(lambda: {p.TCP, p.UDP} <= {
                    protocol(frame) for frame in capture.frames})
            for frame in capture.frames:
                self.assertLessEqual(len(frame), MTU + _ETHERNET)
                if protocol(frame) in (p.TCP, p.UDP):
                    self.assertEqual(bytes(2), checksum(frame), frame.hex())

    def test_policy(self):
        """Only a, and to one port only; an open connection is cut."""
        ruleset = scene.allow('sel-a', ports=((p.TCP, 7), (p.UDP, 7)))
        nothing = model.RuleSet('nothing', model.Direction.INGRESS, ())
        self.plug_both()
        for fastpath, version in itertools.product((False, True), FAMILIES):
            for allowed in (ruleset, nothing):
                self.apply(self.a.endpoint(fastpath=fastpath),
                           self.b.endpoint(allowed.id, fastpath=fastpath),
                           rulesets=(allowed,),
                           selectors={'sel-a': (self.a,)})
                if allowed is ruleset:
                    self.assertTrue(self.echoes(self.a, self.b, version))
                    self.assertEqual(*self.transfer(self.a, self.b, version))
                else:
                    self.assertDropped(self.a, self.b, version, 7)
                self.assertDropped(self.a, self.b, version, 8)
                self.assertDropped(self.stranger, self.b, version, 7)
                self.assertTrue(self.reaches(self.a, self.stranger, version,
                                             1))

    def test_nothing_passes_before_the_end(self):
        self.apply(self.b.endpoint())
        self.plug(self.b)
        self.plugger._views.error = exceptions.EndpointNotInView(reason='x')
        self.assertRaises(exceptions.EndpointNotInView, self.plug, self.a)
        for version in FAMILIES:
            self.assertTrue(self.reaches(self.b, self.stranger, version))
        mac = bytes.fromhex(self.a.vif.address.replace(':', ''))
        with wire.Capture(self.a) as into, \
                wire.Capture(self.stranger, wanted=lambda frame:
                             frame[6:12] == mac) as out:
            for version in FAMILIES:
                for ends in ((self.a, self.stranger),
                             (self.stranger, self.a)):
                    self.assertFalse(self.reaches(*ends, version, patience=2))
        self.assertEqual(([], []), (into.frames, out.frames))
        self.assertEqual(0, self.into_switch(self.a))

        self.plugger._views.error = None
        self.apply(*(pod.endpoint() for pod in self.pods))
        self.plug(self.a)
        for version in FAMILIES:
            self.assertTrue(self.reaches(self.a, self.b, version))

    def test_unplug(self):
        """Nothing is left, and nobody else is disturbed."""
        self.plug_both()
        self.assertTrue(self.reaches(self.a, self.b, 4))
        self.unplug(self.a)
        self.assertTrue(self.reaches(self.stranger, self.b, 4))
        self.assertFalse(self.reaches(self.stranger, self.a, 4, patience=2))
        self.unplug(self.b)
        self.assertClean()
        self.plug_both()
        self.assertTrue(self.reaches(self.a, self.b, 6))


def protocol(frame):
    """The IP protocol of a frame without options; None if it isn't IP."""
    ethertype, = struct.unpack_from('>H', frame, 12)
    return {0x0800: frame[23], 0x86dd: frame[20]}.get(ethertype)


def checksum(frame):
    """Of a TCP or UDP packet with its own checksum: 0 if that is right."""
    packet = frame[_ETHERNET:]
    if packet[0] >> 4 == 4:
        size, = struct.unpack_from('>H', packet, 2)
        addresses, payload = packet[12:20], packet[20:size]
    else:
        size, = struct.unpack_from('>H', packet, 4)
        addresses, payload = packet[8:40], packet[40:40 + size]
    return p.checksum(addresses + struct.pack(
        '>HH', protocol(frame), len(payload)) + payload)
