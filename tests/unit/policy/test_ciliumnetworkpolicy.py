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

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors
from tests.unit.policy.cilium import Case
from tests.unit.policy.cilium import DENY
from tests.unit.policy.cilium import EGRESS
from tests.unit.policy.cilium import label
from tests.unit.policy.cilium import OWN
from tests.unit.policy.cilium import parse
from tests.unit.policy.cilium import parse_all

INGRESS = model.Direction.INGRESS
BOTH = {INGRESS, EGRESS}


class TestSpec(Case):

    def test_normal_form(self):
        policy = self.good(
            endpointSelector={'matchLabels': {'a': 'b'}},
            ingress=[{'fromEndpoints': [{}]}],
            ingressDeny=[{'fromEntities': ['world']}],
            labels=[{'key': 'x'}], description='why', log={'value': 'x'})
        self.assertEqual('CiliumNetworkPolicy/default/p', policy.name)
        self.assertEqual(selectors.Pods((label('a', 'b'),), 'default'),
                         policy.subject)
        self.assertEqual({INGRESS}, policy.isolates)
        self.assertEqual((
            normal.Rule(INGRESS, frozenset((OWN,)), name='ingress[0]'),
            normal.Rule(INGRESS, frozenset((
                selectors.Entity(entities.WORLD),)), None, DENY,
                name='ingressDeny[0]')), policy.rules)

    def test_sections_isolate_their_direction(self):
        for spec, want in (
                ({'ingress': [{}]}, {INGRESS}),
                ({'egressDeny': [{}]}, {EGRESS}),
                ({'ingressDeny': [{}], 'egress': [{}]}, BOTH),
                ({'ingress': [{}], 'egress': []}, {INGRESS}),
                ({'ingress': [{}], 'egress': None}, {INGRESS})):
            policy = self.good(**spec)
            self.assertEqual(want, policy.isolates)
            self.assertEqual((), policy.rules)

    def test_enable_default_deny(self):
        rule = [{'fromEntities': ['all']}]
        for said, want in (({'ingress': False}, set()),
                           ({'ingress': True}, {INGRESS}),
                           ({'egress': True}, BOTH),
                           ({'ingress': False, 'egress': True}, {EGRESS}),
                           ({'egress': False}, {INGRESS}),
                           ({}, {INGRESS}), (None, {INGRESS})):
            policy = self.good(ingress=rule, enableDefaultDeny=said)
            self.assertEqual(want, policy.isolates)
            self.assertEqual(1, len(policy.rules))

    def test_specs(self):
        first, second = parse_all(
            spec={'endpointSelector': {}, 'ingress': [{'toPorts': [
                {'ports': [{'port': '1'}]}]}]},
            specs=[{'endpointSelector': {'matchLabels': {'a': 'b'}},
                    'ingress': [{'fromEntities': ['all']}]}])
        self.assertEqual((first.uid, first.name), (second.uid, second.name))
        self.assertEqual('ingress[0]', first.rules[0].name)
        self.assertEqual('specs[0].ingress[0]', second.rules[0].name)

    def test_one_bad_spec_leaves_the_others(self):
        bad, good = parse_all(specs=[
            {'endpointSelector': {}, 'ingress': [{'more': 1}]},
            {'endpointSelector': {}, 'ingress': [{'fromEntities': ['all']}]}])
        self.assertEqual(['specs[0].ingress[0].more'], self.fields_of(bad))
        self.assertEqual((), good.problems)
        self.assertEqual(1, len(good.rules))

    def test_what_selects_nothing_is_refused(self):
        for obj, field in (
                ({}, 'spec'), ({'spec': None}, 'spec'),
                ({'specs': []}, 'spec'),
                ({'spec': {'ingress': [{}]}}, 'spec.endpointSelector'),
                ({'spec': {'nodeSelector': {}, 'ingress': [{}]}},
                 'spec.nodeSelector'),
                ({'spec': {'endpointSelector': {'matchLabels': {
                    'reserved:health': ''}}, 'ingress': [{}]}},
                 'spec.endpointSelector')):
            for clusterwide in (True, False):
                policy, = parse_all(clusterwide, **obj)
                self.assertIsNone(policy.subject)
                self.assertEqual([field], self.fields_of(policy))

    def test_without_rules_it_has_no_effect_and_says_so(self):
        for spec in ({}, {'ingress': []}, {'ingress': None, 'egress': []}):
            policy = parse(**spec)
            self.assertEqual(['spec'], self.fields_of(policy))
            self.assertEqual(frozenset(), policy.isolates)

    def test_broken_isolates_and_denies_where_it_denies(self):
        policy = parse(ingress=[{'fromEntities': ['all']}],
                       egressDeny=[{'toEntities': ['nowhere']}],
                       enableDefaultDeny={'ingress': False, 'egress': False})
        self.assertEqual(['spec.egressDeny[0].toEntities[0]'],
                         self.fields_of(policy))
        self.assertEqual(BOTH, policy.isolates)
        self.assertEqual((normal.Rule(EGRESS, verdict=DENY,
                                      name='egressDeny'),), policy.rules)

    def test_broken_selectors_select_all_they_may(self):
        for selector in ([], 'x', {'matchLabels': 'a'}, {'more': 1},
                         {'matchLabels': {'fqdn:a': 'b'}},
                         {'matchLabels': {'k8s:': 'b'}},
                         {'matchLabels': {'$host': ''}},
                         {'matchLabels': {
                             'io.cilium.k8s.policy.cluster': 'c'}}):
            policy = parse(endpointSelector=selector, ingress=[{}])
            self.assertEqual(OWN, policy.subject)
            self.assertEqual({INGRESS}, policy.isolates)
            self.fields_of(policy)

    def test_unreadable(self):
        for obj in ({'spec': 'x'}, {'spec': []}, {'specs': 'x'},
                    {'specs': [None]}, {'specs': {'ingress': [{}]}}):
            policy, = parse_all(**obj)
            self.assertEqual(BOTH, policy.isolates)
            self.assertEqual(OWN, policy.subject)
            self.fields_of(policy)

    def test_malformed(self):
        for spec, want in (
                ({'ingress': {}}, ['ingress']),
                ({'ingress': 'x'}, ['ingress']),
                ({'ingress': ['x']}, ['ingress[0]']),
                ({'ingress': [None]}, ['ingress[0]']),
                ({'ingres': [{}]}, ['ingres']),
                ({'ingress': [{'toEntities': ['all']}]},
                 ['ingress[0].toEntities']),
                ({'enableDefaultDeny': [], 'ingress': [{}]},
                 ['enableDefaultDeny']),
                ({'enableDefaultDeny': {'ingress': 'no'}, 'ingress': [{}]},
                 ['enableDefaultDeny.ingress'])):
            policy = parse(**spec)
            self.assertEqual(['spec.' + field for field in want],
                             self.fields_of(policy))
            self.assertIn(INGRESS, policy.isolates)

    def test_authentication(self):
        self.rule(toEntities=['all'], authentication={'mode': 'disabled'})
        for value in ({'mode': 'required'}, {}, []):
            policy = parse(egress=[{'toEntities': ['all'],
                                    'authentication': value}])
            self.assertEqual(1, len(self.fields_of(policy)))
        policy = parse(egressDeny=[{'authentication': {'mode': 'disabled'}}])
        self.assertEqual(['spec.egressDeny[0].authentication'],
                         self.fields_of(policy))


class TestSubject(Case):

    def subject(self, clusterwide=False, expressions=(), **match):
        return self.good(clusterwide, ingress=[{}], endpointSelector={
            'matchLabels': match,
            'matchExpressions': list(expressions)}).subject

    def test_sources_are_the_same_label(self):
        for key in ('a', 'k8s:a', 'any:a'):
            self.assertEqual(selectors.Pods((label('a', 'b'),), 'default'),
                             self.subject(**{key: 'b'}))

    def test_its_own_namespace_may_be_named(self):
        self.assertEqual(OWN, self.subject(**{
            'k8s:io.kubernetes.pod.namespace': 'default'}))
        policy = parse(ingress=[{}], endpointSelector={'matchLabels': {
            'io.kubernetes.pod.namespace': 'other', 'a': 'b'}})
        self.assertEqual(selectors.Pods((label('a', 'b'),), 'default'),
                         policy.subject)
        self.assertEqual(['spec.endpointSelector'], self.fields_of(policy))

    def test_labels_of_the_namespace(self):
        team = {'io.cilium.k8s.namespace.labels.team': 'a'}
        self.assertEqual(
            selectors.Pods((), None, (label(labels.NAMESPACE_NAME, 'default'),
                                      label('team', 'a'))),
            self.subject(**team))
        self.assertEqual(selectors.Pods((), None, (label('team', 'a'),)),
                         self.subject(True, **team))

    def test_pods_are_not_reserved(self):
        for operator, values in (('DoesNotExist', []), ('NotIn', ['x'])):
            self.assertEqual(OWN, self.subject(expressions=[
                {'key': 'reserved:init', 'operator': operator,
                 'values': values}]))

    def test_clusterwide(self):
        self.assertEqual(selectors.Pods(), self.subject(True))
        self.assertEqual(selectors.Pods(namespace='x'), self.subject(
            True, **{'k8s:io.kubernetes.pod.namespace': 'x'}))

    def test_broken_clusterwide_leaves_out_exempt_namespaces(self):
        exempt = labels.Requirement(labels.NAMESPACE_NAME, labels.NOT_IN,
                                    ('kube-system',))
        policy = parse(True, ingress=[{'more': 1}])
        self.assertEqual(selectors.Pods((), None, (exempt,)), policy.subject)
        for namespace, want in (('kube-system', None),
                                ('x', selectors.Pods(namespace='x'))):
            policy = parse(True, ingress=[{'more': 1}], endpointSelector={
                'matchLabels': {'io.kubernetes.pod.namespace': namespace}})
            self.assertEqual(want, policy.subject)
