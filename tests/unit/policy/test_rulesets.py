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

from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import rulesets
from kuryr_cilium.policy import selectors
from tests import base

INGRESS, EGRESS = model.Direction.INGRESS, model.Direction.EGRESS
A, B, C = (selectors.Pods(namespace=name) for name in 'abc')


def ports(*numbers, protocol=6):
    return frozenset(model.PortRange(protocol, number, number)
                     for number in numbers)


def rule(peers, allowed, **more):
    return normal.Rule(INGRESS, None if peers is None else frozenset(peers),
                       allowed, **more)


def policy(name, *rules, isolates=(INGRESS,)):
    return normal.Policy(name, name, A, frozenset(isolates), rules)


def ids(*peers):
    return frozenset(peer.id for peer in peers)


class TestRuleSets(base.TestCase):

    def groups(self, *rules):
        built = rulesets.build(INGRESS, [policy('p', *rules)])
        return [(group.peers, group.ports) for group in built.groups]

    def test_not_isolated(self):
        self.assertIsNone(rulesets.build(INGRESS, []))
        self.assertIsNone(rulesets.build(EGRESS, [policy('p')]))

    def test_isolated_without_rules(self):
        built = rulesets.build(INGRESS, [policy('p')])
        self.assertEqual((), built.groups)
        self.assertNotIn(built.id, (model.ALLOW_ALL, model.DENY_ALL))

    def test_equal_ports_unite_peers(self):
        self.assertEqual(
            [(ids(A, B, C), ports(80))],
            self.groups(rule([A], ports(80)), rule([B, C], ports(80))))

    def test_equal_peers_unite_ports(self):
        united = frozenset([model.PortRange(6, 80, 81),
                            model.PortRange(17, 53, 53)])
        self.assertEqual([(ids(A), united)], self.groups(
            rule([A], ports(80)), rule([A], ports(81)),
            rule([A], ports(53, protocol=17))))

    def test_any_peer_takes_in_the_others_of_its_ports(self):
        self.assertEqual([(None, ports(80))], self.groups(
            rule([A], ports(80)), rule(None, ports(80))))

    def test_every_port_takes_in_the_others_of_its_peers(self):
        self.assertEqual([(ids(A), None)], self.groups(
            rule([A], ports(80)), rule([A], None)))

    def test_all_allowed_is_one_group(self):
        self.assertEqual([(None, None)], self.groups(
            rule([A], ports(80)), rule(None, None), rule([B], ports(1))))

    def test_many_rules_few_selectors(self):
        # 3000 rules on 10 selectors, each with ports of its own.
        peers = [selectors.Pods(namespace='n%d' % n) for n in range(10)]
        self.assertEqual(10, len(self.groups(*(
            rule([peers[n % 10]], ports(1 + 2 * n)) for n in range(3000)))))

    def test_precedence_is_not_merged(self):
        built = rulesets.build(INGRESS, [policy(
            'p', rule([A], None), rule([A], None, priority=1),
            rule([A], None, verdict=model.Verdict.DENY),
            rule([A], None, tier=model.Tier.ADMIN))])
        self.assertEqual(
            [(0, 0, 'allow'), (1, 0, 'deny'), (1, 0, 'allow'),
             (1, 1, 'allow')],
            [(group.tier, group.priority, group.verdict.value)
             for group in built.groups])

    def test_id_is_of_the_content(self):
        first = rulesets.build(INGRESS, [
            policy('one', rule([A], ports(80))),
            policy('two', rule([B], ports(80)))])
        second = rulesets.build(INGRESS, [
            policy('three', rule([B, A], ports(80)))])
        self.assertEqual(first.id, second.id)
        self.assertEqual(first.groups, second.groups)
        self.assertEqual((('one', 'two'),), first.names)
        self.assertEqual((('three',),), second.names)
        other = rulesets.build(EGRESS, [policy('p', isolates=(EGRESS,))])
        self.assertNotEqual(
            other.id, rulesets.build(INGRESS, [policy('p')]).id)


class TestTiers(base.TestCase):

    def built(self, *policies, direction=INGRESS, **options):
        built = rulesets.build(direction, policies, **options)
        return None if built is None else [
            (group.tier.name, group.priority, group.verdict.value)
            for group in built.groups]

    def tiered(self, tier, verdict='deny', direction=INGRESS, **more):
        return normal.Policy('uid', 'Kind/%s' % tier, A, frozenset(), (
            normal.Rule(direction, frozenset([B]), None,
                        model.Verdict(verdict), model.Tier[tier], **more),))

    def test_baseline_and_default_follow_where_nothing_isolates(self):
        self.assertEqual(
            [('ADMIN', 3, 'pass'), ('BASELINE', 0, 'deny'),
             ('DEFAULT', 0, 'allow')],
            self.built(self.tiered('BASELINE'),
                       self.tiered('ADMIN', 'pass', priority=3)))

    def test_an_isolated_endpoint_never_asks_the_baseline(self):
        self.assertEqual([('ADMIN', 0, 'deny')], self.built(
            policy('p'), self.tiered('BASELINE', 'allow'),
            self.tiered('ADMIN')))

    def test_a_policy_that_does_not_isolate(self):
        self.assertEqual(
            [('NETWORK_POLICY', 0, 'deny'), ('DEFAULT', 0, 'allow')],
            self.built(self.tiered('NETWORK_POLICY')))

    def test_what_matches_nothing_decides_nothing(self):
        empty = normal.Policy('u', 'n', A, frozenset(), (
            normal.Rule(INGRESS, frozenset(), None),
            normal.Rule(INGRESS, None, frozenset()),
            normal.Rule(EGRESS, None, None)))
        self.assertIsNone(self.built(empty))
        self.assertEqual([], self.built(empty, policy('p')))

    def test_pass_goes_on_with_the_tier_that_is_there(self):
        ruleset = rulesets.build(INGRESS, [
            self.tiered('ADMIN', 'pass'), self.tiered('BASELINE')])
        table = compiler.compile_ruleset(ruleset)
        self.assertIs(model.Verdict.DENY, compiler.judge(
            table, [B.id], entities.Entity.POD, 6, 80).verdict)
        self.assertIs(model.Verdict.ALLOW, compiler.judge(
            table, [C.id], entities.Entity.POD, 6, 80).verdict)
        isolated = compiler.compile_ruleset(rulesets.build(
            INGRESS, [self.tiered('ADMIN', 'pass'), policy('p')]))
        self.assertIsNone(compiler.judge(
            isolated, [B.id], entities.Entity.POD, 6, 80))

    def test_named_ports_have_the_numbers_of_the_subject(self):
        http, dns = normal.NamedPort(6, 'http'), normal.NamedPort(17, 'dns')
        rules = policy('p', rule([A], frozenset([http, dns]) | ports(1)))
        built = rulesets.build(INGRESS, [rules], {http: [80, 8080]})
        self.assertEqual([ports(1, 80, 8080)],
                         [group.ports for group in built.groups])

    def test_own_node(self):
        egress = policy('p', isolates=(EGRESS,))
        self.assertEqual([], self.built(egress, direction=EGRESS))
        built = rulesets.build(EGRESS, [egress], own_node=True)
        group, = built.groups
        self.assertEqual(frozenset([entities.HOST]), group.peers)
        self.assertEqual((('option/allow_egress_to_own_node',),),
                         built.names)
        # What denies comes before, and who is not isolated needs nothing.
        self.assertEqual(
            [('NETWORK_POLICY', 0, 'deny'), ('NETWORK_POLICY', 0, 'allow')],
            self.built(egress, self.tiered('NETWORK_POLICY', direction=EGRESS),
                       direction=EGRESS, own_node=True))
        self.assertIsNone(self.built(direction=EGRESS, own_node=True))
        self.assertEqual([], self.built(policy('p'), own_node=True))

    def test_names_say_the_rule(self):
        built = rulesets.build(INGRESS, [policy(
            'Kind/ns/p', rule([A], None, name='ingress[3]'))])
        self.assertEqual((('Kind/ns/p ingress[3]',),), built.names)
