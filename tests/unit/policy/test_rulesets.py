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
