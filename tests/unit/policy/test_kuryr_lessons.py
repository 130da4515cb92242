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

"""The faults of kuryr-kubernetes' NetworkPolicy driver, one test each.

A policy is parsed, made a ruleset, compiled, and read as a node reads it.
What the cluster's changes do to rulesets is test_semantics.py's.
"""

from kuryr_cilium.policy import index
from kuryr_cilium.policy import model
from kuryr_cilium.policy import networkpolicy
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import rulesets
from kuryr_cilium.policy import selectors
from tests import base
from tests.unit.policy import builders
from tests.unit.policy import reading
from tests.unit.policy.reading import Peer

TCP, UDP = reading.TCP, reading.UDP
POD, REMOTE_NODE = reading.POD, reading.REMOTE_NODE


class TestKuryrLessons(base.TestCase):

    def parse(self, **spec):
        policy = networkpolicy.parse(builders.policy('p', spec))
        self.assertEqual((), policy.problems)
        return policy

    def allows(self, policy, *peer):
        return reading.allows([policy], *peer)

    def test_1_two_excepts_do_not_cancel_each_other(self):
        policy = self.parse(ingress=[{'from': [{'ipBlock': {
            'cidr': '10.0.0.0/8',
            'except': ['10.1.0.0/16', '10.2.0.0/16']}}]}])
        for address, want in (('10.0.0.1', True), ('10.1.0.1', False),
                              ('10.2.0.1', False), ('10.3.0.1', True),
                              ('11.0.0.1', False)):
            self.assertEqual(want, self.allows(policy, Peer(address)))

    def test_2_an_except_does_not_multiply_rules(self):
        policy = self.parse(egress=[{'to': [{'ipBlock': {
            'cidr': '0.0.0.0/0', 'except': ['10.1.2.0/24']}}]}])
        ruleset = rulesets.build(reading.EGRESS, [policy])
        self.assertEqual(1, len(ruleset.groups))
        self.assertEqual(1, len(ruleset.groups[0].peers))

    def test_3_pods_of_every_namespace_that_is_selected(self):
        policy = self.parse(ingress=[{'from': [{
            'namespaceSelector': {'matchLabels': {'team': 'a'}},
            'podSelector': {'matchLabels': {'app': 'x'}}}]}])
        for name in ('first', 'second', 'last'):
            for team, app, want in (('a', 'x', True), ('a', 'y', False),
                                    ('b', 'x', False)):
                peer = Peer('10.0.0.1', POD, {'name': name, 'team': team},
                            app=app)
                self.assertEqual(want, self.allows(policy, peer))

    def test_4_end_port_opens_the_whole_range(self):
        policy = self.parse(ingress=[{'ports': [{'port': 80,
                                                 'endPort': 1024}]}])
        for port, want in ((79, False), (80, True), (81, True), (1024, True),
                           (1025, False)):
            self.assertEqual(want, self.allows(policy, Peer('10.0.0.1'),
                                               port))

    def test_5_an_empty_rule_counts_wherever_it_stands(self):
        narrow = {'from': [{'podSelector': {'matchLabels': {'a': 'b'}}}],
                  'ports': [{'port': 1}]}
        for rules in ([{}], [narrow, {}], [{}, narrow],
                      [narrow, {}, narrow]):
            self.assertTrue(self.allows(self.parse(ingress=rules),
                                        Peer('192.0.2.1')))

    def test_6_a_protocol_alone_is_all_of_its_ports(self):
        policy = self.parse(ingress=[{'ports': [{'protocol': 'UDP'}]}])
        for port in (1, 53, 65535):
            self.assertTrue(self.allows(policy, Peer('10.0.0.1'), port, UDP))
            self.assertFalse(self.allows(policy, Peer('10.0.0.1'), port))

    def test_7_named_ports_with_blocks_and_their_protocol(self):
        policy = self.parse(egress=[{
            'to': [{'ipBlock': {'cidr': '10.0.0.0/8'}}],
            'ports': [{'port': 'dns', 'protocol': 'UDP'},
                      {'port': 'dns'}]}])
        rule, = policy.rules
        self.assertEqual({selectors.Block(model.Block('10.0.0.0/8'))},
                         rule.peers)
        self.assertEqual({normal.NamedPort(UDP, 'dns'),
                          normal.NamedPort(TCP, 'dns')}, rule.ports)

    def test_8_label_changes_are_seen(self):
        policy = self.parse(podSelector={'matchLabels': {'app': 'x'}})
        found = index.Index()
        found.watch(policy.subject)
        for labels, want in (({}, False), ({'app': 'x'}, True),
                             ({'app': 'y'}, False), ({'app': 'x'}, True)):
            found.set_pod('uid', 'default', labels)
            self.assertEqual(want, 'uid' in found.matcher(
                policy.subject.id).uids)

    def test_9_a_policy_waits_for_no_pod(self):
        policy = self.parse(podSelector={'matchLabels': {'app': 'x'}})
        found = index.Index()
        found.watch(policy.subject)
        flip, = found.set_pod('uid', 'default', {'app': 'x'})
        self.assertEqual((policy.subject.id, True),
                         (flip.matcher.id, flip.matches))
        ruleset = rulesets.build(reading.INGRESS, [policy])
        self.assertEqual((), ruleset.groups)

    def test_10_nodes_are_no_exception(self):
        policy = self.parse(ingress=[{'from': [{'namespaceSelector': {}}]}])
        for address in ('192.0.2.10', '192.0.2.200', '2001:db8::1'):
            self.assertFalse(self.allows(policy, Peer(address, REMOTE_NODE)))
        self.assertTrue(self.allows(
            policy, Peer('10.0.0.1', POD, {'name': 'any'})))
