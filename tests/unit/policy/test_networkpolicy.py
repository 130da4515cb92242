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

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.policy import model
from kuryr_cilium.policy import networkpolicy
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors
from tests import base
from tests.unit.policy import builders

INGRESS, EGRESS = model.Direction.INGRESS, model.Direction.EGRESS

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5),
              st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from((
            'podSelector', 'namespaceSelector', 'matchLabels', 'from', 'to',
            'matchExpressions', 'ports', 'port', 'endPort', 'protocol',
            'policyTypes', 'ingress', 'egress', 'key', 'operator', 'values',
            'ipBlock', 'more')), inner, max_size=4)), max_leaves=12)


class TestParse(base.TestCase):

    def parse(self, spec):
        return networkpolicy.parse(builders.policy('p', spec))

    def problems(self, **spec):
        policy = self.parse(spec)
        self.assertEqual((), policy.rules)
        self.assertTrue(policy.problems)
        return [problem.field for problem in policy.problems]

    def rule_problems(self, **rule):
        return self.problems(ingress=[rule])

    def test_normal_form(self):
        policy = self.parse({
            'podSelector': {'matchLabels': {'a': 'b'}},
            'ingress': [{'from': [{'namespaceSelector': {}}],
                         'ports': [{'port': 80}]}]})
        self.assertEqual('NetworkPolicy/default/p', policy.name)
        self.assertEqual({INGRESS}, policy.isolates)
        self.assertEqual('default', policy.subject.namespace)
        rule, = policy.rules
        self.assertEqual({selectors.Pods()}, rule.peers)
        self.assertEqual({model.PortRange(6, 80, 80)}, rule.ports)

    def test_a_rule_that_is_null_is_no_empty_one(self):
        self.assertEqual(['spec.ingress[1]'],
                         self.problems(ingress=[{'ports': []}, None]))

    def test_rules_have_names(self):
        policy = self.parse({'ingress': [{}, {}], 'egress': [{}]})
        self.assertEqual({'ingress[0]', 'ingress[1]', 'egress[0]'},
                         {rule.name for rule in policy.rules})

    def test_every_problem_is_reported(self):
        self.assertEqual(
            ['spec.ingress[0].ports[0].protocol',
             'spec.ingress[0].ports[1].endPort', 'spec.egress[0].more'],
            self.problems(
                ingress=[{'ports': [{'protocol': 'GRE'},
                                    {'port': 5, 'endPort': 4}]}],
                egress=[{'more': 1}]))

    def test_malformed(self):
        for rule, field in (
                ({'ports': [{'port': 0}]}, 'ports[0].port'),
                ({'ports': [{'port': 65536}]}, 'ports[0].port'),
                ({'ports': [{'port': True}]}, 'ports[0].port'),
                ({'ports': [{'port': 8.5}]}, 'ports[0].port'),
                ({'ports': [{'endPort': 80}]}, 'ports[0].endPort'),
                ({'ports': [{'protocol': 6}]}, 'ports[0].protocol'),
                ({'ports': {'port': 80}}, 'ports'),
                ({'ports': ['80']}, 'ports[0]'),
                ({'from': 'all'}, 'from'),
                ({'from': [{}]}, 'from[0]'),
                ({'ports': [None]}, 'ports[0]'),
                ({'from': [None]}, 'from[0]'),
                ({'to': []}, 'to'),
                ({'ports': [{'port': 'HTTP'}]}, 'ports[0].port'),
                ({'ports': [{'port': '80'}]}, 'ports[0].port'),
                ({'ports': [{'port': ''}]}, 'ports[0].port'),
                ({'ports': [{'port': 'a--b'}]}, 'ports[0].port'),
                ({'ports': [{'port': 'http\n'}]}, 'ports[0].port'),
                ({'ports': [{'port': 'sixteen-letters-'}]}, 'ports[0].port'),
                ({'ports': [{'port': 'http', 'endPort': 80}]},
                 'ports[0].endPort'),
                ({'from': [{'ipBlock': {'cidr': '10.0.0.0/8'},
                            'podSelector': {}}]}, 'from[0].ipBlock'),
                ({'from': [{'podSelector': []}]}, 'from[0].podSelector'),
                ({'from': [{'podSelector': {'matchLabels': {'a': 1}}}]},
                 'from[0].podSelector.matchLabels'),
                ({'from': [{'podSelector': {'matchExpressions': [
                    {'key': 'a', 'operator': 'Gt', 'values': ['1']}]}}]},
                 'from[0].podSelector.matchExpressions[0].operator'),
                ({'from': [{'podSelector': {'matchExpressions': [
                    {'key': 'a', 'operator': 'In'}]}}]},
                 'from[0].podSelector.matchExpressions[0].values'),
                ({'from': [{'podSelector': {'matchExpressions': [
                    {'key': 'a', 'operator': 'Exists', 'values': ['']}]}}]},
                 'from[0].podSelector.matchExpressions[0].values')):
            self.assertEqual(['spec.ingress[0].' + field],
                             self.rule_problems(**rule), rule)

    def test_unreadable_pod_selector_selects_the_namespace(self):
        policy = self.parse({'podSelector': {'matchLabels': 'a=b'}})
        self.assertEqual(selectors.Pods(namespace='default'), policy.subject)
        self.assertEqual(1, len(policy.problems))

    def test_unreadable_policy_types_isolate_both_ways(self):
        for value in ('Egress', ['egress'], [[]], [None]):
            policy = self.parse({'policyTypes': value, 'ingress': [{}],
                                 'podSelector': {'matchLabels': {'a': 'b'}}})
            self.assertEqual({INGRESS, EGRESS}, policy.isolates)
            self.assertNotEqual(selectors.Pods(namespace='default'),
                                policy.subject)
            self.assertEqual((), policy.rules)

    def test_unreadable_spec_isolates_the_namespace(self):
        for spec in ([], 'x', 5):
            policy = self.parse(spec)
            self.assertEqual({INGRESS, EGRESS}, policy.isolates)
            self.assertEqual(selectors.Pods(namespace='default'),
                             policy.subject)

    @hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
    @hypothesis.given(JSON)
    def test_anything_isolates_or_is_understood(self, spec):
        policy = self.parse(spec)
        self.assertTrue(policy.isolates)
        self.assertTrue(not policy.problems or not policy.rules)
        self.assertEqual('default', policy.subject.namespace)
        hash(policy)


class TestBlocks(base.TestCase):

    def policy(self, cidr, *excepts):
        return networkpolicy.parse(builders.policy('p', {'egress': [{'to': [
            {'ipBlock': {'cidr': cidr, 'except': list(excepts)}}]}]}))

    def block(self, cidr, *excepts):
        policy = self.policy(cidr, *excepts)
        self.assertEqual((), policy.problems)
        peer, = policy.rules[0].peers
        return peer.block

    def test_canonical(self):
        for cidr, excepts, want in (
                ('10.0.0.0/8', (), model.Block('10.0.0.0/8')),
                ('0.0.0.0/0', (), model.Block('0.0.0.0/0')),
                ('::/0', (), model.Block('::/0')),
                ('FD00:0::/8', (), model.Block('fd00::/8')),
                # Bits of the host are masked off.
                ('10.1.2.3/8', ('10.1.2.3/16',),
                 model.Block('10.0.0.0/8', ('10.1.0.0/16',))),
                # The union of the excepts, in one form.
                ('10.0.0.0/8', ('10.2.0.0/16', '10.1.0.0/16', '10.1.5.0/24'),
                 model.Block('10.0.0.0/8', ('10.1.0.0/16', '10.2.0.0/16'))),
                ('10.0.0.0/8', ('10.0.0.0/9', '10.128.0.0/9'),
                 model.Block('10.0.0.0/8', ('10.0.0.0/8',))),
                # What lies outside takes nothing away; what covers, all.
                ('10.0.0.0/8', ('11.0.0.0/8', 'fd00::/8'),
                 model.Block('10.0.0.0/8')),
                ('10.0.0.0/8', ('0.0.0.0/0',),
                 model.Block('10.0.0.0/8', ('10.0.0.0/8',)))):
            self.assertEqual(want, self.block(cidr, *excepts))

    def test_malformed(self):
        for text in ('10.0.0.0', '10.0.0.0/33', '10.0.0.0/255.0.0.0', 'all',
                     '', '/8', '10.0.0.0/', '10.0.0.0/-1', '010.0.0.0/8',
                     '10.0.0/8', 'fe80::1%eth0/64', 'fd00::/129', None, 10,
                     ' 10.0.0.0/8', '10.0.0.0/8/8', '::ffff:10.0.0.0/104',
                     '10.0.0.0/\u0668'):
            policy = self.policy(text)
            self.assertEqual(['spec.egress[0].to[0].ipBlock.cidr'],
                             [found.field for found in policy.problems], text)
            self.assertEqual((), policy.rules)
            policy = self.policy('0.0.0.0/0', '10.0.0.0/8', text)
            self.assertEqual(['spec.egress[0].to[0].ipBlock.except[1]'],
                             [found.field for found in policy.problems], text)
            self.assertEqual((), policy.rules)

    def test_named_ports_keep_their_protocol(self):
        policy = networkpolicy.parse(builders.policy('p', {'ingress': [
            {'ports': [{'port': 'dns'}, {'port': 'dns', 'protocol': 'UDP'},
                       {'port': 53}]}]}))
        self.assertEqual({normal.NamedPort(6, 'dns'),
                          normal.NamedPort(17, 'dns'),
                          model.PortRange(6, 53, 53)}, policy.rules[0].ports)


class TestSelectors(base.TestCase):

    def peer(self, **peer):
        policy = networkpolicy.parse(builders.policy(
            'p', {'ingress': [{'from': [peer]}]}))
        self.assertEqual((), policy.problems)
        found, = policy.rules[0].peers
        return found

    def test_other_words_same_selector(self):
        first = self.peer(podSelector={
            'matchLabels': {'a': 'x', 'b': 'y'}})
        second = self.peer(podSelector={'matchExpressions': [
            {'key': 'b', 'operator': 'In', 'values': ['y', 'y']},
            {'key': 'a', 'operator': 'In', 'values': ['x']},
            {'key': 'a', 'operator': 'In', 'values': ['x']}]})
        self.assertEqual(first, second)
        self.assertEqual(first.id, second.id)

    def test_id_is_stable(self):
        # The id is on the wire, and in the views that nodes keep on disk.
        selector = self.peer(podSelector={'matchLabels': {'a': 'x'}})
        self.assertEqual('{"namespace":"default","pods":[["a","In",["x"]]]}',
                         selector.definition)
        self.assertEqual(
            '185972ca3cfe72534477459e5c9d6b9b3da665d8f36d1df46b5caf723ca77e6e',
            selector.id)

    def test_a_namespace_is_part_of_it(self):
        ids = {self.peer(podSelector={}).id,
               self.peer(namespaceSelector={}).id,
               self.peer(namespaceSelector={
                   'matchLabels': {'a': 'x'}}).id,
               self.peer(podSelector={'matchLabels': {'a': 'x'}},
                         namespaceSelector={}).id}
        self.assertEqual(4, len(ids))
