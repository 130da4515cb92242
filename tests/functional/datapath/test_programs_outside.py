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

"""What comes from outside to services, and what goes back."""

import collections
import struct

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import plan
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.functional.datapath import uplinks
from tests.functional.datapath.uplinks import ACK
from tests.functional.datapath.uplinks import FIN
from tests.functional.datapath.uplinks import l4
from tests.functional.datapath.uplinks import RST
from tests.functional.datapath.uplinks import SYN
from tests.functional.datapath.uplinks import SYN_ACK

A, OTHER = bench.A, bench.OTHER
CLIENT, NODE, VIP, SECOND, ANY = (uplinks.CLIENT, uplinks.NODE, uplinks.VIP,
                                  uplinks.SECOND, uplinks.ANY)
LOCAL, REMOTE = uplinks.LOCAL, uplinks.REMOTE
FAMILIES, PROTOCOLS = uplinks.FAMILIES, uplinks.PROTOCOLS
NODE_PORT = uplinks.NODE_PORT
Reason, Flag = layout.Reason, outside.Flag


class TestTranslation(uplinks.UplinkCase):

    def test_to_a_local_pod_and_back(self):
        for version in FAMILIES:
            client, vip, pod = CLIENT[version], VIP[version], LOCAL[version]
            for protocol in PROTOCOLS:
                self.service(vip, (pod, 8080), protocol=protocol)
                for flags in (SYN, ACK, ACK):
                    self.assertEqual((client, pod, 4000, 8080),
                                     self.ask(version, protocol, flags))
                    self.assertEqual(
                        (vip, client, 80, 4000), self.answered(
                            version, protocol, flags | p.ACK))

    def test_to_the_node_itself(self):
        for version in FAMILIES:
            self.service(VIP[version], (NODE[version], 6443))
            self.assertEqual((CLIENT[version], NODE[version], 4000, 6443),
                             self.ask(version))
            self.assertEqual((VIP[version], CLIENT[version], 80, 4000),
                             self.answered(version, backend=NODE, port=6443))

    def test_to_a_backend_elsewhere_and_back(self):
        for version in FAMILIES:
            client, vip, node, backend = (
                CLIENT[version], VIP[version], NODE[version], REMOTE[version])
            for protocol in PROTOCOLS:
                self.service(vip, (backend, 8080), protocol=protocol)
                for flags in (SYN, ACK, ACK):
                    self.assertEqual((client, backend, 4000, 8080),
                                     self.ask(version, protocol, flags))
                    sent = self.leave(l4(client, backend, protocol, 4000,
                                         8080, flags)).flow
                    port = sent[2]
                    self.assertEqual((node, backend, port, 8080), sent)
                    self.assertTrue(61000 <= port <= 65535)
                    self.assertEqual((backend, client, 8080, 4000),
                                     self.enter(l4(
                                         backend, node, protocol, 8080, port,
                                         flags | p.ACK)).flow)
                    self.assertEqual((vip, client, 80, 4000), self.leave(l4(
                        backend, client, protocol, 8080, 4000,
                        flags | p.ACK)).flow)

    def test_a_port_of_the_client_is_kept_if_it_is_one(self):
        self.service(VIP[4], (REMOTE[4], 8080))
        self.ask(sport=61234)
        self.assertEqual((NODE[4], 61234), self.flow()[5:])
        # Unless somebody has it.
        self.ask(sport=61234, client={4: '198.51.100.10'})
        ports = {entry.other_port for entry in self.entries().values()
                 if entry.flags & Flag.FLOW}
        self.assertEqual(2, len(ports))
        self.assertIn(61234, ports)

    def test_sctp_keeps_its_ports(self):
        for version in FAMILIES:
            for backend in (LOCAL, REMOTE):
                self.service(VIP[version], (backend[version], 80),
                             protocol=p.SCTP)
                sport = 4000 if backend is LOCAL else 4001
                self.assertEqual(
                    (CLIENT[version], backend[version], sport, 80),
                    self.ask(version, p.SCTP, sport=sport))
            self.assertEqual(
                (NODE[version], REMOTE[version], 4001, 80), self.leave(l4(
                    CLIENT[version], REMOTE[version], p.SCTP, 4001,
                    80)).flow)

    def test_no_checksum_stays_none(self):
        self.service(VIP[4], (REMOTE[4], 53), protocol=p.UDP)
        self.assertEqual(0, self.enter(p.ip(
            CLIENT[4], VIP[4], p.UDP, p.udp(4000, 80))).sum)
        self.assertEqual(0, self.leave(p.ip(
            CLIENT[4], REMOTE[4], p.UDP, p.udp(4000, 53))).sum)

    def test_options_and_extensions(self):
        pseudo = p.packed(CLIENT[4]) + p.packed(VIP[4])
        self.service(VIP[4], (LOCAL[4], 8080))
        found = self.enter(p.ipv4(CLIENT[4], VIP[4], p.TCP, p.tcp(
            4000, 80, SYN, b'', pseudo), b'\1\1\1\0'))
        self.assertEqual(8080, struct.unpack_from('>H', found.payload, 2)[0])
        self.service(VIP[6], (LOCAL[6], 53), protocol=p.UDP)
        self.assertEqual((CLIENT[6], LOCAL[6], 4000, 53), self.enter(p.ipv6(
            CLIENT[6], VIP[6], p.DESTINATION, p.extension(p.UDP)
            + p.checked_udp(CLIENT[6], VIP[6], 4000, 80))).flow)


class TestWhichPackets(uplinks.UplinkCase):

    def test_node_ports(self):
        for version in FAMILIES:
            self.service(ANY[version], (LOCAL[version], 8080),
                         port=NODE_PORT)
            # A port that is none of the range.
            self.service(ANY[version], (LOCAL[version], 8080), port=8000)
            self.assertEqual(LOCAL[version], self.ask(
                version, vip=NODE, port=NODE_PORT)[1])
            self.assertEqual(NODE[version], self.ask(
                version, vip=NODE, port=8000)[1])
            # Of another node: pods ask it by the way of this row.
            self.row(OTHER[version], service_rows.Svc(0, 0, 0, 0), 0, 255, 0)
            for other in (OTHER, LOCAL):
                self.assertEqual(other[version], self.ask(
                    version, vip=other, port=NODE_PORT)[1])

    def test_an_external_address_comes_before_a_node_port(self):
        self.service(ANY[4], (LOCAL[4], 8080), port=NODE_PORT)
        self.service(NODE[4], (LOCAL[4], 9090), port=NODE_PORT)
        self.assertEqual(9090, self.ask(vip=NODE, port=NODE_PORT)[3])

    def test_what_only_pods_may_ask(self):
        self.service(VIP[4], (LOCAL[4], 8080), scope=frontends.INSIDE)
        self.row(VIP[4], service_rows.Svc(0, 0, 7, 0), 0, 0, frontends.INSIDE)
        self.assertEqual(VIP[4], self.ask()[1])

    def test_everything_else_is_untouched(self):
        for version in FAMILIES:
            self.service(VIP[version], (LOCAL[version], 8080))
            client, vip = CLIENT[version], VIP[version]
            for packet in (
                    p.ip(client, vip, *p.echo(client, vip, 5)),
                    l4(client, vip, p.UDP, 4000, 80),
                    l4(client, vip, p.TCP, 4000, 81),
                    l4(client, OTHER[version], p.TCP, 4000, 80),
                    # What no open flow has.
                    l4(client, vip, p.TCP, 4000, 80, ACK),
                    l4(client, vip, p.TCP, 4000, 80, SYN_ACK),
                    # Not understood.
                    l4(client, vip, p.TCP, 4000, 80)[:-20]):
                self.assertUntouched(p.frame(uplinks.CLIENT_MAC,
                                             uplinks.OUR_MAC, packet))
        packet = l4(CLIENT[4], VIP[4], p.TCP, 4000, 80)
        for data in (
                p.ethernet(uplinks.CLIENT_MAC, 'ff:ff:ff:ff:ff:ff',
                           p.ARP_TYPE, p.arp(1, uplinks.CLIENT_MAC, CLIENT[4],
                                             NODE[4])),
                p.ethernet(uplinks.CLIENT_MAC, uplinks.OUR_MAC, p.VLAN_TYPE,
                           b'\0\5\x08\0' + packet),
                p.ethernet(uplinks.CLIENT_MAC, uplinks.OUR_MAC, 0x88cc,
                           bytes(60)),
                # For somebody else: the wire carries it to us as well.
                p.frame(uplinks.CLIENT_MAC, '02:00:00:00:00:77', packet)):
            self.assertUntouched(data)
        self.assertEqual({}, self.entries())
        self.assertEqual({}, self.bench.drops())

    def test_nobody_is_ready(self):
        self.bench.summed = False
        for version in FAMILIES:
            for protocol in PROTOCOLS:
                self.service(VIP[version], protocol=protocol)
                client, vip = CLIENT[version], VIP[version]
                packet = l4(client, vip, protocol, 4000, 80)
                self.assertEqual(bench.REFUSED, self.bench.run(
                    'from_uplink', p.frame(uplinks.CLIENT_MAC,
                                           uplinks.OUR_MAC, packet)))
                found = p.Parsed(self.bench.frame)
                self.assertEqual([], found.wrong_sums())
                self.assertEqual((vip, client), found.flow[:2])
                self.assertEqual((uplinks.OUR_MAC, uplinks.CLIENT_MAC),
                                 (found.smac, found.dmac))
                if protocol == p.TCP:
                    self.assertEqual((80, 4000), found.flow[2:])
                    self.assertEqual(p.RST | p.ACK, found.flags)
                else:
                    self.assertEqual(packet[:20], found.payload[8:28])
        event = self.bench.told()[0]
        self.assertEqual(
            (0, Reason.NO_BACKEND, 7, VIP[4], layout.Direction.INGRESS),
            (event.endpoint, event.reason, event.service, event.destination,
             event.direction))

    def test_local_backends_only_and_none(self):
        for version in FAMILIES:
            self.row(VIP[version], service_rows.Svc(plan.SILENT, 0, 7, 0))
            self.enter(l4(CLIENT[version], VIP[version], p.TCP, 4000, 80),
                       Reason.NO_LOCAL_BACKEND)

    def ranges(self, number, *networks):
        for network, allowed in (('0.0.0.0/0', 0), ('::/0', 0),
                                 *((network, 1) for network in networks)):
            self.bench.update('kc_source',
                              service_rows.SourceKey(number, network).pack(),
                              layout.U32.pack(allowed))

    def test_source_ranges(self):
        self.ranges(7, '198.51.100.8/30', '2001:db8:9::/64')
        for version in FAMILIES:
            self.service(VIP[version], (LOCAL[version], 8080))
            # Of another number, as a node port of the same service.
            self.service(SECOND[version], (LOCAL[version], 8080), number=8)
            self.assertEqual(LOCAL[version], self.ask(version)[1])
            other = {4: '198.51.100.12', 6: '2001:db8:a::9'}
            self.enter(l4(other[version], VIP[version], p.TCP, 4000, 80),
                       Reason.SOURCE_RANGE)
            self.assertEqual(LOCAL[version], self.ask(
                version, vip=SECOND, client=other)[1])
        # A flow that is open stays.
        self.ranges(7)
        libbpf.map_delete(self.bench.fd('kc_source'), service_rows.SourceKey(
            7, '198.51.100.8/30').pack())
        self.assertEqual(LOCAL[4], self.ask(flags=ACK)[1])
        self.enter(l4(CLIENT[4], VIP[4], p.TCP, 4001, 80),
                   Reason.SOURCE_RANGE)


class TestChoice(uplinks.UplinkCase):

    def choices(self, count, first=1000, client=None):
        return collections.Counter(
            self.ask(protocol=p.UDP, sport=port, client=client)[1]
            for port in range(first, first + count))

    def test_every_backend_gets_its_share(self):
        backends = ['10.7.0.%d' % n for n in range(4)]
        self.service(VIP[4], *((address, 53) for address in backends),
                     protocol=p.UDP)
        found = self.choices(400)
        self.assertEqual(set(backends), set(found))
        self.assertTrue(all(60 < count < 140 for count in found.values()))

    def test_affinity(self):
        backends = ['10.7.0.%d' % n for n in range(8)]
        self.service(VIP[4], *((address, 53) for address in backends),
                     protocol=p.UDP, affinity=100)
        clients = [{4: '198.51.100.%d' % n} for n in range(10, 30)]
        first = [self.choices(4, 1000, client) for client in clients]
        self.assertEqual({1}, set(map(len, first)))
        self.assertLess(2, len({*map(tuple, first)}))
        for client, found in zip(clients, first):
            self.assertEqual(set(found), set(self.choices(
                4, 2000, client)))
        self.bench.age_affinity(101)
        self.assertNotEqual(first, [self.choices(4, 3000, client)
                                    for client in clients])

    def test_another_backend_if_the_answers_could_not_be_told_apart(self):
        both = ((LOCAL[4], 8080), (OTHER[4], 8080))
        for address in (VIP[4], SECOND[4]):
            self.service(address, *both)
        for port in range(4000, 4020):
            self.assertEqual({LOCAL[4], OTHER[4]}, {
                self.ask(sport=port)[1],
                self.ask(sport=port, vip=SECOND)[1]})

    def test_no_other_backend(self):
        for address in (VIP[4], SECOND[4]):
            self.service(address, (LOCAL[4], 8080))
        self.ask()
        self.enter(l4(CLIENT[4], SECOND[4], p.TCP, 4000, 80),
                   Reason.SERVICE_TUPLE)
        # The first one is not harmed.
        self.assertEqual((VIP[4], CLIENT[4], 80, 4000), self.answered())
        # Once it has ended, its port is free for what begins.
        self.ask(flags=RST)
        self.assertEqual(LOCAL[4], self.ask(vip=SECOND)[1])
        self.assertEqual((SECOND[4], CLIENT[4], 80, 4000), self.answered())
        # What comes late for the first one does not take it back.
        self.age(1)
        self.enter(l4(CLIENT[4], VIP[4], p.TCP, 4000, 80, ACK),
                   Reason.SERVICE_TUPLE)
        self.assertEqual((SECOND[4], CLIENT[4], 80, 4000), self.answered())

    def test_no_port_is_left(self):
        self.exits(NODE, (61000, 61000))
        self.service(VIP[4], (REMOTE[4], 8080))
        self.ask()
        self.enter(l4(CLIENT[4], VIP[4], p.TCP, 4001, 80),
                   Reason.SOURCE_PORTS)
        # By another backend there is.
        self.service(VIP[4], (OTHER[4], 8080))
        self.assertEqual(OTHER[4], self.ask(sport=4002)[1])
        # And after the first flow's end.
        self.service(VIP[4], (REMOTE[4], 8080))
        self.age(61)
        self.assertEqual(REMOTE[4], self.ask(sport=4001)[1])

    def test_the_node_has_no_address_of_the_family(self):
        self.exits({4: '::', 6: NODE[6]})
        self.service(VIP[4], (REMOTE[4], 8080))
        self.enter(l4(CLIENT[4], VIP[4], p.TCP, 4000, 80),
                   Reason.SOURCE_PORTS)


class TestFlows(uplinks.UplinkCase):

    def setUp(self):
        super().setUp()
        self.to(LOCAL)

    def to(self, backend):
        """Let new flows go there."""
        for protocol in PROTOCOLS:
            self.service(VIP[4], (backend[4], 8080), protocol=protocol)

    def assertGoes(self, backend, flags=ACK, protocol=p.TCP):
        self.assertEqual(backend[4], self.ask(protocol=protocol,
                                              flags=flags)[1])

    def open(self, protocol=p.TCP):
        self.ask(protocol=protocol)
        self.answered(protocol=protocol)
        self.ask(protocol=protocol, flags=ACK)

    def test_keeps_its_backend(self):
        for protocol in PROTOCOLS:
            self.to(LOCAL)
            self.open(protocol)
            self.to(OTHER)
            self.assertGoes(LOCAL, protocol=protocol)
            self.service(VIP[4], protocol=protocol)
            self.assertGoes(LOCAL, protocol=protocol)
            self.assertEqual((VIP[4], CLIENT[4], 80, 4000),
                             self.answered(protocol=protocol, flags=ACK))

    def test_the_first_packet_again(self):
        self.ask()
        self.to(OTHER)
        self.assertGoes(LOCAL, SYN)
        self.age(61)
        self.assertGoes(OTHER, SYN)

    def test_a_port_that_is_used_again(self):
        self.open()
        self.to(OTHER)
        for ends in ((self.ask, FIN), (self.answered, FIN)):
            self.assertGoes(LOCAL, SYN)
            ends[0](flags=ends[1])
        # The last packets still find their way.
        self.assertGoes(LOCAL)
        self.assertGoes(OTHER, SYN)
        self.assertEqual((VIP[4], CLIENT[4], 80, 4000),
                         self.answered(backend=OTHER))
        self.assertEqual((LOCAL[4], CLIENT[4], 8080, 4000), self.answered())

    def test_after_a_reset(self):
        for ends in (self.ask, self.answered):
            self.to(LOCAL)
            self.open()
            ends(flags=RST)
            self.to(OTHER)
            self.assertGoes(OTHER, SYN)
            self.ask(flags=RST)

    def test_a_syn_on_an_open_flow(self):
        self.open()
        self.to(OTHER)
        self.age(30)
        # It does not make the flow younger.
        self.assertGoes(LOCAL, SYN)
        self.assertLess(29e9, bench.now() - self.flow().last)
        self.age(61)
        self.assertGoes(OTHER, SYN)

    def test_how_long_it_lives(self):
        for protocol, flags, answered, life in (
                (p.TCP, SYN, False, 60), (p.TCP, ACK, True, 86400),
                (p.UDP, SYN, False, 30), (p.UDP, SYN, True, 180)):
            self.to(LOCAL)
            self.ask(protocol=protocol)
            if answered:
                self.open(protocol)
            self.to(OTHER)
            self.age(life - 1)
            self.assertGoes(LOCAL, flags, protocol)
            self.age(life + 1)
            self.assertEqual(
                OTHER[4] if flags == SYN else VIP[4],
                self.ask(protocol=protocol, flags=flags)[1])
            self.delete(*self.entries())

    def test_answers_keep_it(self):
        self.open(p.UDP)
        self.age(100)
        self.answered(protocol=p.UDP)
        self.assertGreater(1e9, bench.now() - self.flow().last)

    def test_open_once_the_client_goes_on(self):
        """Then no flood of requests pushes it out."""
        for protocol in PROTOCOLS:
            for backend, count in ((LOCAL, 2), (REMOTE, 4)):
                self.to(backend)
                self.ask(protocol=protocol)
                self.ask(protocol=protocol)
                self.assertEqual({}, self.entries('kc_out'))
                self.answered(protocol=protocol, backend=backend)
                before = {key: entry[1:3] + entry[4:] for key, entry
                          in self.entries('kc_out_new').items()}
                self.assertEqual(count, len(before))
                self.ask(protocol=protocol, flags=ACK)
                self.assertEqual(before, {
                    key: entry[1:3] + entry[4:] for key, entry
                    in self.entries('kc_out').items()})
                self.assertEqual({}, self.entries('kc_out_new'))
                self.assertTrue(self.flow().flags & Flag.OPEN)
                self.ask(protocol=protocol, flags=ACK)
                self.delete(*self.entries())

    def test_a_reset_does_not_open_it(self):
        """Who is asked in the name of somebody else answers by one."""
        self.ask()
        self.answered()
        self.ask(flags=RST)
        self.assertEqual({}, self.entries('kc_out'))

    def test_an_open_one_begins_anew(self):
        self.open()
        self.ask(flags=RST)
        self.to(OTHER)
        self.assertGoes(OTHER, SYN)
        self.assertFalse(self.flow().flags & Flag.OPEN)
        # The way back of the former one is left, and counts for nothing.
        self.assertEqual([LOCAL[4]], [
            key.source for key in self.entries('kc_out')])

    def test_ways_count_with_their_flow_only(self):
        self.to(REMOTE)
        self.ask()
        port = self.flow().other_port
        flow, = (key for key, entry in self.entries().items()
                 if entry.flags & Flag.FLOW)
        self.delete(flow)
        self.assertEqual(3, len(self.ways()))
        for packet, run in (
                (l4(CLIENT[4], REMOTE[4], p.TCP, 4000, 8080), self.leave),
                (l4(REMOTE[4], CLIENT[4], p.TCP, 8080, 4000), self.leave),
                (l4(REMOTE[4], NODE[4], p.TCP, 8080, port), self.enter)):
            self.assertEqual(p.Parsed(p.frame(A.mac, A.mac, packet)).flow,
                             run(packet).flow)

    def test_ways_that_were_recycled(self):
        self.to(REMOTE)
        self.ask()
        before = self.ways()
        self.assertEqual(3, len(before))
        self.delete(*before)
        self.age(0.2)
        self.assertGoes(REMOTE)
        self.assertEqual(
            {key: entry[1:] for key, entry in before.items()},
            {key: entry[1:] for key, entry in self.ways().items()})

    def test_a_way_that_is_anothers_now(self):
        self.exits(NODE, (61000, 61000))
        self.to(REMOTE)
        self.ask()
        self.delete(*self.ways())
        # Another client takes its port.
        self.ask(sport=4001)
        self.age(0.2)
        self.enter(l4(CLIENT[4], VIP[4], p.TCP, 4000, 80, ACK),
                   Reason.SERVICE_TUPLE)
        self.assertEqual([4001], [
            key.source_port for key, entry in self.entries().items()
            if entry.flags & Flag.FLOW])

    def test_ways_that_the_flow_has_left(self):
        """It has the same backend again, by another port of the node."""
        self.to(REMOTE)
        self.ask()
        former = self.flow().other_port
        self.ask(flags=RST)
        self.ask()
        port = self.flow().other_port
        self.assertNotEqual(former, port)
        for answered, target in ((port, CLIENT[4]), (former, NODE[4])):
            self.assertEqual(target, self.enter(l4(
                REMOTE[4], NODE[4], p.TCP, 8080, answered,
                SYN_ACK)).flow[1])
        key, = (key for key in self.ways() if key.source == CLIENT[4])
        self.bench.update('kc_out_new', key.pack(), self.ways()[
            key]._replace(port=former).pack())
        self.assertEqual((CLIENT[4], REMOTE[4], 4000, 8080), self.leave(l4(
            CLIENT[4], REMOTE[4], p.TCP, 4000, 8080)).flow)


class TestFlood(uplinks.UplinkCase):

    def setUp(self):
        super().setUp()
        self.bench = self.useFixture(bench.Bench({'kc_out_new': 512}))
        self.prepare()

    def test_requests_push_no_open_flow_out(self):
        for backend, sport in ((LOCAL, 4000), (REMOTE, 4001)):
            self.service(VIP[4], (backend[4], 8080))
            self.ask(sport=sport)
            self.answered(sport=sport, backend=backend)
            self.ask(sport=sport, flags=ACK)
        before = self.entries('kc_out')
        self.assertEqual(6, len(before))
        for port in range(5000, 9000):
            self.ask(sport=port)
        self.assertEqual(before, self.entries('kc_out'))
        self.assertLessEqual(len(self.entries('kc_out_new')), 512)
        self.assertEqual(LOCAL[4], self.ask(flags=ACK)[1])
        self.assertEqual((VIP[4], CLIENT[4], 80, 4000),
                         self.answered(flags=ACK))


class TestFragments(uplinks.UplinkCase):

    def parts(self, source, target, sport, dport):
        """The fragments of a datagram, and its payload when put together."""
        data = p.checked_udp(source, target, sport, dport, bytes(64))
        if p.family(source) == 4:
            return [p.ipv4(source, target, p.UDP, part, offset=offset,
                           more=more) for part, offset, more in (
                (data[:40], 0, True), (data[40:], 5, False))]
        return [p.ipv6(source, target, p.FRAGMENT, p.fragment(
            p.UDP, offset, more) + part) for part, offset, more in (
            (data[:40], 0, True), (data[40:], 5, False))]

    def through(self, program, source, target, sport, dport):
        """Source, target and wrong checksums of what comes out."""
        whole, found = b'', set()
        for packet in self.parts(source, target, sport, dport):
            self.assertEqual(bench.PASS, self.bench.run(program, p.frame(
                uplinks.CLIENT_MAC, uplinks.OUR_MAC, packet)))
            data = self.bench.frame[14:]
            if p.family(source) == 4:
                self.assertEqual(bytes(2), p.checksum(data[:20]))
                found.add((data[12:16], data[16:20]))
                whole += data[20:]
            else:
                found.add((data[8:24], data[24:40]))
                whole += data[48:]
        (source, target), = found
        pseudo = source + target + struct.pack('>II', len(whole), p.UDP)
        self.assertEqual(bytes(2), p.checksum(pseudo + whole))
        return (source, target, *struct.unpack_from('>HH', whole))

    def test_there_and_back(self):
        for version in FAMILIES:
            client, vip, pod = CLIENT[version], VIP[version], LOCAL[version]
            self.service(vip, (pod, 53), protocol=p.UDP)
            self.assertEqual(
                (p.packed(client), p.packed(pod), 4000, 53),
                self.through('from_uplink', client, vip, 4000, 80))
            self.assertEqual(
                (p.packed(vip), p.packed(client), 80, 4000),
                self.through('to_uplink', pod, client, 53, 4000))

    def test_of_what_is_not_a_services(self):
        for packet in (*self.parts(CLIENT[4], VIP[4], 4000, 80),
                       *self.parts(CLIENT[6], VIP[6], 4000, 80)):
            self.assertUntouched(p.frame(uplinks.CLIENT_MAC,
                                         uplinks.OUR_MAC, packet))
        self.assertEqual([], list(libbpf.map_items(
            self.bench.fd('kc_frag'))))

    def test_before_the_first_one(self):
        self.service(VIP[4], (LOCAL[4], 53), protocol=p.UDP)
        self.assertUntouched(p.frame(
            uplinks.CLIENT_MAC, uplinks.OUR_MAC,
            self.parts(CLIENT[4], VIP[4], 4000, 80)[1]))
