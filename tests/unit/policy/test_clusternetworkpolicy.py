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

from kuryr_cilium.policy import clusternetworkpolicy
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors
from tests import base

INGRESS, EGRESS = model.Direction.INGRESS, model.Direction.EGRESS
ALLOW, DENY, PASS = (model.Verdict.ALLOW, model.Verdict.DENY,
                     model.Verdict.PASS)
ALL = {'namespaces': {}}
EXEMPT = labels.Requirement(labels.NAMESPACE_NAME, labels.NOT_IN,
                            ('kube-system',))


def parse(**spec):
    spec = {'tier': 'Admin', 'priority': 7, 'subject': ALL, **spec}
    return clusternetworkpolicy.parse(
        {'metadata': {'uid': 'u', 'name': 'p'},
         'spec': {key: value for key, value in spec.items()
                  if value is not None}}, ('kube-system',))


class TestParse(base.TestCase):

    def good(self, **spec):
        policy, = parse(**spec)
        self.assertEqual((), policy.problems)
        return policy

    def egress(self, *to, action='Accept', **rule):
        return self.good(egress=[{'action': action, 'to': list(to),
                                  **rule}]).rules[0]

    def test_normal_form(self):
        policy = self.good(
            subject={'pods': {'namespaceSelector': {'matchLabels': {
                'team': 'a'}}, 'podSelector': {'matchLabels': {'x': 'y'}}}},
            ingress=[{'name': 'first', 'action': 'Pass', 'from': [ALL]},
                     {'action': 'Deny', 'from': [ALL]}],
            egress=[{'action': 'Accept', 'to': [ALL]}])
        self.assertEqual('ClusterNetworkPolicy/p', policy.name)
        self.assertEqual(frozenset(), policy.isolates)
        self.assertEqual(selectors.Pods(
            (labels.Requirement('x', labels.IN, ('y',)),), None,
            (labels.Requirement('team', labels.IN, ('a',)),)),
            policy.subject)
        everyone = frozenset((selectors.Pods(),))
        self.assertEqual((
            normal.Rule(INGRESS, everyone, None, PASS, model.Tier.ADMIN, 7000,
                        name='ingress[0]'),
            normal.Rule(INGRESS, everyone, None, DENY, model.Tier.ADMIN, 7001,
                        name='ingress[1]'),
            normal.Rule(EGRESS, everyone, None, ALLOW, model.Tier.ADMIN, 7000,
                        name='egress[0]')), policy.rules)

    def test_tiers(self):
        for name, tier in (('Admin', model.Tier.ADMIN),
                           ('Baseline', model.Tier.BASELINE)):
            policy = self.good(tier=name,
                               ingress=[{'action': 'Deny', 'from': [ALL]}])
            self.assertEqual(tier, policy.rules[0].tier)

    def test_peers(self):
        rule = self.egress(
            {'namespaces': {'matchLabels': {'a': 'b'}}},
            {'pods': {'podSelector': {}}},
            {'nodes': {'matchLabels': {'zone': 'z'}}},
            {'networks': ['10.1.2.3/8', 'fd00::/8']})
        self.assertEqual({
            selectors.Pods(namespaces=(
                labels.Requirement('a', labels.IN, ('b',)),)),
            selectors.Pods(),
            selectors.Nodes((labels.Requirement('zone', labels.IN, ('z',)),)),
            selectors.Block(model.Block('10.0.0.0/8')),
            selectors.Block(model.Block('fd00::/8'))}, rule.peers)

    def test_protocols(self):
        rule = self.egress(ALL, protocols=[
            {'tcp': {'destinationPort': {'number': 80}}},
            {'udp': {'destinationPort': {'range': {'start': 1,
                                                   'end': 9}}}},
            {'sctp': {'destinationPort': {'number': 5}}},
            {'destinationNamedPort': 'http'}])
        self.assertEqual({
            model.PortRange(6, 80, 80), model.PortRange(17, 1, 9),
            model.PortRange(132, 5, 5), normal.NamedPort(6, 'http'),
            normal.NamedPort(17, 'http'), normal.NamedPort(132, 'http')},
            rule.ports)

    def test_without_rules_it_does_nothing(self):
        self.assertEqual((), self.good().rules)
        self.assertEqual((), self.good(ingress=[]).rules)


class TestFailsClosed(base.TestCase):

    def broken(self, **spec):
        """(fields, rules that stay, policy of what is denied)."""
        policy, *denied = parse(**spec)
        self.assertTrue(policy.problems)
        for rule in (rule for found in denied for rule in found.rules):
            self.assertEqual((None, None, DENY),
                             (rule.peers, rule.ports, rule.verdict))
        return ([problem.field for problem in policy.problems],
                [rule.name for rule in policy.rules],
                [(rule.name, rule.priority) for found in denied
                 for rule in found.rules])

    def test_a_broken_accept_matches_nothing(self):
        for to in ([{'domainNames': ['example.org']}], [{'later': {}}], [{}],
                   [], None, [{'networks': []}], [ALL, {'networks': ['x']}],
                   [{'nodes': {}, 'networks': ['::/0']}]):
            where, rules, denied = self.broken(egress=[
                {'action': 'Accept', 'to': to},
                {'action': 'Accept', 'to': [ALL]}])
            self.assertTrue(where[0].startswith('spec.egress[0].to'), where)
            self.assertEqual(['egress[1]'], rules)
            self.assertEqual([], denied)

    def test_a_broken_deny_or_pass_denies_everything_at_its_place(self):
        for action in ('Deny', 'Pass', 'Log', None):
            _where, rules, denied = self.broken(ingress=[
                {'action': 'Accept', 'from': [ALL]},
                {'action': action, 'from': [{'later': 1}]},
                {'action': 'Accept', 'from': [ALL]}])
            self.assertEqual(['ingress[0]', 'ingress[2]'], rules)
            self.assertEqual([('ingress[1]', 7001)], denied)

    def test_exempt_namespaces_keep_what_can_be_expressed(self):
        whole, denied = parse(ingress=[
            {'action': 'Deny', 'from': [ALL]},
            {'action': 'Deny', 'from': [{'later': 1}]}])
        self.assertEqual(selectors.Pods(), whole.subject)
        self.assertEqual(selectors.Pods(namespaces=(EXEMPT,)),
                         denied.subject)

    def test_without_a_place_or_subject_no_rule_is_sound(self):
        for spec, field in (({'tier': 'admin'}, 'spec.tier'),
                            ({'tier': None}, 'spec.tier'),
                            ({'priority': 1001}, 'spec.priority'),
                            ({'priority': None}, 'spec.priority'),
                            ({'subject': None}, 'spec.subject'),
                            ({'subject': {}}, 'spec.subject'),
                            ({'subject': {'nodes': {}}},
                             'spec.subject.nodes'),
                            ({'subject': {'pods': {}}},
                             'spec.subject.pods.podSelector'),
                            ({'more': 1}, 'spec.more')):
            where, rules, denied = self.broken(
                ingress=[{'action': 'Accept', 'from': [ALL]},
                         {'action': 'Deny', 'from': [ALL]}], **spec)
            self.assertEqual([field], where)
            self.assertEqual([], rules)
            self.assertEqual(['ingress[1]'], [name for name, _ in denied])

    def test_a_direction_that_is_no_list(self):
        self.assertEqual((['spec.egress'], ['ingress[0]'],
                          [('egress', 7000)]), self.broken(
            ingress=[{'action': 'Accept', 'from': [ALL]}],
            egress={'action': 'Deny'}))

    def test_malformed_rules(self):
        tcp = 'protocols[0].tcp'
        for rule, field in (
                ({'protocols': []}, 'protocols'),
                ({'protocols': [{}]}, 'protocols[0]'),
                ({'protocols': [{'icmp': {}}]}, 'protocols[0].icmp'),
                ({'protocols': [{'tcp': {}}]}, tcp),
                ({'protocols': [{'tcp': None}]}, 'protocols[0]'),
                ({'protocols': [{'tcp': {'destinationPort': {}}}]},
                 tcp + '.destinationPort'),
                ({'protocols': [{'tcp': {'destinationPort': {
                    'number': 0}}}]}, tcp + '.destinationPort.number'),
                ({'protocols': [{'tcp': {'destinationPort': {'range': {
                    'start': 9, 'end': 8}}}}]},
                 tcp + '.destinationPort.range.end'),
                ({'protocols': [{'tcp': {'destinationPort': {'range': {
                    'start': 9}}}}]}, tcp + '.destinationPort.range.end'),
                ({'protocols': [{'destinationNamedPort': 'A B'}]},
                 'protocols[0].destinationNamedPort'),
                ({'to': [{'networks': ['::/0']}],
                  'protocols': [{'destinationNamedPort': 'http'}]},
                 'protocols[0].destinationNamedPort'),
                ({'to': [ALL, {'networks': ['10.0.0.0/8', 'x']}]},
                 'to[1].networks[1]'),
                ({'from': [ALL]}, 'from'), ({'action': 'allow'}, 'action'),
                ({'verdict': 1}, 'verdict')):
            where, rules, _denied = self.broken(egress=[
                {'action': 'Accept', 'to': [ALL], **rule}])
            self.assertEqual(['spec.egress[0].' + field], where)
            self.assertEqual([], rules)

    def test_too_many_rules_stay_in_their_priority(self):
        rule = {'action': 'Deny', 'from': [ALL]}
        where, rules, denied = self.broken(ingress=[rule] * 1002)
        self.assertEqual(['spec.ingress[1000]', 'spec.ingress[1001]'], where)
        self.assertEqual(1000, len(rules))
        self.assertEqual([('ingress[1000]', 7999), ('ingress[1001]', 7999)],
                         denied)

    def test_a_spec_that_is_no_object_selects_nothing(self):
        for spec in (None, [], 'x', 5):
            policy, = clusternetworkpolicy.parse(
                {'metadata': {'uid': 'u', 'name': 'p'}, 'spec': spec}, ())
            self.assertEqual((), policy.rules)
            self.assertTrue(policy.problems)
