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

from kuryr_cilium.policy import ciliumnetworkpolicy
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors
from tests import base

INGRESS, EGRESS = model.Direction.INGRESS, model.Direction.EGRESS
BOTH = {INGRESS, EGRESS}
ALLOW, DENY = model.Verdict.ALLOW, model.Verdict.DENY
OWN = selectors.Pods(namespace='default')
API_SERVER = selectors.Services('default', 'kubernetes')


def parse_all(clusterwide=False, **obj):
    metadata = {'uid': 'u', 'name': 'p'}
    kind = ciliumnetworkpolicy.CLUSTERWIDE
    if not clusterwide:
        metadata['namespace'] = 'default'
        kind = ciliumnetworkpolicy.KIND
    return ciliumnetworkpolicy.parse(kind, {'metadata': metadata, **obj},
                                     ('kube-system',))


def parse(clusterwide=False, **spec):
    spec = {'endpointSelector': {}, **spec}
    policy, = parse_all(clusterwide, spec=spec)
    return policy


def outside(cidr, *excepts):
    return selectors.Block(model.Block(cidr, excepts, True))


def label(key, *values):
    return labels.Requirement(key, labels.IN, values)


class Case(base.TestCase):

    def good(self, clusterwide=False, **spec):
        policy = parse(clusterwide, **spec)
        self.assertEqual((), policy.problems)
        return policy

    def fields_of(self, policy):
        self.assertTrue(policy.problems)
        self.assertEqual([], [rule for rule in policy.rules
                              if rule.verdict is not DENY])
        return [problem.field for problem in policy.problems]

    def rule(self, clusterwide=False, **rule):
        found, = self.good(clusterwide, egress=[rule]).rules
        return found

    def peers(self, clusterwide=False, **rule):
        return self.rule(clusterwide, **rule).peers

    def matches_nothing(self, **rule):
        for field, direction in (('egress', EGRESS), ('egressDeny', EGRESS)):
            policy = self.good(**{field: [rule]})
            self.assertEqual((), policy.rules)
            self.assertEqual({direction}, policy.isolates)


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


class TestPeers(Case):

    def endpoints(self, clusterwide=False, expressions=(), **match):
        peer, = self.peers(clusterwide, toEndpoints=[
            {'matchLabels': match, 'matchExpressions': list(expressions)}])
        return peer

    def test_endpoints_mean_the_own_namespace(self):
        self.assertEqual(OWN, self.endpoints())
        self.assertEqual(selectors.Pods((label('a', 'b'),), 'default'),
                         self.endpoints(**{'k8s:a': 'b'}))
        self.assertEqual(selectors.Pods(), self.endpoints(True))

    def test_endpoints_of_other_namespaces(self):
        self.assertEqual(
            selectors.Pods((label('a', 'b'),), 'x'),
            self.endpoints(a='b', **{'k8s:io.kubernetes.pod.namespace': 'x'}))
        self.assertEqual(selectors.Pods(), self.endpoints(expressions=[
            {'key': 'io.kubernetes.pod.namespace', 'operator': 'Exists'}]))
        self.assertEqual(
            selectors.Pods((), None, (labels.Requirement(
                labels.NAMESPACE_NAME, labels.NOT_IN, ('x',)),)),
            self.endpoints(expressions=[
                {'key': 'io.kubernetes.pod.namespace', 'operator': 'NotIn',
                 'values': ['x']}]))
        self.assertEqual(
            selectors.Pods((), None, (label('team', 'a'),)),
            self.endpoints(**{
                'k8s:io.cilium.k8s.namespace.labels.team': 'a'}))

    def test_service_accounts_are_labels_of_pods(self):
        key = 'io.cilium.k8s.policy.serviceaccount'
        self.assertEqual(selectors.Pods((label(key, 'leia'),), 'default'),
                         self.endpoints(**{key: 'leia'}))

    def test_reserved(self):
        host = selectors.Entity(entities.HOST)
        self.assertEqual(host, self.endpoints(**{'reserved:host': ''}))
        self.assertEqual(host, self.endpoints(expressions=[
            {'key': 'reserved:host', 'operator': 'Exists'}]))
        self.matches_nothing(toEndpoints=[{'matchLabels': {
            'reserved:health': ''}}])
        for selector in ({'matchLabels': {'reserved:host': '', 'a': 'b'}},
                         {'matchLabels': {'reserved:host': 'x'}},
                         {'matchLabels': {'reserved:all': ''}},
                         {'matchExpressions': [
                             {'key': 'reserved:init',
                              'operator': 'DoesNotExist'}]}):
            policy = parse(egress=[{'toEndpoints': [selector]}])
            self.assertEqual(['spec.egress[0].toEndpoints[0]'],
                             self.fields_of(policy))

    def test_nil_and_empty(self):
        self.matches_nothing()
        self.matches_nothing(toPorts=[])
        for field in ('toEndpoints', 'toEntities', 'toCIDR', 'toCIDRSet',
                      'toNodes'):
            self.matches_nothing(**{field: []})
            self.matches_nothing(**{field: [], 'toPorts': [
                {'ports': [{'port': '80'}]}]})
            self.assertIsNone(self.peers(**{field: None, 'toPorts': [
                {'ports': [{'port': '80'}]}]}))

    def test_entities(self):
        entity = selectors.Entity
        for name, want in (
                ('all', None),
                ('world', {entity(entities.WORLD)}),
                ('cluster', {entity(entities.CLUSTER), API_SERVER}),
                ('host', {entity(entities.HOST)}),
                ('remote-node', {entity(entities.REMOTE_NODE)}),
                ('kube-apiserver', {API_SERVER}),
                ('world-ipv4', {outside('0.0.0.0/0')}),
                ('world-ipv6', {outside('::/0')})):
            self.assertEqual(want, self.peers(toEntities=[name]))
            self.assertEqual(want, self.peers(toEntities=['none', name]))
        for name in ('none', 'init', 'health', 'unmanaged', 'ingress'):
            self.matches_nothing(toEntities=[name])
        self.assertIsNone(self.peers(toEntities=['host', 'all']))

    def test_cidrs_are_outside_of_the_cluster(self):
        self.assertEqual({outside('10.0.0.0/8'), outside('192.0.2.1/32'),
                          outside('2001:db8::1/128')}, self.peers(
            toCIDR=['10.1.0.0/8', '192.0.2.1', '2001:db8::1']))
        self.assertEqual(
            {outside('10.0.0.0/8', '10.1.0.0/16', '10.3.0.0/16')},
            self.peers(toCIDRSet=[{'cidr': '10.0.0.0/8', 'except': [
                '10.3.0.0/16', '10.1.0.0/16']}]))

    def test_services(self):
        self.assertEqual({
            selectors.Services('x', 's'), selectors.Services(None, 't'),
            selectors.Services('y', None, (label('a', 'b'),)),
            selectors.Services()}, self.peers(toServices=[
                {'k8sService': {'serviceName': 's', 'namespace': 'x'}},
                {'k8sService': {'serviceName': 't', 'namespace': ''}},
                {'k8sServiceSelector': {'namespace': 'y', 'selector': {
                    'matchLabels': {'k8s:a': 'b'}}}},
                {'k8sServiceSelector': {'selector': {}}}]))

    def test_nodes(self):
        self.assertEqual(
            {selectors.Nodes((label('z', ''),)), selectors.Nodes()},
            self.peers(toNodes=[{'matchLabels': {'node:z': ''}}, {}]))

    def test_malformed(self):
        service = {'serviceName': 's'}
        for rule, field in (
                ({'toEndpoints': {}}, 'toEndpoints'),
                ({'toEndpoints': ['x']}, 'toEndpoints[0]'),
                ({'toEntities': ['World']}, 'toEntities[0]'),
                ({'toEntities': [[]]}, 'toEntities[0]'),
                ({'toCIDR': ['x']}, 'toCIDR[0]'),
                ({'toCIDR': [{'cidr': '::/0'}]}, 'toCIDR[0]'),
                ({'toCIDRSet': ['::/0']}, 'toCIDRSet[0]'),
                ({'toCIDRSet': [{'cidr': '10.0.0.1'}]}, 'toCIDRSet[0].cidr'),
                ({'toCIDRSet': [{'cidr': '::/0', 'except': ['x']}]},
                 'toCIDRSet[0].except[0]'),
                ({'toCIDRSet': [{'cidrGroupRef': 'g'}]},
                 'toCIDRSet[0].cidrGroupRef'),
                ({'toCIDRSet': [{'cidrGroupSelector': {}}]},
                 'toCIDRSet[0].cidrGroupSelector'),
                ({'toFQDNs': [{'matchName': 'example.org'}]}, 'toFQDNs'),
                ({'toRequires': [{}]}, 'toRequires'),
                ({'toGroups': [{'aws': {}}]}, 'toGroups'),
                ({'toServices': []}, 'toServices'),
                ({'toServices': [{}]}, 'toServices[0]'),
                ({'toServices': [{'k8sService': service,
                                  'k8sServiceSelector': {}}]},
                 'toServices[0]'),
                ({'toServices': [{'k8sService': {'serviceName': ''}}]},
                 'toServices[0].k8sService.serviceName'),
                ({'toServices': [{'k8sServiceSelector': {}}]},
                 'toServices[0].k8sServiceSelector.selector'),
                ({'toNodes': [{'matchLabels': {'reserved:host': ''}}]},
                 'toNodes[0]'),
                ({'toCIDR': ['::/0'], 'toEntities': ['all']}, 'toCIDR'),
                ({'fromEntities': ['all']}, 'fromEntities')):
            policy = parse(egress=[rule])
            self.assertEqual(['spec.egress[0].' + field],
                             self.fields_of(policy))
            self.assertEqual({EGRESS}, policy.isolates)
        for field in ('fromServices', 'fromFQDNs'):
            policy = parse(ingress=[{field: [{}]}])
            self.assertEqual(['spec.ingress[0].' + field],
                             self.fields_of(policy))


class TestPorts(Case):

    def ports(self, *ports):
        return self.rule(toPorts=[{'ports': list(ports)}]).ports

    def test_numbers(self):
        self.assertEqual({model.PortRange(6, 80, 80)}, self.ports(
            {'port': '80', 'protocol': 'TCP'}))
        self.assertEqual({model.PortRange(17, 80, 90)}, self.ports(
            {'port': '80', 'endPort': 90, 'protocol': 'UDP'}))
        self.assertEqual({model.PortRange(132, 80, 80)}, self.ports(
            {'port': '80', 'endPort': 0, 'protocol': 'SCTP'}))

    def test_any_protocol_is_each_that_has_ports(self):
        for protocol in ('ANY', '', None):
            self.assertEqual(
                {model.PortRange(number, 53, 53) for number in (6, 17, 132)},
                self.ports({'port': '53', 'protocol': protocol}))

    def test_port_0_is_every_port(self):
        self.assertEqual({model.PortRange(6)}, self.ports(
            {'port': '0', 'protocol': 'TCP'}))

    def test_names(self):
        self.assertEqual({normal.NamedPort(6, 'http')}, self.ports(
            {'port': 'HTTP', 'protocol': 'TCP', 'endPort': 9}))
        self.assertEqual(
            {normal.NamedPort(number, 'dns') for number in (6, 17, 132)},
            self.ports({'port': 'dns'}))

    def test_several(self):
        rule = self.rule(toPorts=[
            {'ports': [{'port': '1', 'protocol': 'TCP'}]},
            {'ports': [{'port': '2', 'protocol': 'TCP'}]}])
        self.assertEqual({model.PortRange(6, 1, 1), model.PortRange(6, 2, 2)},
                         rule.ports)

    def test_no_ports_match_nothing(self):
        self.matches_nothing(toEntities=['all'], toPorts=[{}])
        self.matches_nothing(toEntities=['all'], toPorts=[{'ports': []}])
        self.matches_nothing(toEntities=['all'], icmps=[{}])

    def test_icmps(self):
        self.assertEqual(
            {model.PortRange(1, 0x800, 0x8ff), model.PortRange(1, 0, 0xff),
             model.PortRange(58, 0x8000, 0x80ff),
             model.PortRange(58, 0x100, 0x1ff)},
            self.rule(icmps=[
                {'fields': [{'type': 8}, {'type': 'EchoReply'}]},
                {'fields': [{'family': 'IPv6', 'type': 'EchoRequest'},
                            {'family': 'IPv6', 'type': '1'}]}]).ports)

    def test_empty_rules_are_no_layer_7(self):
        self.rule(toPorts=[{'ports': [{'port': '1'}], 'rules': {'http': []}}])

    def test_malformed(self):
        port = 'toPorts[0].ports[0]'
        ok = {'port': '80'}
        for rule, field in (
                ({'toPorts': {}}, 'toPorts'),
                ({'toPorts': [[]]}, 'toPorts[0]'),
                ({'toPorts': [None]}, 'toPorts[0]'),
                ({'icmps': [None]}, 'icmps[0]'),
                ({'toPorts': [{'ports': [{'port': 80}]}]}, port + '.port'),
                ({'toPorts': [{'ports': [{}]}]}, port + '.port'),
                ({'toPorts': [{'ports': [{'port': ''}]}]}, port + '.port'),
                ({'toPorts': [{'ports': [{'port': '080'}]}]}, port + '.port'),
                ({'toPorts': [{'ports': [{'port': '65536'}]}]},
                 port + '.port'),
                ({'toPorts': [{'ports': [{'port': '9' * 5000}]}]},
                 port + '.port'),
                ({'toPorts': [{'ports': [{'port': '80', 'endPort': 79}]}]},
                 port + '.endPort'),
                ({'toPorts': [{'ports': [{'port': '0', 'endPort': 79}]}]},
                 port + '.endPort'),
                ({'toPorts': [{'ports': [{**ok, 'protocol': 'ICMP'}]}]},
                 port + '.protocol'),
                ({'toPorts': [{'ports': [{**ok, 'protocol': 6}]}]},
                 port + '.protocol'),
                ({'toPorts': [{'ports': [ok], 'rules': {'http': [{}]}}]},
                 'toPorts[0].rules'),
                ({'toPorts': [{'ports': [ok], 'rules': {'kafka': [{}]}}]},
                 'toPorts[0].rules'),
                ({'toPorts': [{'ports': [ok], 'serverNames': ['a']}]},
                 'toPorts[0].serverNames'),
                ({'toPorts': [{'ports': [ok], 'terminatingTLS': {}}]},
                 'toPorts[0].terminatingTLS'),
                ({'toPorts': [{'ports': [ok], 'listener': {'name': 'x'}}]},
                 'toPorts[0].listener'),
                ({'toPorts': [{'ports': [ok]}],
                  'icmps': [{'fields': [{'type': 8}]}]}, 'icmps'),
                ({'icmps': [{'fields': [{}]}]}, 'icmps[0].fields[0].type'),
                ({'icmps': [{'fields': [{'type': 256}]}]},
                 'icmps[0].fields[0].type'),
                ({'icmps': [{'fields': [{'type': 'PacketTooBig'}]}]},
                 'icmps[0].fields[0].type'),
                ({'icmps': [{'fields': [{'type': 8, 'family': 'v4'}]}]},
                 'icmps[0].fields[0].family')):
            policy = parse(egress=[rule])
            self.assertEqual(['spec.egress[0].' + field],
                             self.fields_of(policy))
            self.assertEqual({EGRESS}, policy.isolates)

    def test_what_denies_has_no_layer_7(self):
        policy = parse(egressDeny=[{'toPorts': [
            {'ports': [{'port': '1'}], 'rules': {}}]}])
        self.assertEqual(['spec.egressDeny[0].toPorts[0].rules'],
                         self.fields_of(policy))
        self.assertEqual([DENY], [rule.verdict for rule in policy.rules])
