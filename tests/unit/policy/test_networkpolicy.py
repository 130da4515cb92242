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

    def test_what_is_not_supported_yet(self):
        self.assertEqual(
            ['spec.ingress[0].from[0].ipBlock'],
            self.rule_problems(**{'from': [{'ipBlock': {'cidr': '::/0'}}]}))
        self.assertEqual(['spec.ingress[0].ports[0].port'],
                         self.rule_problems(ports=[{'port': 'http'}]))

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
                ({'from': [None]}, 'from[0]'),
                ({'to': []}, 'to'),
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
