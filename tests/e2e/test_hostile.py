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

"""A denied pod with CAP_NET_RAW tries everything to get a frame out."""

import os
import socket
import struct

from tests.e2e import base
from tests.e2e import frames
from tests.e2e import pods

#: Seconds in which a frame would have arrived.
ALIEN_MAC = '02:aa:bb:cc:dd:ee'
ALIEN_IP4, ALIEN_IP6 = '10.99.200.200', 'fd99::bad'
DF, MF = 0x4000, 0x2000
EVIL = 6666


class TestHostile(base.TestCase):
    """Frames leave by a packet socket that passes by the pod's qdiscs."""

    def setUp(self):
        super().setUp()
        self.mallory, near, far, self.bystander = self.pods(
            pods.manifest('mallory', {'role': 'denied'}, self.node),
            pods.manifest('near', {}, self.node),
            pods.manifest('far', {}, self.other_node),
            pods.manifest('bystander', {}, self.node))
        self.victims = (near, far)
        self.raw = self.mallory.raw()
        self.addCleanup(self.raw.close)

    def deny(self):
        self.create(pods.policy('deny', {'role': 'denied'},
                                policyTypes=['Egress']))
        for victim in self.victims:
            server = pods.Echo(victim, base.PORT)
            self.addCleanup(server.stop)
            self.assertBlocked(self.mallory, victim)

    def drops(self, reason):
        return self.lab.agent(self.node).get('/v1/drops').get(reason, 0)

    def wait_drops(self, reason, number, message):
        base.wait_until(lambda: self.drops(reason) >= number, 10, message)

    def assertDropped(self, reason, make):
        """A frame reaches no victim, and is counted with its reason.

        :param make: called with a victim and a mark, returns frames that
            carry the mark.
        """
        for victim in self.victims:
            mark = os.urandom(8)
            before = self.drops(reason)
            sent = make(victim, mark)
            with victim.capture(lambda frame: mark in frame) as seen:
                for frame in sent:
                    self.raw.send(frame)
                # What was dropped can't arrive any more.
                self.wait_drops(reason, before + len(sent),
                                '%s to %s' % (reason, victim))
            self.assertEqual([], seen.frames, '%s to %s' % (reason, victim))

    def ip(self, victim, payload, version=4, source=None, protocol=None,
           mac=None, tags=(), **more):
        """One frame to a victim."""
        own = self.mallory.address(version)
        protocol = frames.UDP if protocol is None else protocol
        if version == 4:
            packet = frames.ipv4(source or own, victim.ip4, protocol,
                                 payload, **more)
            kind = frames.IPV4
        else:
            packet = frames.ipv6(source or own, victim.ip6, protocol,
                                 payload, **more)
            kind = frames.IPV6
        return frames.ethernet(mac or self.mallory.mac, victim.mac, kind,
                               packet, tags)

    def udp(self, victim, mark, version=4, source=None, **more):
        """A datagram to a victim."""
        payload = frames.udp(source or self.mallory.address(version),
                             victim.address(version), EVIL, base.PORT, mark)
        return self.ip(victim, payload, version, source, **more)

    def tcp(self, victim, flags, version=4, sport=EVIL, dport=base.PORT,
            mark=b''):
        payload = frames.tcp(self.mallory.address(version),
                             victim.address(version), sport, dport, flags,
                             mark)
        return self.ip(victim, payload, version, protocol=frames.TCP)

    def nd(self, victim, mark, kind, target, link, source=None):
        """Neighbour discovery to a victim; the mark is behind the packet."""
        source = source or self.mallory.ip6
        return self.ip(victim, frames.neighbour(
            source, victim.ip6, kind, target, link), 6, source,
            frames.ICMPV6, hops=255) + mark

    def test_the_means_work(self):
        """Without a policy the same frames do arrive."""
        for victim in self.victims:
            for version in (4, 6):
                mark = os.urandom(8)
                with victim.capture(lambda frame: mark in frame) as seen:
                    base.wait_until(
                        lambda: self.raw.send(self.udp(
                            victim, mark, version)) and seen.frames, 10,
                        '%s gets a frame over IPv%d' % (victim, version),
                        interval=0.1)

    def test_denied_by_policy(self):
        self.deny()
        for version in (4, 6):
            self.assertDropped('policy', lambda victim, mark: [
                self.udp(victim, mark, version)])
            self.assertDropped('policy', lambda victim, mark: [
                self.tcp(victim, frames.SYN, version, mark=mark)])
            self.assertDropped('no-connection', lambda victim, mark: [
                self.tcp(victim, frames.ACK, version, mark=mark)])
        # A protocol that policy can't name.
        self.assertDropped('policy', lambda victim, mark: [
            self.ip(victim, mark, protocol=132 + 121)])
        # By an extension header that hides the protocol.
        for kind in (frames.HOP_BY_HOP, frames.DESTINATION):
            self.assertDropped('policy', lambda victim, mark: [
                self.ip(victim, frames.extension(frames.UDP) + frames.udp(
                    self.mallory.ip6, victim.ip6, EVIL, base.PORT, mark),
                    6, protocol=kind)])

    def test_a_syn_from_a_port_that_a_peer_just_used(self):
        self.deny()
        server = self.echo(self.mallory, 7777)
        for victim in self.victims:
            for version in (4, 6):
                with victim.bound(socket.SOCK_STREAM, version) as client:
                    client.settimeout(5)
                    client.connect((self.mallory.address(version), 7777))
                    client.sendall(b'hello')
                    self.assertEqual(b'hello', client.recv(100))
                    port = client.getsockname()[1]
                    syn = self.tcp(victim, frames.SYN, version, 7777, port)
                    before = self.drops('policy')
                    with victim.capture(
                            lambda frame: self._is_syn(frame, port)) as seen:
                        self.raw.send(syn)
                        self.wait_drops('policy', before + 1, 'SYN')
                    self.assertEqual([], seen.frames)
        self.assertTrue(server.received)

    def test_spoofed_senders(self):
        for policed in (False, True):
            if policed:
                self.deny()
            self.assertDropped('spoof-mac', lambda victim, mark: [
                self.udp(victim, mark, mac=ALIEN_MAC),
                self.udp(victim, mark, 6, mac=ALIEN_MAC)])
            other = self.bystander
            self.assertDropped('spoof-ip', lambda victim, mark: [
                self.udp(victim, mark, source=ALIEN_IP4),
                self.udp(victim, mark, source=other.ip4),
                self.udp(victim, mark, 6, source=ALIEN_IP6),
                self.udp(victim, mark, 6, source=other.ip6)])
            self.assertDropped('spoof-mac', lambda victim, mark: [
                self.udp(victim, mark, source=other.ip4, mac=other.mac)])

    def test_spoofed_arp(self):
        own, alien = self.mallory.mac, ALIEN_MAC

        def claims(victim, mark):
            return [frames.ethernet(own, destination, frames.ARP, frames.arp(
                operation, sender, address, victim.mac, victim.ip4) + mark)
                for operation in (1, 2)
                for destination in (victim.mac, 'ff:ff:ff:ff:ff:ff')
                for sender, address in (
                    (own, self.bystander.ip4), (alien, self.mallory.ip4),
                    (own, ALIEN_IP4))]
        self.assertDropped('spoof-arp', claims)

    def test_spoofed_neighbours(self):
        own, other = self.mallory, self.bystander
        for target, link in ((other.ip6, own.mac), (own.ip6, ALIEN_MAC)):
            self.assertDropped('spoof-nd', lambda victim, mark: [
                self.nd(victim, mark, 136, target, link)])
        self.assertDropped('spoof-ip', lambda victim, mark: [
            self.nd(victim, mark, 135, victim.ip6, own.mac, other.ip6)])
        self.assertDropped('nd', lambda victim, mark: [
            self.nd(victim, mark, 134, None, own.mac)])

    def test_tags(self):
        for tags in ((frames.DOT1Q,), (frames.DOT1AD,),
                     (frames.DOT1AD, frames.DOT1Q)):
            self.assertDropped('vlan', lambda victim, mark: [
                self.udp(victim, mark, version, tags=tags)
                for version in (4, 6)])

    def test_no_ip(self):
        self.assertDropped('ethertype', lambda victim, mark: [
            frames.ethernet(self.mallory.mac, victim.mac, kind, mark)
            for kind in (0x88b5, 0x86df, 0x8847)])

    def test_fragments(self):
        self.deny()
        # The first has the ports: it is judged.
        self.assertDropped('policy', lambda victim, mark: [
            self.udp(victim, mark * 8, frag=MF)])
        # The others have none.
        self.assertDropped('fragment', lambda victim, mark: [
            self.ip(victim, mark * 8, frag=100, ident=1)])
        self.assertDropped('fragment', lambda victim, mark: [
            self.ip(victim, frames.fragment(frames.UDP, 99, 100) + mark * 8,
                    6, protocol=frames.FRAGMENT)])
        # Less than a header of TCP, and what would overwrite its flags.
        # What is behind the packet is not of the packet.
        for trailer in (b'', bytes(40)):
            self.assertDropped('truncated', lambda victim, mark: [
                self.ip(victim, mark, protocol=frames.TCP,
                        frag=MF) + trailer])
        self.assertDropped('fragment-overlap', lambda victim, mark: [
            self.ip(victim, mark * 4, protocol=frames.TCP, frag=1)])

    def test_a_fragment_after_a_first_one_that_was_denied(self):
        self.deny()
        for victim in self.victims:
            mark = os.urandom(8)
            with victim.capture(lambda frame: mark in frame) as seen:
                before = self.drops('policy')
                self.raw.send(self.udp(victim, mark * 2, frag=MF))
                self.raw.send(self.ip(victim, mark * 8, frag=3))
                self.wait_drops('policy', before + 2, 'both fragments')
            self.assertEqual([], seen.frames)

    def test_headers(self):
        self.deny()
        chain = b''.join(frames.extension(frames.DESTINATION)
                         for _number in range(7))
        self.assertDropped('extensions', lambda victim, mark: [
            self.ip(victim, chain + frames.extension(frames.UDP) + mark, 6,
                    protocol=frames.DESTINATION)])
        self.assertDropped('malformed', lambda victim, mark: [
            self.tcp(victim, frames.SYN | frames.FIN, mark=mark)])
        self.assertDropped('truncated', lambda victim, mark: [
            frames.ethernet(self.mallory.mac, victim.mac, frames.IPV6,
                            mark)[:20] + mark])

    def _is_syn(self, frame, port):
        """A SYN to a port, after either IP header without options."""
        at = 34 if frame[12:14] == b'\x08\x00' else 54
        if len(frame) < at + 14:
            return False
        dport, = struct.unpack_from('>H', frame, at + 2)
        return dport == port and frame[at + 13] & 0x12 == frames.SYN
