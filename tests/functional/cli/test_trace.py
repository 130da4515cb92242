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

"""The whole trace: a real API server, real maps, the agent's API, the CLI.

What is between the API server and the driver (the controller's world, the
agent's view) is made here in one step, without messages.
"""

import atexit
import dataclasses
import json
import os
import pathlib

import fixtures
import yaml

from kuryr_cilium.agent import api
from kuryr_cilium.agent import describe
from kuryr_cilium.agent import store
from kuryr_cilium.agent import trace as agent_trace
from kuryr_cilium.agent import view
from kuryr_cilium.cli import cluster
from kuryr_cilium.cli import compiled
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.k8s import resources
from kuryr_cilium.lb import model as lb
from kuryr_cilium.monitor import events
from kuryr_cilium.policy import entities
from kuryr_cilium import vif as kc_vif
from tests import base
from tests.functional.datapath import scene
from tests.functional.k8s import fixtures as kube
from tests.unit.binding import vifs
from tests.unit.cli import servers

CRDS = pathlib.Path(__file__).parents[3] / 'deploy' / 'crds'
_CRDS = resources.Resource('customresourcedefinitions',
                           'CustomResourceDefinition',
                           'apiextensions.k8s.io', namespaced=False)


_custom = []


class Node(fixtures.Fixture):
    """A node with pods a and b, its agent's API, and a cluster around it.

    :param test: for its cleanups.
    :param api: a KubeAPI.
    :ivar host: its name.
    :ivar namespace: of the pods, of this test alone.
    """

    def __init__(self, test, api):
        self._test = test
        self._api = api

    def _setUp(self):
        self.kubeconfig = self._api.kubeconfig
        self.client = self._api.client()
        self.addCleanup(self.client.close)
        self.namespace = self._api.namespace(self._test)
        self.host = 'node-' + self.namespace
        self.scene = self.useFixture(scene.Scene())
        self.driver = self.scene.driver()
        self._node(self.host, self.scene.node.v4, self.scene.node.v6)
        self.records = {}
        self.services = {}
        for pod in self.scene.pods:
            self._pod(pod)
        self.ring = events.Ring(100)
        self.socket = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'run', 'api.sock')
        server = api.APIServer(self.socket, {
            '/v1/status': lambda: {'host': self.host},
            '/v1/endpoints': lambda: describe.endpoints(
                self.records.values(), self.view, {},
                self.driver.connections()),
            '/v1/policies': lambda: describe.policies(self.view),
            '/v1/services': lambda: describe.services(
                self.services, None, {}, self.driver.conflicts()),
            '/v1/rulesets': lambda: [
                dataclasses.asdict(found)
                for found in self.driver.entries()],
        }, self.ring, {
            '/v1/trace': lambda query: agent_trace.answer(
                self.driver, query),
            '/v1/backends': lambda query: agent_trace.backends(
                self.driver, query)})
        server.start()
        self.addCleanup(server.stop)
        self.load()
        for record in self.records.values():
            self.driver.activate(kc_vif.facts(record.vif).vif_id)

    def serve(self, *found):
        """Have services in force, and every node's address has node ports."""
        self.services = {service.id: service for service in found}
        self._test.assertEqual({}, self.driver.serve(
            self.services, lb.Node(self.host),
            frozenset((self.scene.node.v4, self.scene.node.v6))))

    def load(self):
        """What controller and agent do when something has changed."""
        self.cluster = cluster.read(self.client)
        made = compiled.Compiled(self.cluster).view(self.host)
        assembled = view.assemble(1, {
            key: view.Held(value, '') for key, value in made.items()})
        self._test.assertEqual((), assembled.problems)
        self.view = assembled.view
        self.driver.apply(self.view)

    def address(self, name, version=4):
        """The address of pod a or b."""
        pod = self.scene.a if name == 'a' else self.scene.b
        return pod.address(version)

    def policy(self, resource, name, spec):
        """Make a policy, until the test's end, and load it."""
        namespace = self.namespace if resource.namespaced else None
        self.client.create(resource.path(namespace), {
            'apiVersion': resource.api_version, 'kind': resource.kind,
            'metadata': {'name': name}, 'spec': spec})
        self._test.addCleanup(self.client.delete,
                              resource.path(namespace, name))
        self.load()

    def _node(self, name, *addresses):
        self.client.create(resources.NODES.path(),
                           {'metadata': {'name': name}})
        self.addCleanup(self.client.delete, resources.NODES.path(name=name))
        self.client.merge_patch(
            resources.NODES.path(name=name, subresource='status'),
            {'status': {'addresses': [
                {'type': 'InternalIP', 'address': address}
                for address in addresses]}})

    def _pod(self, pod):
        """A pod with its port, its links and its record."""
        name = 'a' if pod is self.scene.a else 'b'
        vif = vifs.make(mac=pod.mac, subnets=(
            ('10.50.0.0/24', '10.50.0.1', (pod.v4,), ()),
            ('fd50::/64', 'fd50::', (pod.v6,), ())))
        made = kube.pod(name, self.host, app=name)
        made['metadata']['annotations'] = {
            kc_vif.ANNOTATION: kc_vif.dumps(vif)}
        made['spec']['containers'][0]['ports'] = [
            {'name': 'web', 'containerPort': 8000 + pod.number}]
        made = self.client.create(resources.PODS.path(self.namespace), made)
        uid = made['metadata']['uid']
        pod.attachment = dataclasses.replace(
            pod.attachment, uid=uid, vif_id=vif.id)
        self.records[name] = store.Record(
            uid, self.namespace, name, 'c-' + name, 'eth0', pod.path,
            kc_vif.dumps(vif), store.READY)
        self.scene.attach(self.driver, pod)


def with_crds():
    """A KubeAPI that has the definitions of deploy/crds.

    Not the one that all tests share: to others these kinds are absent.
    """
    if not _custom:
        api = kube.KubeAPI()
        atexit.register(api.stop)
        api.start()
        client = api.client()
        for path in sorted(CRDS.glob('c*.yaml')):
            crd = yaml.safe_load(path.read_text())
            client.create(_CRDS.path(), crd)
            base.wait_until(lambda: _serves(client, crd), 20)
        client.close()
        _custom.append(api)
    return _custom[0]


def _serves(client, crd):
    found = client.get(_CRDS.path(name=crd['metadata']['name']))
    return any(condition['type'] == 'Established'
               and condition['status'] == 'True' for condition
               in found.get('status', {}).get('conditions') or ())


class TraceCase(base.TestCase):

    api = staticmethod(kube.shared)

    def setUp(self):
        super().setUp()
        self.node = self.useFixture(Node(self, self.api()))

    def cli(self, *args, code=0):
        got, text = servers.run(self.node, self.node, *args, '-f', 'json')
        self.assertEqual(code, got, text)
        return json.loads(text)

    def trace(self, source, destination, *args, code=0):
        """Pods by their letters."""
        found = self.cli('policy', 'trace', '--from', self.named(source),
                         '--to', self.named(destination), *args, code=code)
        if not code:
            self.assertEqual('', found['not_asked'])
            self.assertEqual([], found['faults'])
        return found

    def named(self, end):
        return '%s/%s' % (self.node.namespace, end) if end in 'ab' else end

    def assertDecided(self, verdict, rule, tier, side):
        """All three say the same of every address."""
        self.assertNotEqual([], side['checks'])
        for check in side['checks']:
            for name in ('loaded', 'compiled', 'oracle'):
                self.assertEqual(
                    (verdict, [rule] if rule else [], tier),
                    tuple(check[name][key] for key in (
                        'verdict', 'rules', 'tier')), (name, check))

    def rule(self, name, rule, kind='NetworkPolicy'):
        return '%s/%s/%s %s' % (kind, self.node.namespace, name, rule)


class TestTrace(TraceCase):

    def test_network_policy(self):
        found = self.trace('a', 'b', '--port', '80')
        self.assertEqual('allow', found['verdict'])
        self.node.policy(resources.NETWORK_POLICIES, 'only-a', {
            'podSelector': {'matchLabels': {'app': 'b'}},
            'ingress': [{'from': [{'podSelector': {
                'matchLabels': {'app': 'a'}}}],
                'ports': [{'port': 80, 'endPort': 89}]}]})
        found = self.trace('a', 'b', '--port', '85')
        self.assertEqual('allow', found['verdict'])
        self.assertDecided('allow', self.rule('only-a', 'ingress[0]'),
                           'network_policy', found['ingress'])
        found = self.trace('a', 'b', '--port', '90')
        self.assertEqual('deny', found['verdict'])
        self.assertDecided('drop', '', '', found['ingress'])
        self.assertEqual(['NetworkPolicy/%s/only-a' % self.node.namespace],
                         found['ingress']['checks'][0]['isolated_by'])
        self.assertDecided('drop', '', '', self.trace(
            '198.51.100.7', 'b', '--port', '80')['ingress'])
        listed, = self.cli('policy', 'list', '--namespace',
                           self.node.namespace)
        self.assertEqual(('applied', 1), (listed['state'],
                                          listed['endpoints']))
        shown = self.cli('policy', 'show', 'NetworkPolicy/%s/only-a' %
                         self.node.namespace)
        self.assertEqual([self.named('b')], shown['ingress'])
        entries, = shown['rulesets']
        self.assertEqual(1, entries['groups'])
        self.assertLess(0, entries['peer_rows'])
        shown = self.cli('endpoint', 'show', self.named('b'))
        self.assertEqual(entries['port_prefixes'],
                         shown['ingress']['entries']['port_prefixes'])
        self.assertEqual(0, shown['connections'])

    def test_blocks(self):
        self.node.policy(resources.NETWORK_POLICIES, 'block', {
            'podSelector': {'matchLabels': {'app': 'a'}},
            'policyTypes': ['Egress'],
            'egress': [{'to': [{'ipBlock': {
                'cidr': '10.50.0.0/16', 'except': [
                    '10.50.0.192/26', '10.50.0.12/32']}}]}]})
        rule = self.rule('block', 'egress[0]')
        found = self.trace('a', '10.50.0.77', '--port', '1')
        self.assertDecided('allow', rule, 'network_policy',
                           found['egress'])
        self.assertEqual('10.50.0.0/16', found['egress']['checks'][0][
            'details']['prefix'])
        for address in (self.node.address('b'), '10.50.0.200', '192.0.2.77'):
            found = self.trace('a', address, '--protocol', 'icmp')
            self.assertDecided('drop', '', '', found['egress'])

    def test_named_port(self):
        self.node.policy(resources.NETWORK_POLICIES, 'named', {
            'podSelector': {'matchLabels': {'app': 'a'}},
            'policyTypes': ['Egress'],
            'egress': [{'to': [{'podSelector': {}}],
                        'ports': [{'port': 'web'}]}]})
        self.assertDecided(
            'allow', self.rule('named', 'egress[0]'), 'network_policy',
            self.trace('a', 'b', '--port', '8002')['egress'])
        for args in (('8001',), ('8002', '--protocol', 'udp')):
            self.assertDecided('drop', '', '', self.trace(
                'a', 'b', '--port', *args)['egress'])

    def test_nodes(self):
        self.node.policy(resources.NETWORK_POLICIES, 'closed', {
            'podSelector': {}, 'policyTypes': ['Ingress', 'Egress']})
        found = self.trace('node/' + self.node.host, 'b', '--port', '80')
        self.assertEqual('allow', found['verdict'])
        found = self.trace('b', 'node/' + self.node.host, '--port', '80')
        self.assertEqual('deny', found['verdict'])
        self.assertEqual('host', found['egress']['checks'][0]['details'][
            'entity'])

    def test_damage_is_found(self):
        self.node.policy(resources.NETWORK_POLICIES, 'only-a', {
            'podSelector': {'matchLabels': {'app': 'b'}},
            'ingress': [{'from': [{'podSelector': {
                'matchLabels': {'app': 'a'}}}]}]})
        maps = self.node.driver._maps
        key, = [key for key in maps.keys(rows.ADDR)
                if key.address == self.node.address('a')]
        world = entities.Entity.WORLD
        maps.write([rows.Write(rows.ADDR, key, rows.AddrRow(world, world))])
        found = self.trace('a', 'b', '--port', '80', code=2)
        self.assertEqual('mixed', found['verdict'])
        text, = found['faults']
        self.assertIn('from ' + self.node.address('a'), text)
        self.assertIn('entries in the maps', text)
        self.assertIn('world', found['ingress']['checks'][0]['details'][
            'entity'])

    def test_a_node_that_is_behind(self):
        self.node.load = lambda: None
        self.node.policy(resources.NETWORK_POLICIES, 'late', {
            'podSelector': {}})
        found = self.trace('a', 'b', '--port', '80', code=2)
        self.assertEqual('allow', found['verdict'])
        self.assertIn('not what the controller compiles',
                      found['faults'][0])
        self.assertEqual('waiting', self.cli(
            'policy', 'list', '--namespace', self.node.namespace)[0][
                'state'])


class TestServices(TraceCase):

    VIP = ('172.30.0.1', 'fd30::1')

    def serve(self, *names):
        backends = tuple(lb.Backend(self.node.address(name, version), 8080)
                         for name in names for version in (4, 6))
        self.node.serve(lb.Service(
            self.node.namespace, 'web', '', self.VIP,
            ports=(lb.Port('', 6, 80, 30080, backends),)))

    def ask(self, destination, *args):
        found = self.cli('policy', 'trace', '--from', self.named('a'), '--to',
                         destination, *args)
        self.assertEqual([], found['faults'])
        return found['verdict'], [
            (backend['address'], backend['port'], backend['to']['name'],
             backend['verdict']) for backend in found['backends']]

    def test_by_name_and_address(self):
        self.serve('b', 'a')
        self.node.policy(resources.NETWORK_POLICIES, 'closed', {
            'podSelector': {'matchLabels': {'app': 'b'}}})
        v4, v6 = ([(self.node.address(name, version), 8080, self.named(name),
                    verdict) for name, verdict in (('a', 'allow'),
                                                   ('b', 'deny'))]
                  for version in (4, 6))
        name = 'service/%s/web' % self.node.namespace
        self.assertEqual(('mixed', v4 + v6), self.ask(name))
        self.assertEqual(('mixed', v4), self.ask(self.VIP[0] + ':80'))
        self.assertEqual(('mixed', v6), self.ask(self.VIP[1], '--port', '80'))
        self.assertEqual(('mixed', v4 + v6), self.ask(
            'node/' + self.node.host, '--port', '30080'))
        # A port that the service has not, and a backend by itself.
        self.assertEqual(('refused', []), self.ask(name, '--port', '81'))
        self.assertEqual('deny', self.trace('a', 'b', '--port', '8080')[
            'verdict'])

    def test_nobody_serves(self):
        self.serve()
        self.assertEqual(('refused', []), self.ask(self.VIP[0] + ':80'))
        self.node.serve()
        self.assertEqual('allow', self.trace('a', self.VIP[0] + ':80')[
            'verdict'])


class TestCustomKinds(TraceCase):

    api = staticmethod(with_crds)

    def setUp(self):
        super().setUp()
        self.kinds = {resource.kind: resource
                      for resource in cluster.POLICIES}
        self.here = {'matchLabels': {
            'kubernetes.io/metadata.name': self.node.namespace}}

    def test_admin_tier(self):
        self.node.policy(resources.NETWORK_POLICIES, 'open', {
            'podSelector': {}, 'ingress': [{}]})
        name = 'strict-' + self.node.namespace
        self.node.policy(self.kinds['ClusterNetworkPolicy'], name, {
            'tier': 'Admin', 'priority': 10,
            'subject': {'namespaces': self.here},
            'ingress': [
                {'name': 'but-nodes', 'action': 'Accept', 'from': [
                    {'namespaces': {'matchLabels': {'no': 'such'}}}]},
                {'name': 'not-a', 'action': 'Deny', 'from': [{'pods': {
                    'namespaceSelector': self.here,
                    'podSelector': {'matchLabels': {'app': 'a'}}}}]}]})
        found = self.trace('a', 'b', '--port', '80')
        self.assertEqual('deny', found['verdict'])
        self.assertDecided(
            'deny', 'ClusterNetworkPolicy/%s ingress[1]' % name, 'admin',
            found['ingress'])
        self.assertDecided(
            'allow', self.rule('open', 'ingress[0]'), 'network_policy',
            self.trace('198.51.100.7', 'b', '--port', '80')['ingress'])
        shown = self.cli('policy', 'show', 'ClusterNetworkPolicy/' + name)
        self.assertEqual([self.named('a'), self.named('b')],
                         shown['ingress'])

    def test_cilium_deny(self):
        self.node.policy(self.kinds['CiliumNetworkPolicy'], 'cilium', {
            'endpointSelector': {'matchLabels': {'app': 'b'}},
            'ingress': [{'fromEntities': ['all']}],
            'ingressDeny': [{
                'fromEndpoints': [{'matchLabels': {'app': 'a'}}],
                'toPorts': [{'ports': [
                    {'port': '80', 'protocol': 'TCP'}]}]}]})
        found = self.trace('a', 'b', '--port', '80')
        self.assertDecided(
            'deny', self.rule('cilium', 'ingressDeny[0]',
                              'CiliumNetworkPolicy'),
            'network_policy', found['ingress'])
        self.assertDecided(
            'allow', self.rule('cilium', 'ingress[0]',
                               'CiliumNetworkPolicy'),
            'network_policy', self.trace('a', 'b', '--port', '81')[
                'ingress'])

    def test_refused(self):
        self.node.policy(self.kinds['CiliumNetworkPolicy'], 'names', {
            'endpointSelector': {},
            'egress': [{'toFQDNs': [{'matchName': 'example.org'}]}]})
        found = self.trace('a', 'b', '--port', '80')
        self.assertEqual('deny', found['verdict'])
        self.assertEqual(
            ['CiliumNetworkPolicy/%s/names' % self.node.namespace],
            found['egress']['checks'][0]['isolated_by'])
        shown = self.cli('policy', 'show', 'CiliumNetworkPolicy/%s/names' %
                         self.node.namespace)
        self.assertEqual('isolates', shown['state'])
        self.assertIn('toFQDNs', shown['why'])
