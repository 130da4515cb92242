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

"""The local hop: both ends judged, both entries written."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import rows
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, B = bench.A, bench.B
REDIRECT = bench.REDIRECT
FAMILIES = (4, 6)
ALLOW, DENY = rows.RULESET_ALLOW, rows.RULESET_DENY
Reason = layout.Reason
INGRESS, EGRESS = layout.Direction

#: Half-open connections are written at an end that a packet has passed.
HALF = 'kc_ct_new'


class HopCase(bench.Case):

    def setUp(self):
        super().setUp()
        self.bench.endpoint(A, fastpath=True)
        self.bench.endpoint(B, fastpath=True)

    def send(self, expected=REDIRECT, version=4, message=None, dmac=B.mac,
             protocol=p.UDP):
        self.assertOut(expected, p.ip(
            A.address(version), B.address(version), protocol,
            p.udp(1, 2) if message is None else message), dmac=dmac)

    def written(self):
        """At which ends entries were written; they are forgotten."""
        found = []
        for pod in (A, B):
            for key in self.bench.connections(pod, HALF):
                libbpf.map_delete(self.bench.fd(HALF), key.pack())
                found.append(pod)
        return found

    def assertHops(self, **packet):
        self.send(**packet)
        self.assertEqual([A, B], self.written())

    def assertGoesToTheSwitch(self, **packet):
        self.send(**packet)
        self.assertEqual([A], self.written())


class TestWhen(HopCase):

    def test_both_ends(self):
        for version in FAMILIES:
            self.send(version=version)
            (key, entry), = self.bench.connections(B, HALF).items()
            self.assertEqual((2, 1, A.address(version)),
                             (key.lport, key.rport, key.raddr))
            self.assertEqual(INGRESS, entry.direction)
            (key, entry), = self.bench.connections(A, HALF).items()
            self.assertEqual((1, 2, B.address(version)),
                             (key.lport, key.rport, key.raddr))
            self.assertEqual(EGRESS, entry.direction)
            self.written()
            self.bench.told()

    def test_frame_arrives_as_it_was_sent(self):
        self.send()
        self.assertEqual(bytes.fromhex(B.mac.replace(':', '')),
                         self.bench.frame[:6])

    def test_by_the_gateway(self):
        self.assertHops(dmac=bench.ROUTER_MAC)
        self.assertEqual(bytes.fromhex(B.mac.replace(':', '')),
                         self.bench.frame[:6])
        self.bench.endpoint(A, fastpath=True, gateways=())
        self.assertGoesToTheSwitch(dmac=bench.ROUTER_MAC)
        self.assertGoesToTheSwitch(dmac='00:00:00:00:00:00')

    def test_to_another_mac(self):
        self.assertGoesToTheSwitch(dmac=bench.SWITCH_MAC)
        self.assertGoesToTheSwitch(dmac='ff:ff:ff:ff:ff:ff')

    def test_neutron_enforces_something(self):
        for pod in (A, B):
            self.bench.endpoint(pod, fastpath=False)
            self.assertGoesToTheSwitch()
            self.bench.endpoint(pod, fastpath=True)
        self.assertHops()

    def test_other_network(self):
        self.bench.endpoint(B, fastpath=True, network=bench.NETWORK + 1)
        self.assertGoesToTheSwitch()

    def test_address_that_is_not_the_receivers(self):
        key = layout.AddrKey(bench.SPACES[4], '10.0.0.77').pack()
        self.bench.update('kc_local', key,
                          layout.Local(B.number, B.kc, B.mac).pack())
        self.assertOut(REDIRECT, p.ip(A.v4, '10.0.0.77', p.UDP,
                                      p.udp(1, 2)), dmac=B.mac)
        self.assertEqual([A], self.written())

    def test_receiver_is_gone(self):
        libbpf.map_delete(self.bench.fd('kc_endpoint'),
                          layout.U32.pack(B.number))
        self.assertGoesToTheSwitch()

    def test_to_itself(self):
        self.assertOut(REDIRECT, p.ip(A.v4, A.v4, p.UDP, p.udp(1, 2)),
                       dmac=A.mac)
        self.assertEqual([A], self.written())

    def test_group(self):
        self.bench.update(
            'kc_local', layout.AddrKey(bench.SPACES[4],
                                       bench.GROUP[4]).pack(),
            layout.Local(B.number, B.kc, B.mac).pack())
        self.assertOut(REDIRECT, p.ip(A.v4, bench.GROUP[4], p.UDP,
                                      p.udp(1, 2)), dmac=B.mac)
        self.assertEqual([A], self.written())


class TestJudged(HopCase):

    def assertDrop(self, reason, pod, direction):
        self.bench.told()
        self.send(reason)
        event, = self.bench.told()
        self.assertEqual((reason, pod.number, direction),
                         (event.reason, event.endpoint, event.direction))
        # Nothing is opened by what was dropped at either end.
        self.assertEqual([], self.written())

    def test_sender(self):
        self.bench.endpoint(A, egress=DENY, fastpath=True)
        self.assertDrop(Reason.POLICY_DENY, A, EGRESS)

    def test_receiver(self):
        self.bench.endpoint(B, ingress=DENY, fastpath=True)
        self.assertDrop(Reason.POLICY_DENY, B, INGRESS)

    def test_receiver_is_not_ready(self):
        for ingress, egress in ((0, 0), (0, ALLOW), (ALLOW, 0)):
            self.bench.endpoint(B, ingress, egress, fastpath=True)
            self.assertDrop(Reason.NOT_READY, B, INGRESS)
        # Whatever is open.
        self.bench.endpoint(B, fastpath=True)
        self.send()
        self.bench.endpoint(B, ingress=0, egress=0, fastpath=True)
        self.send(Reason.NOT_READY)

    def test_change_of_policy(self):
        self.send()
        self.bench.endpoint(B, ingress=DENY, fastpath=True)
        self.bench.next_epoch()
        self.send(Reason.POLICY_CHANGED)

    def test_connection_stands_at_one_end_only(self):
        self.send()
        for key in self.bench.connections(B, HALF):
            libbpf.map_delete(self.bench.fd(HALF), key.pack())
        self.bench.endpoint(B, ingress=DENY, fastpath=True)
        self.send(Reason.POLICY_DENY)

    def test_each_end_in_its_own_generation(self):
        self.bench.update('kc_endpoint', layout.U32.pack(B.number),
                          layout.Endpoint(
                              100, 101, 50, ALLOW, B.kc, B.kq, bench.NETWORK,
                              1, B.mac, (), (B.v4, B.v6)).pack())
        # To B, A is of a class that its ruleset allows; only there.
        self.bench.update('kc_addr', layout.AddrKey(100, A.v4).pack(),
                          layout.Peer(20, 1).pack())
        bits = layout.Bits((1, 0, 0, 0), 1).pack()
        self.bench.update('kc_rs_peer', layout.RsPeerKey(50, 20, 0).pack(),
                          bits)
        self.bench.update('kc_rs_port', layout.RsPortKey(
            layout.PORT_ANY, 50, 0, 0, 0).pack(), bits)
        self.bench.update('kc_rs_group', layout.RsGroupKey(50, 0).pack(),
                          layout.RsGroup(layout.Verdict.ALLOW, 0, 1, 0,
                                         0).pack())
        self.assertHops()

    def test_errors(self):
        for version in FAMILIES:
            source, target = A.address(version), B.address(version)
            quoted = p.ip(target, source, p.UDP, p.udp(2, 1))
            protocol, message = p.error(source, target, quoted)
            self.send(Reason.ICMP_UNRELATED, version, message,
                      protocol=protocol)
            # Both ends know the connection that B opened.
            for pod, local, remote, direction in (
                    (A, 1, 2, INGRESS), (B, 2, 1, EGRESS)):
                peer = B if pod is A else A
                self.bench.update(HALF, layout.CtKey(
                    pod.number, p.UDP, 0 if version == 4 else 1, local,
                    remote, peer.address(version)).pack(), layout.Ct(
                        bench.now(), 0, 0, 0, 0, bench.EPOCH, 0, 0,
                        direction).pack())
            self.send(REDIRECT, version, message, protocol=protocol)
            self.bench.endpoint(B, egress=DENY, fastpath=True)
            self.bench.next_epoch()
            self.send(Reason.POLICY_CHANGED, version, message,
                      protocol=protocol)
            self.bench.endpoint(B, fastpath=True)
            self.bench.set_meta(layout.Meta.EPOCH, bench.EPOCH)
