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

"""A pod that sends what it likes, past its own kernel: nothing arrives."""

import itertools
import os
import socket

from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import packets as p
from tests.functional.datapath import scene
from tests.functional.datapath import wire

FAMILIES = (4, 6)
OTHER_MAC = '02:00:00:00:00:77'
_marks = itertools.count()


def mark():
    """Bytes that are in no other frame."""
    return b'\xde\xad%d-%d\xbe\xef' % (os.getpid(), next(_marks))


class HostileCase(base.TestCase):
    """Pod a may do what it likes but for b, which nobody may reach."""

    def setUp(self):
        super().setUp()
        self.scene = self.useFixture(scene.Scene())
        self.a, self.b = self.scene.pods
        self.stranger = self.scene.stranger
        self.driver = self.scene.driver()
        self.scene.attach(self.driver, self.a, self.b)
        self.macs = {self.b: self.b.mac, self.stranger: self.mac_of(
            self.stranger)}
        self.raw = wire.Sender(self.a)
        self.addCleanup(self.raw.close)

    def mac_of(self, place):
        found = scene.run('ip', '-n', place.name, '-o', 'link', 'show',
                          'eth0')
        return found.split('link/ether ')[1].split()[0]

    def apply(self, egress=model.ALLOW_ALL, ingress=model.ALLOW_ALL,
              fastpath=False, receiver=model.ALLOW_ALL):
        rulesets = [ruleset for ruleset in (egress, ingress, receiver)
                    if isinstance(ruleset, model.RuleSet)]
        ids = [getattr(ruleset, 'id', ruleset)
               for ruleset in (ingress, egress, receiver)]
        self.driver.apply(scene.view(
            (self.a.endpoint(ids[0], ids[1], fastpath),
             self.b.endpoint(ids[2], model.ALLOW_ALL, fastpath)), rulesets))
        for pod in self.scene.pods:
            self.driver.activate(pod.attachment.vif_id)

    def frame(self, target, packet, smac=None):
        return p.frame(smac or self.a.mac, self.macs[target], packet)

    def udp(self, target, version, payload, source=None, **more):
        return self.frame(target, p.ip(
            source or self.a.address(version), target.address(version),
            p.UDP, p.udp(4000, 9, payload), **more))

    def targets(self):
        """b by the switch and by the local hop, and the stranger."""
        for fastpath in (False, True):
            self.apply(fastpath=fastpath)
            yield self.b
        yield self.stranger

    def assertNothingArrives(self, reason, target, make):
        """Send frames until drops are counted; none may arrive.

        :param make: from a mark, the frames that carry it.
        """
        evil, good = mark(), mark()
        before = self.driver.drops()[reason]
        frames = make(evil)
        with wire.Capture(target, wanted=lambda frame: evil in frame
                          or good in frame) as capture:
            for frame in frames:
                self.raw.send(frame)
            base.wait_until(
                lambda: self.driver.drops()[reason] >= before + len(frames),
                10, lambda: (reason, self.driver.drops()))
            # What is sent after them has arrived: so would they have.
            self.arrives(capture, target, good)
        self.assertEqual([], [frame for frame in capture.frames
                              if evil in frame])

    def arrives(self, capture, target, good):
        def arrived():
            self.raw.send(self.udp(target, 4, good))
            return any(good in frame for frame in capture.frames)

        base.wait_until(arrived, 10, self.driver.drops)


class TestSpoofing(HostileCase):

    def test_addresses(self):
        for target in self.targets():
            for version in FAMILIES:
                other = self.stranger if target is self.b else self.b
                self.assertNothingArrives('spoof-ip', target, lambda evil: [
                    self.udp(target, version, evil, source)
                    for source in (other.address(version),
                                   ('0.0.0.0', '::')[version == 6],
                                   ('10.50.0.99', 'fd50::99')[version == 6])])
                self.assertNothingArrives('spoof-mac', target, lambda evil: [
                    p.frame(OTHER_MAC, self.macs[target], p.ip(
                        self.a.address(version), target.address(version),
                        p.UDP, p.udp(1, 2, evil)))])

    def test_link_local(self):
        mac = bytes.fromhex(self.a.mac.replace(':', ''))
        own = 'fe80::%02x%02x:%02xff:fe%02x:%02x%02x' % (
            mac[0] ^ 2, *mac[1:])
        for target in self.targets():
            self.assertNothingArrives('spoof-ip', target, lambda evil: [
                self.udp(target, 6, evil, own)])

    def test_arp(self):
        for target in self.targets():
            def arp(evil, mac, address, operation=2):
                return p.ethernet(
                    self.a.mac, self.macs[target], p.ARP_TYPE,
                    p.arp(operation, mac, address, target.v4) + evil)

            self.assertNothingArrives('spoof-arp', target, lambda evil: [
                arp(evil, self.a.mac, '10.50.0.1'),
                arp(evil, OTHER_MAC, self.a.v4),
                arp(evil, self.a.mac, '10.50.0.1', 1),
                arp(evil, self.a.mac, '0.0.0.0', 1)])

    def test_neighbour_discovery(self):
        for target in self.targets():
            def nd(evil, type_, about, source=self.a.v6, lla=self.a.mac,
                   hops=255):
                body = p.packed(about) + p.option(2, lla) + bytes(
                    (200, 3)) + evil.ljust(22)[:22]
                return self.frame(target, p.ipv6(
                    source, target.v6, p.ICMP6, p.icmp6(
                        source, target.v6, type_, payload=body), hops=hops))

            self.assertNothingArrives('spoof-nd', target, lambda evil: [
                nd(evil, 136, 'fd50::1'), nd(evil, 136, self.b.v6),
                nd(evil, 136, self.a.v6, lla=OTHER_MAC),
                nd(evil, 135, target.v6, lla=OTHER_MAC),
                nd(evil, 135, target.v6, source='::')])
            self.assertNothingArrives('spoof-ip', target, lambda evil: [
                nd(evil, 136, self.a.v6, source='fd50::1'),
                nd(evil, 136, 'fe80::1', source='fe80::1')])
            self.assertNothingArrives('nd', target, lambda evil: [
                nd(evil, 136, self.a.v6, hops=254), nd(evil, 134, self.a.v6),
                nd(evil, 137, self.a.v6)])


class TestFrames(HostileCase):

    def test_tags(self):
        for target in self.targets():
            for version in FAMILIES:
                def tagged(evil, *tags):
                    whole = self.udp(target, version, evil)
                    return whole[:12] + b''.join(
                        kind + b'\0\7' for kind in tags) + whole[12:]

                dot1q, dot1ad, old = b'\x81\0', b'\x88\xa8', b'\x91\0'
                self.assertNothingArrives('vlan', target, lambda evil: [
                    tagged(evil, *tags) for tags in (
                        (dot1q,), (dot1ad,), (dot1ad, dot1q),
                        (dot1q, dot1q), (old,))])

    def test_ethertypes(self):
        for target in self.targets():
            self.assertNothingArrives('ethertype', target, lambda evil: [
                p.ethernet(self.a.mac, self.macs[target], kind,
                           evil.ljust(60))
                for kind in (0x8847, 0x88cc, 0x0040, 0x8035, 0x1234)])

    def test_truncated(self):
        for target in self.targets():
            self.assertNothingArrives('truncated', target, lambda evil: [
                p.ethernet(self.a.mac, self.macs[target], 0x800, b'E\0\0'),
                p.ethernet(self.a.mac, self.macs[target], 0x86dd, b'`\0'),
                # Its ports are in the padding.
                self.frame(target, p.ipv4(
                    self.a.v4, target.v4, p.UDP, p.udp(1, 2, evil),
                    total=24))])

    def test_hidden_by_options_and_extensions(self):
        nothing = model.RuleSet('nothing', model.Direction.EGRESS, ())
        only = scene.allow(ports=((p.TCP, 80),),
                           direction=model.Direction.EGRESS)
        for rules, fastpath in itertools.product((nothing, only),
                                                 (False, True)):
            self.apply(egress=rules, fastpath=fastpath)
            for target in (self.b, self.stranger):
                self.assertDenied(target, 'policy', lambda evil: [
                    self.frame(target, p.ipv4(
                        self.a.v4, target.v4, p.UDP, p.udp(1, 2, evil),
                        options=bytes((1,) * 40))),
                    self.frame(target, p.ipv6(
                        self.a.v6, target.v6, p.HOP, p.extension(
                            p.DESTINATION) + p.extension(p.UDP, 64)
                        + p.udp(1, 2, evil))),
                    self.frame(target, p.ipv6(
                        self.a.v6, target.v6, p.FRAGMENT, p.fragment(p.UDP)
                        + p.udp(1, 80, evil))),
                    self.udp(target, 4, evil, more=True),
                    self.frame(target, p.ipv4(self.a.v4, target.v4, 47,
                                              evil))])
                self.assertDenied(target, 'fragment', lambda evil: [
                    self.frame(target, p.ipv4(
                        self.a.v4, target.v4, p.TCP, evil, offset=2)),
                    self.frame(target, p.ipv6(
                        self.a.v6, target.v6, p.FRAGMENT, p.fragment(
                            p.TCP, 3) + evil))])
                self.assertDenied(target, 'extensions', lambda evil: [
                    self.frame(target, p.ipv6(
                        self.a.v6, target.v6, p.DESTINATION,
                        p.extension(p.DESTINATION) * 6 + p.extension(p.UDP)
                        + p.udp(1, 2, evil)))])
                self.assertDenied(target, 'source-route', lambda evil: [
                    self.frame(target, p.ipv6(
                        self.a.v6, target.v6, p.ROUTING, p.extension(
                            p.UDP, 24, 0, 1) + p.udp(1, 2, evil))),
                    self.frame(target, p.ipv4(
                        self.a.v4, target.v4, p.UDP, p.udp(1, 2, evil),
                        options=bytes((131, 7, 4, 10, 50, 0, 200, 0))))])

    def test_overlapping_fragments(self):
        only = scene.allow(ports=((p.TCP, 80),),
                           direction=model.Direction.EGRESS)
        self.apply(egress=only)
        self.raw.send(self.frame(self.b, p.ipv4(
            self.a.v4, self.b.v4, p.TCP, p.tcp(1, 80) + bytes(4),
            more=True)))
        self.assertDenied(self.b, 'fragment-overlap', lambda evil: [
            self.frame(self.b, p.ipv4(self.a.v4, self.b.v4, p.TCP,
                                      evil.ljust(16), offset=1))])

    def assertDenied(self, target, reason, make):
        """As assertNothingArrives, where a may not send to the target."""
        evil = mark()
        before = self.driver.drops()[reason]
        frames = make(evil)
        with wire.Capture(target, wanted=lambda frame: evil in frame) \
                as capture:
            for frame in frames:
                self.raw.send(frame)
            base.wait_until(
                lambda: self.driver.drops()[reason] >= before + len(frames),
                10, lambda: (reason, self.driver.drops()))
        self.assertEqual([], capture.frames)


class TestPorts(HostileCase):

    def test_syn_from_a_port_that_the_peer_has_just_used(self):
        nothing = model.RuleSet('nothing', model.Direction.EGRESS, ())
        for fastpath in (False, True):
            self.apply(egress=nothing, fastpath=fastpath)
            for peer, version in itertools.product(
                    (self.b, self.stranger), FAMILIES):
                with scene.Server(self.a, version, 7), \
                        scene.connect(peer, version, self.a, 7) as sock:
                    self.assertTrue(scene.answers(sock))
                    port = sock.getsockname()[1]
                    evil = mark()
                    before = self.driver.drops()['policy']
                    with wire.Capture(peer, wanted=lambda frame: evil
                                      in frame) as capture:
                        self.raw.send(self.frame(peer, p.ip(
                            self.a.address(version), peer.address(version),
                            p.TCP, p.tcp(7, port, p.SYN, evil))))
                        base.wait_until(lambda: self.driver.drops()['policy']
                                        > before, 10, self.driver.drops)
                    self.assertTrue(scene.answers(sock))
                self.assertEqual([], capture.frames)

    def test_errors_carry_nothing_to_others(self):
        for fastpath in (False, True):
            self.apply(fastpath=fastpath)
            evil = mark()
            before = self.driver.drops()['icmp-unrelated']
            with wire.Capture(self.stranger, wanted=lambda frame: evil
                              in frame) as capture:
                for version in FAMILIES:
                    with scene.Echo(self.a, version, 7), scene.Stream(
                            self.b, version, self.a, 7) as stream:
                        stream.flows()
                        port = stream._socket.getsockname()[1]
                        source = self.a.address(version)
                        target = self.stranger.address(version)
                        quoted = p.ip(self.b.address(version), source,
                                      p.UDP, p.udp(port, 7, evil))
                        self.raw.send(self.frame(self.stranger, p.ip(
                            source, target, *p.error(source, target,
                                                     quoted))))
                base.wait_until(
                    lambda: self.driver.drops()['icmp-unrelated']
                    >= before + 2, 10, self.driver.drops)
            self.assertEqual([], capture.frames)

    def test_receiver_that_is_isolated(self):
        nothing = model.RuleSet('nothing', model.Direction.INGRESS, ())
        for fastpath in (False, True):
            self.apply(fastpath=fastpath, receiver=nothing)
            evil = mark()
            before = self.driver.drops()['policy']
            with wire.Capture(self.b, wanted=lambda frame: evil in frame) \
                    as capture:
                for version in FAMILIES:
                    self.raw.send(self.udp(self.b, version, evil))
                    for flags in (p.SYN, p.ACK, p.SYN | p.ACK):
                        self.raw.send(self.frame(self.b, p.ip(
                            self.a.address(version), self.b.address(version),
                            p.TCP, p.tcp(1, 2, flags, evil))))
                base.wait_until(lambda: self.driver.drops()['policy']
                                >= before + 4, 10, self.driver.drops)
            self.assertEqual([], capture.frames)

    def test_what_a_socket_sends(self):
        """The same by the pod's own kernel, as a control."""
        self.apply()
        with scene.Echo(self.b, 4, 7) as echo:
            sock = self.a.socket(4, socket.SOCK_DGRAM)
            self.addCleanup(sock.close)
            sock.sendto(b'hello', (self.b.v4, 7))
            base.wait_until(lambda: echo.received, 10)
