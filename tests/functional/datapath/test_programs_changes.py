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

"""What a change of policy does to open connections."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import model
from tests.functional.datapath import bench
from tests.functional.datapath import flows

FAMILIES, ALLOW, DENY = flows.FAMILIES, flows.ALLOW, flows.DENY
SYN, SYN_ACK, ACK = flows.SYN, flows.SYN_ACK, flows.ACK
Flag = layout.CtFlag
Reason = layout.Reason
INGRESS, EGRESS = layout.Direction


class TestPolicyChange(flows.ConnectionCase):

    def test_cut_both_ways_and_restored(self):
        for self.version in FAMILIES:
            for opened, ingress, egress in (
                    (self.udp_out, ALLOW, DENY), (self.udp_in, DENY, ALLOW)):
                self.rules()
                self.udp_out()
                self.udp_in()
                self.bench.age(1e6)
                opened()
                self.rules(ingress, egress)
                self.udp_in(Reason.POLICY_CHANGED)
                self.udp_out(Reason.POLICY_CHANGED)
                self.rules()
                self.udp_in()
                self.udp_out()

    def test_by_the_answer_first(self):
        self.open_out()
        self.rules(ALLOW, DENY)
        self.tcp_in(ACK, Reason.POLICY_CHANGED)
        self.tcp_out(ACK, Reason.POLICY_CHANGED)

    def test_direction_of_opening_decides(self):
        self.open_out()
        self.rules(DENY, ALLOW)
        self.tcp_in(ACK)
        self.tcp_out(ACK)
        self.assertEqual(bench.EPOCH + 1, self.only().epoch)

    def test_its_port_is_that_of_its_opening(self):
        for number, port in ((50, 80), (51, 4000)):
            self.bench.ruleset(number, compiler.compile_ruleset(
                model.RuleSet('port', model.Direction.EGRESS, (
                    model.RuleGroup(
                        model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
                        ports=frozenset((
                            model.PortRange(6, port, port),))),))))
        for opened, ingress, egress in (
                (self.open_out, DENY, 50), (self.open_in, 51, DENY)):
            self.bench.age(1e6)
            self.rules(ingress, egress)
            opened()
            self.bench.next_epoch()
            self.tcp_out(ACK)
            self.bench.next_epoch()
            self.tcp_in(ACK)

    def test_half_open(self):
        self.tcp_out(SYN)
        self.rules(ALLOW, DENY)
        self.tcp_in(SYN_ACK, Reason.POLICY_CHANGED)
        self.tcp_out(SYN, Reason.POLICY_CHANGED)

    def test_server_does_not_open_it_the_other_way(self):
        self.udp_in()
        self.udp_out()
        self.udp_in()
        self.rules(DENY, ALLOW)
        for _ in range(3):
            self.udp_in(Reason.POLICY_CHANGED)
            self.udp_out(Reason.POLICY_CHANGED)
        # As long as anybody sends.
        self.bench.age(119)
        self.udp_out(Reason.POLICY_CHANGED)
        self.bench.age(119)
        self.udp_out(Reason.POLICY_CHANGED)
        self.bench.age(121)
        self.udp_out()

    def test_other_side_may_open_a_new_one(self):
        self.open_out()
        self.rules(ALLOW, DENY)
        self.tcp_out(ACK, Reason.POLICY_CHANGED)
        self.open_in()
        self.assertEqual((INGRESS, Flag.REPLIED),
                         (self.only().direction, self.only().flags))

    def test_new_one_while_cut(self):
        self.open_out()
        self.rules(ALLOW, DENY)
        self.tcp_out(ACK, Reason.POLICY_CHANGED)
        self.tcp_out(SYN, Reason.POLICY_CHANGED)
        self.rules()
        self.open_out()
        self.assertEqual(Flag.REPLIED, self.only().flags)

    def test_echo_is_judged_by_its_type(self):
        for self.version in FAMILIES:
            self.echo_in()
            self.rules(DENY, ALLOW)
            self.echo_out(Reason.POLICY_CHANGED, reply=True)
            self.rules()

    def test_events(self):
        self.open_out()
        self.rules(ALLOW, DENY)
        self.tcp_in(ACK, Reason.POLICY_CHANGED)
        opened, cut = self.bench.told()
        self.assertEqual((Reason.ALLOWED, EGRESS, ALLOW),
                         (opened.reason, opened.direction, opened.ruleset))
        self.assertEqual((Reason.POLICY_CHANGED, INGRESS, DENY),
                         (cut.reason, cut.direction, cut.ruleset))
