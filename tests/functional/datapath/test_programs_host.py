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

"""The node's own traffic to its pods, and what it forwards."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from tests.functional.datapath import bench
from tests.functional.datapath import flows
from tests.functional.datapath import packets as p

A, B, PEER, OTHER, NODE = bench.A, bench.B, bench.PEER, bench.OTHER, bench.NODE
PASS = bench.PASS
FAMILIES, ALLOW, DENY = flows.FAMILIES, flows.ALLOW, flows.DENY
SYN, SYN_ACK, ACK = flows.SYN, flows.SYN_ACK, flows.ACK
Flag = layout.CtFlag
Reason = layout.Reason


class TestHost(flows.ConnectionCase):

    def host(self, message, expected=PASS, ingress_ifindex=0, source=None,
             protocol=p.TCP):
        source = source or NODE[self.version]
        self.assertEqual(expected, self.bench.from_host(
            p.ip(source, A.address(self.version), protocol, message),
            ingress_ifindex))

    def answer(self, message, expected=PASS, peer=None, protocol=p.TCP):
        self.assertOut(expected, p.ip(
            A.address(self.version), peer or NODE[self.version], protocol,
            message))

    def test_own_traffic_to_an_isolated_pod(self):
        self.rules(DENY, DENY)
        for self.version in FAMILIES:
            self.host(p.tcp(7, 80))
            self.answer(p.tcp(80, 7, SYN_ACK))
            self.host(p.tcp(7, 80, ACK))
            self.answer(p.tcp(80, 7, ACK))
            # It is not the pod's to open.
            self.answer(p.tcp(80, 7, SYN), Reason.POLICY_DENY)
            self.answer(p.tcp(80, 8, SYN), Reason.POLICY_DENY)

    def test_own_traffic_survives_a_change(self):
        self.rules(DENY, DENY)
        self.host(p.tcp(7, 80))
        self.answer(p.tcp(80, 7, SYN_ACK))
        self.bench.next_epoch()
        self.answer(p.tcp(80, 7, ACK))
        self.host(p.tcp(7, 80, ACK))

    def test_own_traffic_under_any_source(self):
        self.rules(DENY, DENY)
        self.host(p.udp(7, 80), source=PEER[4], protocol=p.UDP)
        # Its answer goes up the stack too.
        self.answer(p.udp(80, 7), peer=PEER[4], protocol=p.UDP)

    def test_own_traffic_without_a_beginning(self):
        self.rules(DENY, DENY)
        self.host(p.tcp(7, 80, ACK))
        self.answer(p.tcp(80, 7, ACK))

    def test_own_echo(self):
        self.rules(DENY, DENY)
        for self.version in FAMILIES:
            node, pod = NODE[self.version], A.address(self.version)
            protocol, asked = p.echo(node, pod, 3)
            _, answered = p.echo(pod, node, 3, reply=True)
            self.host(asked, protocol=protocol)
            self.answer(answered, protocol=protocol)

    def test_forwarded_under_the_nodes_address_is_the_world(self):
        self.rules(ALLOW, DENY)
        self.host(p.tcp(7, 80), ingress_ifindex=3)
        self.answer(p.tcp(80, 7, SYN_ACK))
        entry = self.only()
        self.assertEqual(Flag.HOST | Flag.AS_WORLD | Flag.REPLIED,
                         entry.flags)
        self.rules(DENY, ALLOW)
        self.host(p.tcp(7, 80, ACK), Reason.POLICY_CHANGED, 3)
        self.answer(p.tcp(80, 7, ACK), Reason.POLICY_CHANGED)
        self.host(p.tcp(8, 80), Reason.POLICY_DENY, 3)

    def test_world_and_host_are_told_apart(self):
        table = compiler.compile_ruleset(model.RuleSet(
            'host', model.Direction.INGRESS, (model.RuleGroup(
                model.Tier.NETWORK_POLICY, 0,
                model.Verdict.ALLOW,
                frozenset((entities.HOST,))),)))
        self.bench.ruleset(50, table)
        self.rules(50, DENY)
        self.host(p.tcp(7, 80), Reason.POLICY, 3)
        self.host(p.tcp(7, 80))
        # The same tuple, but forwarded: it does not repeat the own one.
        self.host(p.tcp(7, 80), Reason.POLICY, 3)
        self.host(p.tcp(7, 80, ACK), Reason.NO_CONNECTION, 3)
        self.host(p.udp(7, 80), protocol=p.UDP)
        self.host(p.udp(7, 80), Reason.POLICY, 3, protocol=p.UDP)
        # And does not take it over.
        self.host(p.tcp(7, 80, ACK))
        self.answer(p.tcp(80, 7, SYN_ACK))
        self.answer(p.udp(80, 7), protocol=p.UDP)

    def test_forwarded_is_judged_by_its_source(self):
        self.bench.peer(OTHER[4], entities.Entity.POD, 20)
        table = compiler.compile_ruleset(model.RuleSet(
            'pods', model.Direction.INGRESS, (model.RuleGroup(
                model.Tier.NETWORK_POLICY, 0,
                model.Verdict.ALLOW,
                frozenset((entities.CLUSTER,))),)))
        self.bench.ruleset(50, table)
        self.rules(50, DENY)
        self.host(p.tcp(7, 80), Reason.POLICY, 3, PEER[4])
        self.host(p.tcp(7, 80), PASS, 3, OTHER[4])
        self.answer(p.tcp(80, 7, SYN_ACK), peer=OTHER[4])
        self.answer(p.tcp(80, 9), Reason.POLICY_DENY, peer=OTHER[4])

    def test_forwarded_answers(self):
        self.rules(DENY, ALLOW)
        self.udp_out()
        self.host(p.udp(80, 4000), PASS, 3, PEER[4], p.UDP)

    def test_egress_to_the_node(self):
        for self.version in FAMILIES:
            self.rules(DENY, ALLOW)
            self.answer(p.tcp(80, 7, SYN))
            self.host(p.tcp(7, 80, SYN_ACK))
            self.answer(p.tcp(80, 7, ACK))
            self.rules(DENY, DENY)
            self.answer(p.tcp(80, 7, ACK), Reason.POLICY_CHANGED)

    def test_own_packets_pass_a_cut_flow_but_revive_nothing(self):
        self.answer(p.udp(80, 7), protocol=p.UDP)
        self.host(p.udp(7, 80), protocol=p.UDP)
        self.rules(DENY, DENY)
        self.answer(p.udp(80, 7), Reason.POLICY_CHANGED, protocol=p.UDP)
        self.host(p.udp(7, 80), protocol=p.UDP)
        self.answer(p.udp(80, 7), Reason.POLICY_CHANGED, protocol=p.UDP)

    def test_only_to_the_pods_addresses(self):
        for target in (B.v4, bench.GROUP[4], '255.255.255.255'):
            self.assertEqual(Reason.NOT_OURS, self.bench.from_host(
                p.ip(NODE[4], target, p.UDP, p.udp(1, 2))))

    def test_own_errors_pass(self):
        self.rules(DENY, DENY)
        for version in FAMILIES:
            quoted = p.ip(A.address(version), OTHER[version], p.UDP,
                          p.udp(1, 2))
            packet = p.ip(NODE[version], A.address(version), *p.error(
                NODE[version], A.address(version), quoted))
            self.assertEqual(PASS, self.bench.from_host(packet))
            self.assertEqual(Reason.ICMP_UNRELATED,
                             self.bench.from_host(packet, 3))
