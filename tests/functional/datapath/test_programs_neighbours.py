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

"""ARP, neighbour discovery, multicast listeners: whose addresses."""

from kuryr_cilium.datapath.bpf import layout
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, B, PEER = bench.A, bench.B, bench.PEER
REDIRECT = bench.REDIRECT
Reason = layout.Reason


class TestARP(bench.Case):

    def arp(self, *args, program='from_pod', **kwargs):
        return self.raw(p.ethernet(A.mac, 'ff:ff:ff:ff:ff:ff', p.ARP_TYPE,
                                   p.arp(*args, **kwargs)), program)

    def test_own(self):
        self.assertEqual(REDIRECT, self.arp(1, A.mac, A.v4, PEER[4]))
        self.assertEqual(REDIRECT, self.arp(2, A.mac, A.v4, PEER[4]))
        self.assertEqual(REDIRECT, self.arp(1, A.mac, A.v4, A.v4))

    def test_probe(self):
        self.assertEqual(REDIRECT, self.arp(1, A.mac, '0.0.0.0', A.v4))
        self.assertEqual(Reason.SPOOF_ARP,
                         self.arp(1, A.mac, '0.0.0.0', B.v4))

    def test_spoofed(self):
        for operation in (1, 2):
            self.assertEqual(Reason.SPOOF_ARP,
                             self.arp(operation, B.mac, A.v4, PEER[4]))
            self.assertEqual(Reason.SPOOF_ARP,
                             self.arp(operation, A.mac, B.v4, PEER[4]))

    def test_malformed(self):
        self.assertEqual(Reason.MALFORMED, self.arp(
            1, A.mac, A.v4, PEER[4], hardware=6))
        self.assertEqual(Reason.MALFORMED, self.arp(
            1, A.mac, A.v4, PEER[4], protocol=0x86dd))
        self.assertEqual(Reason.TRUNCATED, self.raw(p.ethernet(
            A.mac, B.mac, p.ARP_TYPE, bytes(20))))

    def test_to_pod(self):
        self.assertEqual(REDIRECT, self.arp(1, B.mac, B.v4, A.v4,
                                            program='to_pod'))

    def test_from_host(self):
        self.assertEqual(Reason.HOST_FRAME, self.arp(
            1, B.mac, B.v4, A.v4, program='from_host'))


class TestND(bench.Case):

    ALL = 'ff02::1'

    def message(self, type_, source, target, body=b'', hops=255, code=0):
        return p.ipv6(source, target, p.ICMP6, p.icmp6(
            source, target, type_, code, payload=body), hops=hops)

    def solicit(self, source, target, body=b'', **more):
        return self.message(135, source, 'ff02::1:ff00:2',
                            p.packed(target) + body, **more)

    def advertise(self, source, target, body=b'', **more):
        return self.message(136, source, PEER[6], p.packed(target) + body,
                            **more)

    def test_own(self):
        for source in (A.v6, A.link_local):
            self.assertOut(REDIRECT, self.solicit(source, PEER[6],
                                                  p.option(1, A.mac)))
            self.assertOut(REDIRECT, self.advertise(source, A.v6,
                                                    p.option(2, A.mac)))
            self.assertOut(REDIRECT, self.advertise(source, A.link_local))
            self.assertOut(REDIRECT, self.message(133, source, 'ff02::2',
                                                  p.option(1, A.mac)))
        # A nonce beside it, as enhanced DAD has.
        self.assertOut(REDIRECT, self.solicit(
            A.v6, PEER[6], p.option(14, '00:00:00:00:00:00')
            + p.option(1, A.mac)))

    def test_duplicate_address_detection(self):
        self.assertOut(REDIRECT, self.solicit('::', A.v6))
        self.assertOut(REDIRECT, self.solicit('::', A.link_local))
        self.assertOut(Reason.SPOOF_ND, self.solicit('::', B.v6))

    def test_spoofed(self):
        self.assertOut(Reason.SPOOF_IP, self.solicit(B.v6, PEER[6]))
        self.assertOut(Reason.SPOOF_IP, self.advertise(B.link_local, A.v6))
        self.assertOut(Reason.SPOOF_IP, self.advertise('::', A.v6))
        for target in (B.v6, PEER[6], B.link_local):
            self.assertOut(Reason.SPOOF_ND, self.advertise(A.v6, target))
        for type_ in (1, 2):
            self.assertOut(Reason.SPOOF_ND, self.advertise(
                A.v6, A.v6, p.option(type_, B.mac)))
            self.assertOut(Reason.SPOOF_ND, self.solicit(
                A.v6, PEER[6], p.option(type_, B.mac)))
        # The second option too.
        self.assertOut(Reason.SPOOF_ND, self.advertise(
            A.v6, A.v6, p.option(2, A.mac) + p.option(2, B.mac)))

    def test_malformed(self):
        self.assertOut(Reason.MALFORMED, self.advertise(A.v6, A.v6,
                                                        bytes(8)))
        self.assertOut(Reason.TRUNCATED, self.advertise(A.v6, A.v6, b'x'))
        self.assertOut(Reason.TRUNCATED, self.message(136, A.v6, PEER[6],
                                                      bytes(8)))
        self.assertOut(Reason.ND, self.advertise(
            A.v6, A.v6, p.option(2, A.mac) * 9))

    def test_what_only_routers_say(self):
        for type_ in (134, 137, 130):
            self.assertOut(Reason.ND, self.message(
                type_, A.link_local, self.ALL, bytes(36), hops=255))

    def test_hop_limit(self):
        self.assertOut(Reason.ND, self.solicit(A.v6, PEER[6], hops=254))
        self.assertOut(Reason.ND, self.message(143, A.link_local, 'ff02::16',
                                               hops=255))
        self.assertInto(Reason.ND, self.message(136, PEER[6], A.v6,
                                                p.packed(PEER[6]), hops=64))

    def test_multicast_listener(self):
        for type_ in (131, 132, 143):
            for source in (A.link_local, A.v6, '::'):
                self.assertOut(REDIRECT, p.ipv6(
                    source, 'ff02::16', p.HOP, p.extension(p.ICMP6)
                    + p.icmp6(source, 'ff02::16', type_, payload=bytes(16)),
                    hops=1))
        self.assertInto(REDIRECT, p.ipv6(
            B.link_local, self.ALL, p.HOP, p.extension(p.ICMP6)
            + p.icmp6(B.link_local, self.ALL, 130, payload=bytes(16)),
            hops=1))

    def test_to_pod(self):
        peer = B.link_local
        for target in (A.v6, A.link_local):
            self.assertInto(REDIRECT, self.message(
                135, peer, target, p.packed(target)))
            self.assertInto(REDIRECT, self.message(
                136, peer, target, p.packed(B.v6)))
        self.assertInto(REDIRECT, self.message(136, peer, self.ALL,
                                               p.packed(B.v6)))
        self.assertInto(REDIRECT, self.message(134, peer, self.ALL,
                                               bytes(8)))
        self.assertInto(Reason.NOT_OURS, self.message(
            135, peer, 'ff02::1:ff00:9', p.packed(B.v6)))
        self.assertInto(Reason.NOT_OURS, self.message(
            136, peer, B.v6, p.packed(A.v6)))
        self.assertInto(Reason.ND, self.message(137, peer, A.v6, bytes(32)))

    def test_from_host(self):
        self.assertEqual(Reason.HOST_FRAME, self.bench.from_host(
            self.message(135, bench.NODE[6], A.v6, p.packed(A.v6))))
