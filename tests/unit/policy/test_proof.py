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

"""The proof in small, without the kernel; and that the proof can fail."""

import dataclasses
from unittest import mock

from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import model
from kuryr_cilium.policy import oracle
from kuryr_cilium.policy.oracle import statements
from kuryr_cilium.policy import rulesets
from tests import base
from tests.differential import cases
from tests.differential import check
from tests.differential import search
from tests.differential import simulated
from tests.unit.policy import builders
from tests.unit.policy import strategies_worlds

PODS = [builders.pod('web', number=1, labels={'app': 'web'}),
        builders.pod('peer', number=2, node='node-b')]
NODES = [builders.node('node-a', '192.0.2.1', 'fd51::1'),
         builders.node('node-b', '192.0.2.2', 'fd51::2')]
for _node in NODES:
    _node['metadata']['uid'] = 'node/' + _node['metadata']['name']


def case(*policies):
    """Two pods on two nodes, and policies as (kind, object)."""
    return cases.Case(
        [('Namespace', builders.namespace('default'))]
        + [('Node', node) for node in NODES]
        + [('Pod', pod) for pod in PODS] + list(policies), [])


#: Deny before allow, a range of ports, a block without a part, a tier that
#: passes, all peers and all ports.
CASE = case(
    ('CiliumNetworkPolicy', builders.policy('c', {
        'endpointSelector': {},
        'ingress': [{'fromEntities': ['all']}],
        'ingressDeny': [{'fromCIDR': ['203.0.113.0/24']}]})),
    ('ClusterNetworkPolicy', {
        'metadata': {'uid': 'policy/a', 'name': 'a'}, 'spec': {
            'tier': 'Admin', 'priority': 5,
            'subject': {'namespaces': {}},
            'ingress': [{'action': 'Pass', 'from': [{'pods': {
                'namespaceSelector': {}, 'podSelector': {}}}]}],
            'egress': [{'action': 'Deny', 'to': [
                {'networks': ['198.51.100.0/24']}]}]}}),
    ('NetworkPolicy', builders.policy('n', {
        'podSelector': {}, 'policyTypes': ['Egress'], 'egress': [
            {'to': [{'ipBlock': {'cidr': '10.0.0.0/8',
                                 'except': ['10.0.0.2/32']}}],
             'ports': [{'port': 80, 'endPort': 90}]}]})))


def run(made, **more):
    check.Check(strategies_worlds.HOSTS, {
        host: simulated.Node(own) for host, own in search.OWN.items()},
        **more).run(made)


class TestProof(base.TestCase):

    def test_oracle_tables_and_maps_agree(self):
        nodes = {host: simulated.Node(own)
                 for host, own in search.OWN.items()}
        running = search.policies(4, 3000, nodes, sample=60, between=4)
        running.run()
        self.assertEqual(3000, running.count.decisions)
        self.assertLess(0, running.count.between)

    def test_same_seed_same_cases(self):
        found = []
        for _ in range(2):
            asked = []

            def truth(present):
                asked.append(sorted(present))
                return cases.truth(present)

            search.policies(9, 300, truth=truth).run()
            found.append(asked)
        self.assertEqual(*found)


class TestMutants(base.TestCase):
    """Whatever is broken on either side is noticed."""

    def assertNoticed(self, **more):
        self.assertRaises(check.Difference, run, CASE, **more)

    def test_nothing_broken(self):
        run(CASE)

    def test_order_of_verdicts(self):
        wrong = {verdict: rank for rank, verdict in enumerate(
            (model.Verdict.ALLOW, model.Verdict.PASS, model.Verdict.DENY))}
        with mock.patch.object(rulesets, '_RANKS', wrong), mock.patch.object(
                rulesets, '_VERDICTS', tuple(wrong)):
            self.assertNoticed()

    def test_range_one_port_short(self):
        right = compiler.port_prefixes
        with mock.patch.object(
                compiler, 'port_prefixes',
                lambda first, last: right(first, max(first, last - 1))):
            self.assertNoticed()

    def test_any_peer_forgotten(self):
        right = compiler.compile_ruleset
        with mock.patch.object(
                compiler, 'compile_ruleset',
                lambda ruleset: dataclasses.replace(right(ruleset),
                                                    any_peer=0)):
            self.assertNoticed()

    def test_pass_does_not_leave_its_tier(self):
        right = compiler.compile_ruleset

        def compile_(ruleset):
            table = right(ruleset)
            return dataclasses.replace(table, groups=tuple(
                group._replace(verdict=model.Verdict.DENY)
                if group.verdict is model.Verdict.PASS else group
                for group in table.groups))

        with mock.patch.object(compiler, 'compile_ruleset', compile_):
            self.assertNoticed()

    def test_maps_only(self):
        # The tables are right, a row that is in force is not.
        right = simulated.Node.judge

        def judge(node, question):
            found = right(node, question)
            wrong = question.port == 90 and question.protocol == 6
            return found._replace(allowed=found.allowed != wrong)

        with mock.patch.object(simulated.Node, 'judge', judge):
            self.assertNoticed()

    def test_oracle_without_excepts(self):
        right = statements.block
        with mock.patch.object(statements, 'block',
                               lambda cidr, excepts=(): right(cidr)):
            self.assertNoticed()

    def test_oracle_without_deny(self):
        def truth(present):
            cluster = cases.truth(present)
            cluster.statements = [dataclasses.replace(
                statement, rules=tuple(
                    rule for rule in statement.rules
                    if rule.action != statements.DENY))
                for statement in cluster.statements]
            return cluster

        self.assertNoticed(truth=truth)

    def test_change_that_is_not_told(self):
        made = dataclasses.replace(CASE, changes=[
            ('NetworkPolicy', 'policy/default/n', None)])
        run(made)

        def tell(world, *change):
            return dataclasses.replace(right(world, *change),
                                       hosts=frozenset())

        right = cases.tell
        with mock.patch.object(cases, 'tell', tell):
            self.assertRaises(check.Difference, run, made)

    def test_wrong_in_the_middle_of_a_change(self):
        made = dataclasses.replace(CASE, changes=[
            ('NetworkPolicy', 'policy/default/n', builders.policy('n', {
                'podSelector': {}, 'policyTypes': ['Ingress']}))])
        run(made, between=50)
        right = simulated.Node._carry_out

        def carry_out(node, planned, after_step=None):
            # Before it is right, everything is denied for a moment.
            if after_step is not None:
                node._maps, kept = simulated.sim.Maps(), node._maps
                after_step('nothing')
                node._maps = kept
            right(node, planned, after_step)

        with mock.patch.object(simulated.Node, '_carry_out', carry_out):
            self.assertRaises(check.Difference, run, made, between=50)


class TestOracle(base.TestCase):
    """Some of its answers, spelled out."""

    def test_path_and_reasons(self):
        cluster = cases.truth(CASE.present())
        path = cluster.path('10.0.0.1', '10.0.0.2', 6, 80)
        self.assertEqual((False, (), 'Isolated'), path.egress)
        self.assertEqual(
            (True, ('CiliumNetworkPolicy/default/c ingress[0]',),
             'NetworkPolicy'), path.ingress)
        self.assertFalse(path.allowed)
        outside = cluster.path('198.51.100.1', '10.0.0.1', 17, 1)
        self.assertIsNone(outside.egress)
        self.assertTrue(outside.allowed)
        self.assertEqual(
            (False, ('ClusterNetworkPolicy/a egress[0]',), 'Admin'),
            cluster.path('10.0.0.1', '198.51.100.1', 6, 80).egress)

    def test_own_node(self):
        cluster = cases.truth(case(('NetworkPolicy', builders.policy('n', {
            'podSelector': {}, 'policyTypes': ['Ingress', 'Egress']}))
        ).present())
        self.assertEqual('Node', cluster.path(
            '192.0.2.1', '10.0.0.1', 6, 80).ingress.tier)
        for source, target in (('192.0.2.2', '10.0.0.1'),
                               ('10.0.0.1', '192.0.2.1'),
                               ('10.0.0.1', '192.0.2.2')):
            self.assertFalse(cluster.path(source, target, 6, 80).allowed)

    def test_option_of_the_own_node(self):
        policy = builders.policy('n', {'podSelector': {},
                                       'policyTypes': ['Egress']})
        cluster = oracle.Cluster(
            PODS, [builders.namespace('default')], NODES,
            policies={'NetworkPolicy': [policy]},
            options=oracle.Options(allow_egress_to_own_node=True))
        self.assertTrue(cluster.path('10.0.0.1', '192.0.2.1', 6, 1).allowed)
        self.assertFalse(cluster.path('10.0.0.1', '192.0.2.2', 6, 1).allowed)

    def test_unclear_isolates(self):
        cluster = cases.truth(case(('NetworkPolicy', builders.policy('n', {
            'podSelector': {}, 'ingress': [{}, {'from': [{'who': 1}]}]}))
        ).present())
        self.assertFalse(cluster.path('10.0.0.2', '10.0.0.1', 6, 1).allowed)
        self.assertTrue(cluster.statements[0].unclear)
