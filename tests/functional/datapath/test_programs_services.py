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

"""Services: what goes to their addresses, and what comes back."""

import collections

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import service_rows
from tests.functional.datapath import bench
from tests.functional.datapath import flows
from tests.functional.datapath import packets as p

A, B, PEER, OTHER, NODE = bench.A, bench.B, bench.PEER, bench.OTHER, bench.NODE
PASS, REDIRECT = bench.PASS, bench.REDIRECT
FAMILIES, HALF = flows.FAMILIES, flows.HALF
ALLOW, DENY = flows.ALLOW, flows.DENY
SYN, SYN_ACK, ACK, FIN = flows.SYN, flows.SYN_ACK, flows.ACK, flows.FIN
Flag, Reason = layout.CtFlag, layout.Reason

VIP = {4: '172.30.0.10', 6: 'fd30::10'}
SECOND = {4: '172.30.0.11', 6: 'fd30::11'}
#: By which a pod sees itself.
SELF = {4: '169.254.42.1', 6: 'fd31::1'}
MAC = '02:00:00:00:07:07'
PROTOCOLS = (p.TCP, p.UDP)


def l4(source, target, protocol, sport, dport, flags=SYN, payload=b'data'):
    """A packet with right checksums."""
    pseudo = p.packed(source) + p.packed(target)
    if protocol == p.TCP:
        return p.ip(source, target, p.TCP,
                    p.tcp(sport, dport, flags, payload, pseudo))
    return p.ip(source, target, p.UDP, p.checked_udp(source, target, sport,
                                                     dport, payload))


class ServiceCase(bench.Case):

    def setUp(self):
        super().setUp()
        self._numbers = iter(range(100, 1000))
        for version in FAMILIES:
            self.bench.update(
                'kc_backend', service_rows.BackendKey(0, version).pack(),
                service_rows.Backend(SELF[version], 0, None, 0).pack())

    def service(self, address, port=80, protocol=p.TCP, backends=(),
                affinity=0, number=7):
        """Write a service.

        :param backends: (address, port) or (address, port, MAC address).
        """
        rows = next(self._numbers)
        for index, backend in enumerate(backends):
            mac = backend[2] if len(backend) > 2 else None
            self.bench.update(
                'kc_backend', service_rows.BackendKey(rows, index).pack(),
                service_rows.Backend(*backend[:2], mac, bench.NETWORK).pack())
        self.bench.update(
            'kc_svc', service_rows.SvcKey(0, address, port, protocol).pack(),
            service_rows.Svc(rows, len(backends), number, affinity).pack())

    def sent(self, packet, expected=REDIRECT, **frame):
        """What becomes of what pod A sends."""
        self.assertOut(expected, packet, **frame)
        return self.parse()

    def received(self, packet, expected=REDIRECT, **frame):
        self.assertInto(expected, packet, **frame)
        return self.parse()

    def parse(self):
        """The frame that came out; its checksums are right."""
        found = p.Parsed(self.bench.frame)
        self.assertEqual([], found.wrong_sums())
        return found

    def entries(self):
        return {**self.bench.connections(),
                **self.bench.connections(table=HALF)}


class TestTranslation(ServiceCase):

    def test_there_and_back(self):
        for version in FAMILIES:
            for protocol in PROTOCOLS:
                with self.subTest(version=version, protocol=protocol):
                    self._there_and_back(version, protocol)

    def _there_and_back(self, version, protocol):
        mine, vip, peer = A.address(version), VIP[version], PEER[version]
        self.service(vip, 80, protocol, [(peer, 8080)])
        out = self.sent(l4(mine, vip, protocol, 4000, 80))
        self.assertEqual((mine, peer, 4000, 8080), out.flow)
        self.assertEqual(bench.ROUTER_MAC, out.dmac)
        back = self.received(l4(peer, mine, protocol, 8080, 4000, SYN_ACK))
        self.assertEqual((vip, mine, 80, 4000), back.flow)
        for _time in range(2):
            out = self.sent(l4(mine, vip, protocol, 4000, 80, ACK))
            self.assertEqual((mine, peer, 4000, 8080), out.flow)
            back = self.received(l4(peer, mine, protocol, 8080, 4000, ACK))
            self.assertEqual((vip, mine, 80, 4000), back.flow)

    def test_two_entries_that_live_together(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.assertEqual(2, len(self.bench.connections(table=HALF)))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.assertEqual({}, self.bench.connections(table=HALF))
        alias, = (entry for entry in self.bench.connections().values()
                  if entry.flags & Flag.ALIAS)
        main, = (entry for entry in self.bench.connections().values()
                 if not entry.flags & Flag.ALIAS)
        self.assertEqual((PEER[4], 8080), (alias.nat, alias.nat_port))
        self.assertEqual((VIP[4], 80), (main.nat, main.nat_port))
        self.assertEqual(2, self.count())
        self.assertCloses()

    def assertCloses(self):
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, FIN))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, FIN))
        self.assertEqual({}, self.bench.connections())
        self.assertEqual(0, self.count())
        # The last acknowledgement still finds its way.
        out = self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK))
        self.assertEqual(PEER[4], out.flow[1])

    def test_closed_where_nothing_is_left_behind(self):
        """Both entries are evicted where they began."""
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        for key, _ in list(libbpf.map_items(self.bench.fd(HALF))):
            libbpf.map_delete(self.bench.fd(HALF), key)
        self.assertCloses()

    def count(self):
        return layout.U64.unpack(libbpf.map_lookup(
            self.bench.fd('kc_ct_count'), layout.U32.pack(A.number)))[0]

    def test_on_link_backend(self):
        self.service(VIP[4], backends=[(PEER[4], 8080, MAC)])
        for flags in (SYN, SYN):
            out = self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, flags))
            self.assertEqual(MAC, out.dmac)

    def test_a_live_flow_keeps_its_backend(self):
        backends = [(PEER[4], 8080), (OTHER[4], 8080)]
        for protocol in PROTOCOLS:
            self.service(VIP[4], 80, protocol, backends[:1])
            self.sent(l4(A.v4, VIP[4], protocol, 4000, 80))
            self.received(l4(PEER[4], A.v4, protocol, 8080, 4000, SYN_ACK))
            self.service(VIP[4], 80, protocol, backends[1:])
            out = self.sent(l4(A.v4, VIP[4], protocol, 4000, 80, ACK))
            self.assertEqual(PEER[4], out.flow[1])
            out = self.sent(l4(A.v4, VIP[4], protocol, 4001, 80))
            self.assertEqual(OTHER[4], out.flow[1])
            # Even if the service goes.
            self.service(VIP[4], 80, protocol, [])
            out = self.sent(l4(A.v4, VIP[4], protocol, 4000, 80, ACK))
            self.assertEqual(PEER[4], out.flow[1])

    def test_a_port_that_is_used_again(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, FIN))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, FIN))
        self.service(VIP[4], backends=[(OTHER[4], 8080)])
        out = self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.assertEqual(OTHER[4], out.flow[1])
        back = self.received(l4(OTHER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.assertEqual(VIP[4], back.flow[0])
        out = self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK))
        self.assertEqual(OTHER[4], out.flow[1])

    def test_nobody_else_answers_for_a_service(self):
        self.service(VIP[4], 80, p.UDP, [(PEER[4], 53)])
        self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        before = self.entries()
        self.received(l4(VIP[4], A.v4, p.UDP, 80, 4000), Reason.SERVICE_TUPLE)
        self.assertEqual(before, self.entries())
        self.received(l4(VIP[4], A.v4, p.UDP, 80, 4001))

    def test_a_port_that_is_used_again_without_the_service(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.sent(l4(A.v4, PEER[4], p.TCP, 4000, 8080), Reason.SERVICE_TUPLE)
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, p.RST))
        self.sent(l4(A.v4, PEER[4], p.TCP, 4000, 8080))
        back = self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.assertEqual((PEER[4], A.v4, 8080, 4000), back.flow)

    def test_expired_and_used_again(self):
        self.service(VIP[4], 80, p.UDP, [(PEER[4], 53)])
        self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        self.received(l4(PEER[4], A.v4, p.UDP, 53, 4000))
        self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        self.bench.age(200)
        self.service(VIP[4], 80, p.UDP, [(OTHER[4], 53)])
        out = self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        self.assertEqual(OTHER[4], out.flow[1])
        self.received(l4(OTHER[4], A.v4, p.UDP, 53, 4000))
        out = self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        self.assertEqual(OTHER[4], out.flow[1])

    def test_an_acknowledgement_opens_nothing(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK),
                  Reason.NO_CONNECTION)
        self.assertEqual({}, self.entries())

    def test_no_checksum_stays_none(self):
        self.service(VIP[4], 80, p.UDP, [(PEER[4], 53)])
        self.sent(p.ip(A.v4, VIP[4], p.UDP, p.udp(4000, 80)))
        self.assertEqual(0, p.Parsed(self.bench.frame).sum)

    def test_options_and_extensions(self):
        payload = p.tcp(4000, 80, SYN, b'', p.packed(A.v4) +
                        p.packed(VIP[4]))
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(p.ipv4(A.v4, VIP[4], p.TCP, payload, b'\1\1\1\0'))
        payload = p.checked_udp(A.v6, VIP[6], 4000, 80, b'data')
        self.service(VIP[6], 80, p.UDP, [(PEER[6], 53)])
        out = self.sent(p.ipv6(A.v6, VIP[6], p.DESTINATION,
                               p.extension(p.UDP) + payload))
        self.assertEqual((A.v6, PEER[6], 4000, 53), out.flow)

    def test_fragments(self):
        datagram = p.checked_udp(A.v4, VIP[4], 4000, 80, bytes(64))
        self.service(VIP[4], 80, p.UDP, [(PEER[4], 53)])
        parts = [(datagram[:40], 0, True), (datagram[40:], 5, False)]
        whole = b''
        for data, offset, more in parts:
            self.assertOut(REDIRECT, p.ipv4(A.v4, VIP[4], p.UDP, data,
                                            offset=offset, more=more))
            packet = self.bench.frame[14:]
            self.assertEqual(p.packed(PEER[4]), packet[16:20])
            self.assertEqual(bytes(2), p.checksum(packet[:20]))
            whole += packet[20:]
        self.assertEqual([], p.Parsed(p.frame(
            A.mac, MAC, p.ipv4(A.v4, PEER[4], p.UDP, whole))).wrong_sums())
        answer = p.checked_udp(PEER[4], A.v4, 53, 4000, bytes(64))
        for data, offset, more in ((answer[:40], 0, True),
                                   (answer[40:], 5, False)):
            self.assertInto(REDIRECT, p.ipv4(PEER[4], A.v4, p.UDP, data,
                                             offset=offset, more=more))
            self.assertEqual(p.packed(VIP[4]), self.bench.frame[26:30])

    def test_sctp_keeps_its_port(self):
        packet = p.ip(A.v4, VIP[4], p.SCTP, p.sctp(4000, 80))
        self.service(VIP[4], 80, p.SCTP, [(PEER[4], 80)])
        self.assertEqual((A.v4, PEER[4], 4000, 80), self.sent(packet).flow)
        self.service(VIP[4], 80, p.SCTP, [(PEER[4], 81)])
        self.sent(p.ip(A.v4, VIP[4], p.SCTP, p.sctp(4001, 80)),
                  Reason.INTERNAL)

    def test_node_port(self):
        self.bench.set_meta(layout.Meta.NODE_PORTS, 30000 << 16 | 32767)
        remote = {4: '192.0.2.2', 6: 'fd51::2'}
        for version in FAMILIES:
            for node in (NODE, remote):
                self.service(node[version], 0, 255)
            any_ = '0.0.0.0' if version == 4 else '::'
            self.service(any_, 30080, p.TCP, [(PEER[version], 8080)])
            mine = A.address(version)
            for port, node in enumerate((NODE, remote)):
                out = self.sent(l4(mine, node[version], p.TCP, port, 30080))
                self.assertEqual(PEER[version], out.flow[1])
            # Of nobody else's address.
            out = self.sent(l4(mine, OTHER[version], p.TCP, 3, 30080))
            self.assertEqual(OTHER[version], out.flow[1])

    def test_backend_is_the_node(self):
        self.service(VIP[4], backends=[(NODE[4], 6443)])
        out = self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80), PASS)
        self.assertEqual((A.v4, NODE[4], 4000, 6443), out.flow)
        self.assertEqual(PASS, self.bench.from_host(l4(
            NODE[4], A.v4, p.TCP, 6443, 4000, SYN_ACK), 0))
        self.assertEqual((VIP[4], A.v4, 80, 4000), self.parse().flow)


class TestPolicy(ServiceCase):

    def test_the_backend_is_judged(self):
        self.bench.endpoint(A, ALLOW, DENY)
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80), Reason.POLICY_DENY)
        event, = self.bench.told()
        self.assertEqual((PEER[4], 8080, 7),
                         (event.destination, event.destination_port,
                          event.service))
        self.assertEqual({}, self.entries())

    def test_cut_by_a_change(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, SYN_ACK))
        self.bench.endpoint(A, ALLOW, DENY)
        self.bench.next_epoch()
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK),
                  Reason.POLICY_CHANGED)
        self.received(l4(PEER[4], A.v4, p.TCP, 8080, 4000, ACK),
                      Reason.POLICY_CHANGED)


class TestEvents(ServiceCase):
    """Whatever the packet of a flow, its service is named."""

    def assertTold(self, *services):
        self.assertEqual(list(services), [
            event.service for event in self.bench.told()])

    def cut(self, pod=A):
        self.bench.told()
        self.bench.endpoint(pod, ALLOW, DENY)
        self.bench.next_epoch()

    def test_later_packets(self):
        for version in FAMILIES:
            for protocol in PROTOCOLS:
                with self.subTest(version=version, protocol=protocol):
                    self._later_packets(version, protocol)

    def _later_packets(self, version, protocol):
        mine, vip, peer = A.address(version), VIP[version], PEER[version]
        changed = Reason.POLICY_CHANGED
        self.bench.endpoint(A)
        self.bench.next_epoch()
        self.service(vip, 80, protocol, [(peer, 8080)])
        self.sent(l4(mine, vip, protocol, 4000, 80))
        answer = self.received(l4(peer, mine, protocol, 8080, 4000, SYN_ACK))
        self.assertTold(7)
        self.cut()
        self.sent(l4(mine, vip, protocol, 4000, 80, ACK), changed)
        self.received(l4(peer, mine, protocol, 8080, 4000, ACK), changed)
        # Errors about it, each way.
        self.sent(p.ip(mine, vip, *p.error(mine, vip, answer.packet)),
                  changed)
        self.received(p.ip(peer, mine, *p.error(
            peer, mine, l4(mine, peer, protocol, 4000, 8080))), changed)
        self.assertTold(7, 7, 7, 7)

    def test_by_node_port(self):
        self.bench.set_meta(layout.Meta.NODE_PORTS, 30000 << 16 | 32767)
        self.bench.update('kc_svc', service_rows.SvcKey(
            0, NODE[4], 0, 255).pack(), service_rows.Svc(0, 0, 0, 0).pack())
        self.service('0.0.0.0', 30080, backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, NODE[4], p.TCP, 4000, 30080))
        self.cut()
        self.sent(l4(A.v4, NODE[4], p.TCP, 4000, 30080, ACK),
                  Reason.POLICY_CHANGED)
        self.assertTold(7)

    def test_of_no_connection(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK),
                  Reason.NO_CONNECTION)
        self.assertTold(7)

    def test_service_that_is_gone(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        libbpf.map_delete(self.bench.fd('kc_svc'), service_rows.SvcKey(
            0, VIP[4], 80, p.TCP).pack())
        self.cut()
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80, ACK),
                  Reason.POLICY_CHANGED)
        self.assertTold(0)

    def test_neighbours(self):
        # B, the backend, knows nothing of the service.
        for pod in (A, B):
            self.bench.endpoint(pod, fastpath=True)
        self.service(VIP[4], backends=[(B.v4, 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))
        self.assertEqual([(A.number, 7), (B.number, 0)], [
            (event.endpoint, event.service) for event in self.bench.told()])
        self.bench.endpoint(B, DENY, ALLOW, fastpath=True)
        self.bench.next_epoch()
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80), Reason.POLICY_CHANGED)
        self.assertEqual([(B.number, 0)], [
            (event.endpoint, event.service) for event in self.bench.told()])


class TestHop(ServiceCase):

    def test_backend_is_a_neighbour(self):
        for version in FAMILIES:
            self.bench.endpoint(A, fastpath=True)
            self.bench.endpoint(B, fastpath=True)
            mine, vip = A.address(version), VIP[version]
            self.service(vip, backends=[(B.address(version), 8080)])
            out = self.sent(l4(mine, vip, p.TCP, 4000, 80))
            self.assertEqual((mine, B.address(version), 4000, 8080),
                             out.flow)
            self.assertEqual(B.mac, out.dmac)
        # The backend knows nothing of the service.
        for entry in self.bench.connections(B, HALF).values():
            self.assertEqual((0, 0), (entry.flags, entry.nat_port))

    def test_answer_of_a_neighbour(self):
        # Seen from the other side: B is the client, A the backend.
        self.bench.endpoint(A, fastpath=True)
        self.bench.endpoint(B, fastpath=True)
        entry = layout.Ct(bench.now(), 0, 0, 0, 0, bench.EPOCH, 0, 0,
                          layout.Direction.EGRESS)
        self.bench.update(HALF, layout.CtKey(
            B.number, p.TCP, 0, 4000, 8080, A.v4).pack(), entry._replace(
                nat_port=80, nat=VIP[4]).pack())
        self.bench.update(HALF, layout.CtKey(
            A.number, p.TCP, 0, 8080, 4000, B.v4).pack(), entry._replace(
                direction=layout.Direction.INGRESS).pack())
        out = self.sent(l4(A.v4, B.v4, p.TCP, 8080, 4000, SYN_ACK),
                        dmac=B.mac)
        self.assertEqual((VIP[4], B.v4, 80, 4000), out.flow)


class TestChoice(ServiceCase):

    def _backends(self, address, count, sport=1000, protocol=p.UDP):
        found = collections.Counter()
        for port in range(sport, sport + count):
            out = self.sent(l4(A.v4, address, protocol, port, 80))
            found[out.flow[1]] += 1
        return found

    def test_all_are_chosen(self):
        wanted = {'10.9.1.%d' % n for n in range(5)}
        self.service(VIP[4], 80, p.UDP, [(a, 80) for a in sorted(wanted)])
        found = self._backends(VIP[4], 500)
        self.assertEqual(wanted, set(found))
        self.assertLess(max(found.values()), 170)

    def test_affinity(self):
        backends = [('10.9.1.%d' % n, 80) for n in range(5)]
        self.service(VIP[4], 80, p.UDP, backends, affinity=100)
        (chosen, _), = self._backends(VIP[4], 50).items()
        self.bench.age_affinity(99)
        self.assertEqual({chosen}, set(self._backends(VIP[4], 1, 2000)))
        self.bench.age_affinity(101)
        many = set()
        for number in range(30):
            self.bench.age_affinity(101)
            many |= set(self._backends(VIP[4], 1, 3000 + number))
        self.assertGreater(len(many), 1)

    def test_two_services_with_one_backend(self):
        for address, number in ((VIP[4], 7), (SECOND[4], 8)):
            self.service(address, 80, p.UDP, [(PEER[4], 53)], number=number)
        self.sent(l4(A.v4, VIP[4], p.UDP, 4000, 80))
        self.sent(l4(A.v4, SECOND[4], p.UDP, 4000, 80), Reason.SERVICE_TUPLE)
        # With another backend there is a way.
        self.service(SECOND[4], 80, p.UDP, [(PEER[4], 53), (OTHER[4], 53)])
        out = self.sent(l4(A.v4, SECOND[4], p.UDP, 4000, 80))
        self.assertEqual(OTHER[4], out.flow[1])
        # The backend itself is another way to be taken for the service.
        self.sent(l4(A.v4, PEER[4], p.UDP, 4000, 53), Reason.SERVICE_TUPLE)
        self.sent(l4(A.v4, PEER[4], p.UDP, 4001, 53))
        self.sent(l4(A.v4, VIP[4], p.UDP, 4001, 80), Reason.SERVICE_TUPLE)

    def test_the_backend_itself_from_a_port_of_a_service(self):
        self.service(VIP[4], backends=[(PEER[4], 8080)])
        self.service(VIP[4], 80, p.UDP, [(PEER[4], 8080)])

        def ask(address, port, protocol, flags=SYN, expected=REDIRECT):
            self.assertOut(expected, l4(A.v4, address, protocol, 4000, port,
                                        flags))

        for protocol in PROTOCOLS:
            ask(VIP[4], 80, protocol)
            self.received(l4(PEER[4], A.v4, protocol, 8080, 4000, SYN_ACK))
            # Its answers would be taken for the service's.
            ask(PEER[4], 8080, protocol, SYN, Reason.SERVICE_TUPLE)
            if protocol == p.TCP:
                ask(VIP[4], 80, protocol, p.RST)
                # What is closed is opened by nothing else.
                ask(PEER[4], 8080, protocol, ACK, Reason.SERVICE_TUPLE)
            else:
                self.bench.age(200, HALF)
            ask(PEER[4], 8080, protocol)
            back = self.received(l4(PEER[4], A.v4, protocol, 8080, 4000,
                                    SYN_ACK))
            self.assertEqual(PEER[4], back.flow[0])
            # And now the other way round.
            ask(VIP[4], 80, protocol, SYN, Reason.SERVICE_TUPLE)
            self.bench.age(90000)
            self.bench.age(90000, HALF)
            ask(VIP[4], 80, protocol)
            back = self.received(l4(PEER[4], A.v4, protocol, 8080, 4000,
                                    SYN_ACK))
            self.assertEqual(VIP[4], back.flow[0])


class TestHairpin(ServiceCase):

    def test_a_pod_reaches_itself(self):
        for version in FAMILIES:
            for protocol in PROTOCOLS:
                with self.subTest(version=version, protocol=protocol):
                    # Policy does not keep a pod from itself.
                    self.bench.endpoint(A, DENY, DENY)
                    self._itself(version, protocol)

    def _itself(self, version, protocol):
        mine, vip, self_ = A.address(version), VIP[version], SELF[version]
        self.service(vip, 80, protocol, [(mine, 8080)])
        for flags in (SYN, ACK):
            out = self.sent(l4(mine, vip, protocol, 4000, 80, flags))
            self.assertEqual((self_, mine, 4000, 8080), out.flow)
            back = self.sent(l4(mine, self_, protocol, 8080, 4000, flags))
            self.assertEqual((vip, mine, 80, 4000), back.flow)

    def test_it_opens_nothing_to_others(self):
        for version in FAMILIES:
            mine, self_ = A.address(version), SELF[version]
            self.service(VIP[version], 80, p.UDP, [(mine, 8080)])
            self.sent(l4(mine, VIP[version], p.UDP, 4000, 80))
            # From beyond the switch, under the address of the pod itself.
            self.received(l4(self_, mine, p.UDP, 4000, 8080),
                          Reason.SERVICE_TUPLE)
            self.received(l4(VIP[version], mine, p.UDP, 80, 4000),
                          Reason.SERVICE_TUPLE)


class TestRefusal(ServiceCase):

    def setUp(self):
        super().setUp()
        self.bench.summed = False

    def test_reset(self):
        for version in FAMILIES:
            mine, vip = A.address(version), VIP[version]
            self.service(vip)
            self.sent(l4(mine, vip, p.TCP, 4000, 80, p.SYN, b'early'),
                      bench.REFUSED)
            out = self.parse()
            self.assertEqual((vip, mine, 80, 4000), out.flow)
            self.assertEqual((bench.ROUTER_MAC, A.mac), (out.smac, out.dmac))
            self.assertEqual(p.RST | p.ACK, out.flags)
            self.assertEqual(1 + 1 + len(b'early'), out.ack)

    def test_unreachable(self):
        for version in FAMILIES:
            mine, vip = A.address(version), VIP[version]
            self.service(vip, 53, p.UDP)
            packet = l4(mine, vip, p.UDP, 4000, 53)
            self.sent(packet, bench.REFUSED)
            out = self.parse()
            self.assertEqual((vip, mine), out.flow[:2])
            self.assertEqual((3, 3) if version == 4 else (1, 4),
                             tuple(out.payload[:2]))
            quoted = out.payload[8:]
            self.assertEqual(packet[:len(quoted)], quoted)
            self.assertGreaterEqual(len(quoted), 28 if version == 4 else 48)

    def test_a_port_that_the_service_has_not(self):
        self.service(VIP[4], 0, 0)
        self.service(VIP[4], 80, backends=[(PEER[4], 8080)])
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 81), bench.REFUSED)
        self.sent(l4(A.v4, VIP[4], p.TCP, 4000, 80))


class TestErrors(ServiceCase):

    def test_to_the_client(self):
        for version in FAMILIES:
            mine, vip, peer = A.address(version), VIP[version], PEER[version]
            self.service(vip, 80, p.UDP, [(peer, 53)])
            sent = self.sent(l4(mine, vip, p.UDP, 4000, 80))
            for source in (peer, OTHER[version]):
                back = self.received(p.ip(source, mine, *p.error(
                    source, mine, sent.packet)))
                # From the backend itself, or a router on the way.
                self.assertEqual(vip if source == peer else source,
                                 back.flow[0])
                quoted = p.Parsed(p.frame(A.mac, A.mac, back.payload[8:]))
                self.assertEqual((mine, vip, 4000, 80), quoted.flow)

    def test_of_the_client(self):
        for version in FAMILIES:
            mine, vip, peer = A.address(version), VIP[version], PEER[version]
            self.service(vip, 80, p.UDP, [(peer, 53)])
            self.sent(l4(mine, vip, p.UDP, 4000, 80))
            answer = self.received(l4(peer, mine, p.UDP, 53, 4000))
            out = self.sent(p.ip(mine, vip, *p.error(mine, vip,
                                                     answer.packet)))
            self.assertEqual((mine, peer), out.flow[:2])
            quoted = p.Parsed(p.frame(A.mac, A.mac, out.payload[8:]))
            self.assertEqual((peer, mine, 53, 4000), quoted.flow)
