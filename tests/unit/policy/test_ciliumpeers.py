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
from tests.unit.policy.cilium import outside
from tests.unit.policy.cilium import OWN
from tests.unit.policy.cilium import parse

API_SERVER = selectors.Services('default', 'kubernetes')


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
