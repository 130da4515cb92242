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

"""Connections: who opens them, who answers, when they end."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from tests.functional.datapath import bench
from tests.functional.datapath import flows
from tests.functional.datapath import packets as p

A, PEER, NODE = bench.A, bench.PEER, bench.NODE
PASS, REDIRECT = bench.PASS, bench.REDIRECT
FAMILIES, HALF = flows.FAMILIES, flows.HALF
ALLOW, DENY = flows.ALLOW, flows.DENY
SYN, SYN_ACK, ACK = flows.SYN, flows.SYN_ACK, flows.ACK
FIN, RST = flows.FIN, flows.RST
Flag = layout.CtFlag
Reason = layout.Reason
INGRESS, EGRESS = layout.Direction


class TestTCP(flows.ConnectionCase):

    def test_only_a_syn_opens(self):
        for flags in (SYN_ACK, ACK, FIN, RST, 0, p.RST, p.ACK | 8):
            self.tcp_out(flags, Reason.NO_CONNECTION)
            self.tcp_in(flags, Reason.NO_CONNECTION)

    def test_half_open_until_answered(self):
        self.tcp_out(SYN)
        self.assertEqual(EGRESS, self.only(HALF).direction)
        self.assertEqual(0, self.count())
        # A challenge is no answer, and a repeated SYN none either.
        self.tcp_in(ACK)
        self.tcp_out(SYN)
        self.only(HALF)
        self.tcp_in(SYN_ACK)
        entry = self.only()
        self.assertEqual(Flag.REPLIED, entry.flags)
        self.assertEqual((bench.EPOCH, EGRESS), (entry.epoch,
                                                 entry.direction))
        self.assertEqual(1, self.count())

    def test_both_ways_and_families(self):
        for self.version in FAMILIES:
            self.rules(DENY, ALLOW)
            self.open_out()
            self.tcp_in(ACK)
            self.rules(ALLOW, DENY)
            self.bench.age(1e6)
            self.open_in()
            self.tcp_out(ACK)

    def test_counts(self):
        self.open_out()
        self.tcp_in(ACK)
        entry = self.only()
        self.assertEqual((2, 2), (entry.packets_in, entry.packets_out))
        self.assertEqual((108, 108), (entry.bytes_in, entry.bytes_out))

    def test_refused(self):
        self.tcp_out(SYN)
        self.tcp_in(RST)
        self.assertEqual(Flag.CLOSING, self.only(HALF).flags)
        self.bench.age(11, HALF)
        self.tcp_in(RST, Reason.NO_CONNECTION)
        self.tcp_out(SYN)

    def test_reset(self):
        self.open_out()
        self.tcp_in(RST)
        self.assertTrue(self.only(HALF).flags & Flag.CLOSING)
        self.tcp_out(ACK)
        self.bench.age(11, HALF)
        self.tcp_out(ACK, Reason.NO_CONNECTION)

    def test_closed(self):
        self.open_out()
        self.tcp_out(FIN)
        self.assertEqual(Flag.REPLIED | Flag.FIN_OUT, self.only().flags)
        self.bench.age(3600)
        self.tcp_in(FIN)
        self.tcp_out(ACK)
        self.assertEqual(Flag.REPLIED | Flag.FIN_OUT | Flag.FIN_IN
                         | Flag.CLOSING, self.only(HALF).flags)
        self.tcp_in(SYN_ACK)
        self.only(HALF)
        self.bench.age(11, HALF)
        self.tcp_in(ACK, Reason.NO_CONNECTION)

    def test_opened_again_while_closing(self):
        self.open_out()
        self.tcp_in(RST)
        self.tcp_in(SYN)
        entry = self.only(HALF)
        self.assertEqual((INGRESS, 0), (entry.direction, entry.flags))
        self.assertEqual(0, self.count())
        self.tcp_out(SYN_ACK)
        self.assertEqual(Flag.REPLIED, self.only().flags)

    def test_opened_again_the_same_way(self):
        for end in (RST, FIN):
            self.open_out()
            self.tcp_out(end)
            self.tcp_in(end)
            self.assertTrue(self.only(HALF).flags & Flag.CLOSING)
            self.assertEqual(0, self.count())
            self.open_out()
            self.assertEqual(Flag.REPLIED, self.only().flags)
        self.assertEqual(1, self.count())

    def test_times(self):
        self.tcp_out(SYN)
        self.bench.age(59, HALF)
        self.tcp_in(SYN_ACK)
        self.bench.age(86300)
        self.tcp_in(ACK)
        self.bench.age(86500)
        self.tcp_in(ACK, Reason.NO_CONNECTION)
        # What has expired is replaced.
        self.tcp_in(SYN)
        self.assertEqual(INGRESS, self.only(HALF).direction)
        self.assertEqual(0, self.count())
        self.bench.age(61, HALF)
        self.tcp_out(SYN_ACK, Reason.NO_CONNECTION)

    def clear(self, table):
        fd = self.bench.fd(table)
        rows = [bytes(key) for key, _ in libbpf.map_items(fd)]
        for key in rows:
            libbpf.map_delete(fd, key)
        return len(rows)

    def test_what_an_open_one_leaves_behind_is_nothing(self):
        self.rules(DENY, ALLOW)
        for opened in (self.open_out, self.udp_open_out):
            opened()
            self.assertEqual(1, self.clear('kc_ct'))
            self.assertEqual({}, self.bench.connections(table=HALF))
            self.tcp_in(ACK, Reason.NO_CONNECTION)
            self.udp_in(Reason.POLICY_DENY)
            self.assertEqual(1, self.clear(HALF))

    def udp_open_out(self):
        self.udp_out()
        self.udp_in()
        self.udp_out()

    def test_closed_where_nothing_is_left_behind(self):
        """It is the least recently used there, and so evicted."""
        self.open_out()
        self.assertEqual(1, self.clear(HALF))
        self.tcp_in(RST)
        self.assertEqual(Flag.REPLIED | Flag.CLOSING, self.only(HALF).flags)
        self.assertEqual(0, self.count())

    def test_half_open_expires(self):
        self.tcp_out(SYN)
        self.bench.age(61, HALF)
        self.tcp_in(SYN_ACK, Reason.NO_CONNECTION)

    def test_packets_keep_it(self):
        self.open_out()
        self.bench.age(80000)
        self.tcp_in(ACK)
        self.tcp_out(ACK)
        before = self.only().last
        self.tcp_out(ACK)
        # Not written more often than every 100 ms.
        self.assertEqual(before, self.only().last)

    def test_syn_from_a_port_that_the_peer_has_just_used(self):
        for self.version in FAMILIES:
            self.rules(ALLOW, DENY)
            self.open_in()
            self.tcp_out(SYN, Reason.POLICY_DENY)
            self.tcp_out(ACK)
            self.rules(DENY, ALLOW)
            self.bench.age(1e6)
            self.open_out()
            self.tcp_in(SYN, Reason.POLICY_DENY)
            self.tcp_in(ACK)

    def test_simultaneous_open(self):
        self.tcp_out(SYN)
        self.tcp_in(SYN)
        self.tcp_out(SYN_ACK)
        self.tcp_in(SYN_ACK)
        self.tcp_out(ACK)
        self.assertEqual(Flag.REPLIED, self.only().flags)


class TestOthers(flows.ConnectionCase):

    def test_udp(self):
        for self.version in FAMILIES:
            self.rules(DENY, ALLOW)
            self.udp_in(Reason.POLICY_DENY)
            self.udp_out()
            self.udp_in()
            self.udp_in(Reason.POLICY_DENY, lport=4001)
            self.rules(ALLOW, DENY)
            self.udp_out(Reason.POLICY_DENY, lport=4001)
            self.udp_in(lport=4001)
            self.udp_out(lport=4001)

    def test_a_question_and_its_answer_take_no_room(self):
        for port in range(1, 50):
            self.udp_out(lport=port)
            self.udp_in(lport=port)
        self.assertEqual({}, self.bench.connections())
        self.assertEqual(0, self.count())
        self.udp_out(lport=1)
        self.assertEqual(1, self.count())

    def test_udp_times(self):
        self.rules(DENY, ALLOW)
        self.udp_out()
        self.bench.age(29, HALF)
        self.udp_in()
        self.bench.age(179, HALF)
        self.udp_out()
        self.assertEqual(Flag.REPLIED, self.only().flags)
        self.bench.age(179)
        self.udp_in()
        self.bench.age(181)
        self.udp_in(Reason.POLICY_DENY)
        self.udp_out(lport=1)
        self.bench.age(31, HALF)
        self.udp_in(Reason.POLICY_DENY, lport=1)

    def test_echo(self):
        for self.version in FAMILIES:
            self.rules(DENY, ALLOW)
            self.echo_in(Reason.NO_CONNECTION, reply=True)
            self.echo_out()
            self.echo_in(reply=True)
            # The same identifier, but asked by the peer.
            self.echo_in(Reason.POLICY_DENY)
            self.echo_out(Reason.NO_CONNECTION, reply=True)
            self.echo_in(Reason.NO_CONNECTION, reply=True, ident=6)
            self.rules(ALLOW, DENY)
            self.echo_out(Reason.POLICY_CHANGED)
            self.echo_out(Reason.POLICY_DENY, ident=6)
            self.echo_in()
            self.echo_out(reply=True)
            self.echo_in(Reason.POLICY_CHANGED, reply=True)

    def test_sctp(self):
        def out(chunk, expected=REDIRECT):
            self.assertOut(expected, p.ip(A.v4, PEER[4], p.SCTP,
                                          p.sctp(4000, 80, chunk)))

        def into(chunk, expected=REDIRECT):
            self.assertInto(expected, p.ip(PEER[4], A.v4, p.SCTP,
                                           p.sctp(80, 4000, chunk)))

        self.rules(DENY, ALLOW)
        into(1, Reason.POLICY_DENY)
        into(2, Reason.NO_CONNECTION)
        out(0, Reason.NO_CONNECTION)
        out(1)
        into(2)
        out(0)
        into(1, Reason.POLICY_DENY)
        into(6)
        self.assertTrue(self.only(HALF).flags & Flag.CLOSING)

    def test_other_protocols_answer_too(self):
        self.rules(DENY, ALLOW)
        packet = p.ip(PEER[4], A.v4, 47, b'data')
        self.assertInto(Reason.POLICY_DENY, packet)
        self.assertOut(REDIRECT, p.ip(A.v4, PEER[4], 47, b'data'))
        self.assertInto(REDIRECT, packet)

    def test_other_icmp_is_no_answer(self):
        self.rules(DENY, ALLOW)
        self.assertOut(REDIRECT, p.ip(A.v4, PEER[4], p.ICMP, p.icmp(13)))
        self.assertInto(Reason.POLICY_DENY, p.ip(
            PEER[4], A.v4, p.ICMP, p.icmp(14)))

    def test_group(self):
        for version in FAMILIES:
            self.rules(ALLOW, DENY)
            packet = p.ip(PEER[version], bench.GROUP[version], p.UDP,
                          p.udp(80, 5353))
            self.assertInto(REDIRECT, packet)
            self.rules(DENY, ALLOW)
            self.assertInto(Reason.POLICY_CHANGED, packet)
            self.assertOut(REDIRECT, p.ip(
                A.address(version), bench.GROUP[version], p.UDP,
                p.udp(5353, 5353)))


class TestRoom(flows.ConnectionCase):

    def converse(self, port):
        """Have a connection that stands."""
        self.udp_out(lport=port)
        self.udp_in(lport=port)
        self.udp_out(lport=port)

    def test_quota(self):
        self.bench.set_meta(layout.Meta.CT_QUOTA, 3)
        for port in range(3):
            self.converse(port)
        self.udp_out(lport=3)
        self.udp_in(lport=3)
        self.udp_out(Reason.CT_QUOTA, lport=3)
        # What is open stays so, and the node's own traffic passes.
        self.udp_in(lport=2)
        packet = p.ip(NODE[4], A.v4, p.UDP, p.udp(1, 2))
        self.assertEqual(PASS, self.bench.from_host(packet))
        self.assertOut(PASS, p.ip(A.v4, NODE[4], p.UDP, p.udp(2, 1)))
        self.assertEqual(PASS, self.bench.from_host(packet))
        self.assertEqual(4, self.count())

    def test_what_is_closed_is_not_of_the_quota(self):
        self.bench.set_meta(layout.Meta.CT_QUOTA, 1)
        for port in range(1, 100):
            for flags, into in ((SYN, False), (SYN_ACK, True),
                                (FIN, False), (FIN, True), (ACK, False)):
                if into:
                    self.assertInto(REDIRECT, p.ip(
                        PEER[4], A.v4, p.TCP, p.tcp(80, port, flags)))
                else:
                    self.assertOut(REDIRECT, p.ip(
                        A.v4, PEER[4], p.TCP, p.tcp(port, 80, flags)))
        self.assertEqual({}, self.bench.connections())
        self.assertEqual(0, self.count())

    def test_full(self):
        self.bench = self.useFixture(bench.Bench({'kc_ct': 2}))
        for port in range(2):
            self.converse(port)
        self.udp_out(lport=3)
        self.udp_in(lport=3)
        self.udp_out(Reason.CT_FULL, lport=3)
        self.udp_in(lport=1)
        packet = p.ip(NODE[4], A.v4, p.UDP, p.udp(1, 2))
        self.assertEqual(PASS, self.bench.from_host(packet))
        self.assertOut(PASS, p.ip(A.v4, NODE[4], p.UDP, p.udp(2, 1)))
        self.assertEqual(PASS, self.bench.from_host(packet))

    def test_requests_push_no_connection_out(self):
        self.bench = self.useFixture(bench.Bench({'kc_ct_new': 64}))
        self.open_out()
        for port in range(500):
            self.udp_out(lport=port)
        self.tcp_in(ACK)
        self.assertLessEqual(len(self.bench.connections(table=HALF)), 64)

    def test_events_have_a_limit(self):
        self.bench.set_meta(layout.Meta.EVENT_RATE, 3)
        self.rules(DENY, ALLOW)
        for port in range(100):
            self.udp_in(Reason.POLICY_DENY, lport=port)
            self.udp_out(lport=port + 1000)
        told = [event.reason for event in self.bench.told()]
        # The clock may have gone on to the next seconds meanwhile, and the
        # test to the other CPU.
        for reason in (Reason.POLICY_DENY, Reason.ALLOWED):
            self.assertIn(told.count(reason), range(3, 13))
        self.assertEqual({Reason.POLICY_DENY: 100}, self.bench.drops())
