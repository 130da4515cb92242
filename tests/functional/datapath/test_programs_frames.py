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

"""What frames the programs understand, and whose addresses they carry."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import rows
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, B, PEER = bench.A, bench.B, bench.PEER
REDIRECT = bench.REDIRECT
FAMILIES = (4, 6)
Reason = layout.Reason


class TestReady(bench.Case):

    PROGRAMS = ('from_pod', 'to_pod', 'from_host')

    def test_unknown_link(self):
        libbpf.map_delete(self.bench.fd('kc_if'),
                          layout.U32.pack(A.kc))
        frame = p.frame(A.mac, A.mac, p.ip(A.v4, A.v4, p.UDP, p.udp(1, 2)))
        for program in self.PROGRAMS:
            self.assertEqual(Reason.NO_ENDPOINT, self.raw(frame, program))

    def test_no_endpoint(self):
        libbpf.map_delete(self.bench.fd('kc_endpoint'),
                          layout.U32.pack(A.number))
        frame = p.frame(A.mac, A.mac, p.ip(A.v4, A.v4, p.UDP, p.udp(1, 2)))
        for program in self.PROGRAMS:
            self.assertEqual(Reason.NO_ENDPOINT, self.raw(frame, program))

    def test_link_of_another_endpoint(self):
        self.bench.update('kc_if', layout.U32.pack(A.kc),
                          layout.U32.pack(B.number))
        frame = p.frame(B.mac, B.mac, p.ip(B.v4, B.v4, p.UDP, p.udp(1, 2)))
        for program in self.PROGRAMS:
            self.assertEqual(Reason.NO_ENDPOINT, self.raw(frame, program))

    def test_not_ready(self):
        for ingress, egress in ((0, 0), (0, rows.RULESET_ALLOW),
                                (rows.RULESET_ALLOW, 0)):
            self.bench.endpoint(A, ingress, egress)
            for data in (
                    p.frame(A.mac, A.mac, p.ip(A.v4, PEER[4], p.UDP,
                                               p.udp(1, 2))),
                    p.ethernet(A.mac, A.mac, p.ARP_TYPE,
                               p.arp(1, A.mac, A.v4, PEER[4])),
                    p.ethernet(A.mac, A.mac, 0x1234, bytes(50))):
                for program in self.PROGRAMS:
                    self.assertEqual(Reason.NOT_READY,
                                     self.raw(data, program))


class TestEthernet(bench.Case):

    def test_ethertypes(self):
        for ethertype, reason in (
                (0x8100, Reason.VLAN), (0x88a8, Reason.VLAN),
                (0x9100, Reason.VLAN), (0x8035, Reason.ETHERTYPE),
                (0x8847, Reason.ETHERTYPE), (0x0040, Reason.ETHERTYPE)):
            for program in ('from_pod', 'to_pod', 'from_host'):
                self.assertEqual(
                    reason, self.raw(p.ethernet(A.mac, A.mac, ethertype,
                                                bytes(60)), program))

    def test_source_mac(self):
        for version in FAMILIES:
            packet = p.ip(A.address(version), PEER[version], p.UDP,
                          p.udp(1, 2))
            self.assertOut(REDIRECT, packet)
            self.assertOut(Reason.SPOOF_MAC, packet, smac=B.mac)

    def test_destination_mac(self):
        packet = p.ip(PEER[4], A.v4, p.UDP, p.udp(1, 2))
        self.assertInto(REDIRECT, packet)
        self.assertInto(REDIRECT, packet, dmac='ff:ff:ff:ff:ff:ff')
        self.assertInto(Reason.NOT_OURS, packet, dmac=B.mac)

    def test_events_tell_of_it(self):
        self.out(p.ip(A.v4, PEER[4], p.UDP, p.udp(1, 2)), smac=B.mac)
        event, = self.bench.told()
        self.assertEqual(
            (A.number, A.v4, PEER[4], 1, 2, p.UDP, 0x800,
             layout.Direction.EGRESS, Reason.SPOOF_MAC),
            (event.endpoint, event.source, event.destination,
             event.source_port, event.destination_port, event.protocol,
             event.ethertype, event.direction, event.reason))


class TestIPv4(bench.Case):

    def packet(self, payload=p.udp(1, 2), protocol=p.UDP, **more):
        return p.ipv4(A.v4, PEER[4], protocol, payload, **more)

    def test_options(self):
        self.assertOut(REDIRECT, self.packet(options=bytes((1,) * 4)))
        self.assertOut(REDIRECT, self.packet(options=bytes(
            (148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0))))
        self.assertOut(REDIRECT, self.packet(options=bytes((1,) * 40)))
        # The ports are found behind them.
        self.assertEqual({(1, 2)}, {
            (key.lport, key.rport)
            for key in self.bench.connections(table='kc_ct_new')})

    def test_malformed_options(self):
        for options in ((148, 0, 0, 0), (148, 1, 0, 0), (1, 1, 1, 148)):
            self.assertOut(Reason.MALFORMED,
                           self.packet(options=bytes(options)))

    def test_source_routes(self):
        for type_ in (131, 137):
            for lead in (b'', b'\1', bytes((7, 7, 4, 0, 0, 0, 0))):
                options = lead + bytes((type_, 7, 4, 10, 9, 0, 9))
                options += bytes(-len(options) % 4)
                self.assertOut(Reason.SOURCE_ROUTE,
                               self.packet(options=options))

    def test_malformed(self):
        self.assertOut(Reason.MALFORMED, self.packet(words=4))
        self.assertOut(Reason.MALFORMED, self.packet(total=19))
        self.assertOut(Reason.MALFORMED, self.packet(total=0))
        self.assertEqual(Reason.MALFORMED, self.raw(p.ethernet(
            A.mac, B.mac, 0x800, self.packet(version=6))))
        # ICMP of the other family; reserved types.
        self.assertOut(Reason.MALFORMED,
                       self.packet(p.icmp(128), p.ICMP6))
        self.assertOut(Reason.MALFORMED, self.packet(p.icmp(255), p.ICMP))
        for flags in (p.SYN | p.FIN, p.SYN | p.RST):
            self.assertOut(Reason.MALFORMED,
                           self.packet(p.tcp(1, 2, flags), p.TCP))

    def test_truncated(self):
        whole = self.packet(p.tcp(1, 2), p.TCP)
        # NOTE: a test run takes no frame without a whole IP header.
        for size in range(20, 40):
            reason = self.raw(p.frame(A.mac, B.mac, whole)[:14 + size])
            self.assertEqual(Reason.TRUNCATED, reason, size)
        self.assertOut(REDIRECT, whole)

    def test_transport_header_must_be_in_the_packet_not_in_the_padding(self):
        for protocol, size, payload in (
                (p.TCP, 20, p.tcp(1, 2)), (p.UDP, 8, p.udp(1, 2, b'')),
                (p.SCTP, 16, p.sctp(1, 2)), (p.ICMP, 8, p.icmp(8))):
            short = self.packet(payload, protocol, total=20 + size - 1)
            self.assertOut(Reason.TRUNCATED, short + bytes(20))
            exact = self.packet(payload, protocol, total=20 + size)
            self.assertOut(REDIRECT, exact + bytes(20))

    def test_protocols_without_ports(self):
        for protocol in (47, 50, 51, 89, 2, 255):
            self.assertOut(REDIRECT, self.packet(b'x' * 3, protocol))

    def test_spoofed(self):
        for source in (PEER[4], B.v4, '0.0.0.0', '127.0.0.1', '10.0.0.255'):
            self.assertOut(Reason.SPOOF_IP, p.ipv4(source, PEER[4], p.UDP,
                                                   p.udp(1, 2)))

    def test_to_pod_only_what_is_its_own(self):
        for target in (B.v4, '10.0.0.255', '127.0.0.1'):
            self.assertInto(Reason.NOT_OURS,
                            p.ipv4(PEER[4], target, p.UDP, p.udp(1, 2)))
        for target in (A.v4, '255.255.255.255', '224.0.0.1',
                       '239.255.255.250'):
            self.assertInto(REDIRECT, p.ipv4(PEER[4], target, p.UDP,
                                             p.udp(1, 2)))

    def test_to_pod_from_its_own_address(self):
        self.assertInto(Reason.SPOOF_IP,
                        p.ipv4(A.v4, A.v4, p.UDP, p.udp(1, 2)))


class TestIPv6(bench.Case):

    def packet(self, following, payload, **more):
        return p.ipv6(A.v6, PEER[6], following, payload, **more)

    def test_extensions(self):
        payload = p.udp(1, 2)
        self.assertOut(REDIRECT, self.packet(
            p.HOP, p.extension(p.ROUTING)
            + p.extension(p.AUTH, 16, 0, 0)
            + p.authentication(p.DESTINATION)
            + p.extension(p.UDP, 64) + payload))
        self.assertEqual({(p.UDP, 1, 2)}, {
            (key.protocol, key.lport, key.rport)
            for key in self.bench.connections(table='kc_ct_new')})

    def test_six_at_most(self):
        for count, expected in ((6, REDIRECT), (7, Reason.EXTENSIONS)):
            headers = p.extension(p.DESTINATION) * (count - 1)
            self.assertOut(expected, self.packet(
                p.DESTINATION, headers + p.extension(p.UDP) + p.udp(1, 2)))

    def test_source_route(self):
        for type_ in (0, 2, 4):
            self.assertOut(Reason.SOURCE_ROUTE, self.packet(
                p.ROUTING, p.extension(p.UDP, 24, type_, 1) + p.udp(1, 2)))
            self.assertOut(REDIRECT, self.packet(
                p.ROUTING, p.extension(p.UDP, 24, type_, 0) + p.udp(1, 2)))

    def test_truncated(self):
        whole = p.frame(A.mac, B.mac, self.packet(
            p.HOP, p.extension(p.TCP) + p.tcp(1, 2)))
        for size in range(14 + 40, len(whole)):
            self.assertEqual(Reason.TRUNCATED, self.raw(whole[:size]), size)
        self.assertOut(Reason.TRUNCATED, self.packet(
            p.HOP, p.extension(p.TCP, 64)[:16]))
        self.assertOut(Reason.TRUNCATED, self.packet(
            p.UDP, p.udp(1, 2), length=7))

    def test_malformed(self):
        self.assertEqual(Reason.MALFORMED, self.raw(p.ethernet(
            A.mac, B.mac, 0x86dd, self.packet(p.UDP, p.udp(1, 2),
                                              version=4))))
        mapped = '::ffff:' + A.v4
        self.assertOut(Reason.MALFORMED, p.ipv6(mapped, PEER[6], p.UDP,
                                                p.udp(1, 2)))
        self.assertOut(Reason.MALFORMED, p.ipv6(A.v6, '::ffff:10.9.0.1',
                                                p.UDP, p.udp(1, 2)))

    def test_spoofed(self):
        for source in (PEER[6], B.v6, '::', '::1', 'fd00::100',
                       # Only ND and MLD: nobody could tell which pod it is.
                       A.link_local, B.link_local):
            self.assertOut(Reason.SPOOF_IP, p.ipv6(source, PEER[6], p.UDP,
                                                   p.udp(1, 2)))

    def test_to_pod_only_what_is_its_own(self):
        for target in (B.v6, A.link_local, '::1'):
            self.assertInto(Reason.NOT_OURS,
                            p.ipv6(PEER[6], target, p.UDP, p.udp(1, 2)))
        for target in (A.v6, 'ff02::1', 'ff05::1:3'):
            self.assertInto(REDIRECT, p.ipv6(PEER[6], target, p.UDP,
                                             p.udp(1, 2)))
