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

import prometheus_client

from kuryr_cilium.controller import hints
from kuryr_cilium.controller import nodes
from kuryr_cilium.controller import pods
from kuryr_cilium.controller import problems
from kuryr_cilium.controller import views
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import model
from kuryr_cilium.policy import world
from kuryr_cilium import vif
from tests import base
from tests.unit.policy import builders


class TestNodeTable(base.TestCase):

    def setUp(self):
        super().setUp()
        self.now = 0.0
        self.table = nodes.NodeTable(lambda: self.now)

    def set(self, status):
        conditions = [{'type': 'Other', 'status': 'False'}]
        if status is not None:
            conditions.append({'type': 'Ready', 'status': status})
        self.table.update(reflector.MODIFIED, {
            'metadata': {'name': 'n'}, 'status': {'conditions': conditions}})

    def test_dead_node_is_not_worth_a_message(self):
        self.assertFalse(self.table.listens('n'))
        self.set('True')
        self.now += 2 * nodes.DEAD_AFTER
        self.assertTrue(self.table.listens('n'))
        for status in ('Unknown', 'False', None):
            self.set(status)
            self.now += nodes.DEAD_AFTER / 4
            self.assertTrue(self.table.listens('n'))
        self.now += nodes.DEAD_AFTER / 4
        self.assertFalse(self.table.listens('n'))
        self.assertTrue(self.table.exists('n'))
        self.set('True')
        self.assertTrue(self.table.listens('n'))
        self.table.update(reflector.DELETED, {'metadata': {'name': 'n'}})
        self.assertFalse(self.table.listens('n'))
        self.assertFalse(self.table.exists('n'))


class TestPodTable(base.TestCase):

    def pod(self, annotation=None, **fields):
        obj = {'metadata': {'uid': 'u', 'namespace': 'ns', 'name': 'p'},
               'spec': {'nodeName': 'h'}, 'status': {'phase': 'Pending'}}
        for name, value in fields.items():
            section, _, key = name.partition('_')
            obj[section][key] = value
        if annotation is not None:
            obj['metadata']['annotations'] = {vif.ANNOTATION: annotation}
        return pods.read(obj)

    def test_needs_port(self):
        self.assertTrue(self.pod().needs_port)
        self.assertTrue(self.pod(status_phase='Running').needs_port)
        for fields in ({'spec_nodeName': ''}, {'spec_hostNetwork': True},
                       {'status_phase': 'Failed'},
                       {'status_phase': 'Succeeded'},
                       {'metadata_deletionTimestamp': 'now'},
                       {'annotation': 'somebody else\'s'}):
            self.assertFalse(self.pod(**fields).needs_port, fields)

    def test_annotation(self):
        self.assertIsNone(self.pod('not ours').vif_id)
        self.assertTrue(self.pod('not ours').keeps_port)
        self.assertFalse(self.pod(spec_hostNetwork=True).keeps_port)
        self.assertFalse(self.pod(status_phase='Failed').keeps_port)

    def test_only_what_matters_is_a_change(self):
        table = pods.PodTable()
        obj = {'metadata': {'uid': 'u', 'namespace': 'ns', 'name': 'p'},
               'spec': {}, 'status': {}}
        self.assertEqual('u', table.update(reflector.ADDED, obj))
        obj['status']['podIP'] = '192.0.2.1'
        self.assertIsNone(table.update(reflector.MODIFIED, obj))
        obj['spec']['nodeName'] = 'h'
        self.assertEqual('u', table.update(reflector.MODIFIED, obj))
        self.assertEqual('h', table.get('u').host)
        gone = {'metadata': {'uid': 'u', 'name': 'p', 'namespace': 'ns'}}
        self.assertEqual('u', table.update(reflector.DELETED, gone))
        self.assertIsNone(table.update(reflector.DELETED, gone))
        self.assertEqual([], table.all())


class TestViews(base.TestCase):

    def setUp(self):
        super().setUp()
        self.changes = []
        self.epoch = 1
        self.current = True
        self.views = views.Views(self.changes.append, lambda: self.epoch,
                                 lambda: self.current)
        self.views.namespace(reflector.ADDED, builders.namespace('ns'))
        self.views.pod(reflector.ADDED, builders.pod(
            'a', namespace='ns', number=1))

    def test_view_of_what_is_not_known_is_empty(self):
        epoch, synced, view = self.views.view('node-a')
        self.assertEqual((1, True, ['endpoint:ns/a']),
                         (epoch, synced, list(view)))
        self.current = False
        self.assertEqual((1, False, {}), self.views.view('node-a'))
        self.current, self.epoch = True, 0
        self.assertEqual((0, False, {}), self.views.view('node-a'))

    def endpoint(self):
        return self.views.peek('node-a')['endpoint:ns/a']

    def test_only_changes_are_told(self):
        self.assertEqual([{'ns/a': 'node-a'}],
                         [change.endpoints for change in self.changes])
        self.views.pod(reflector.MODIFIED, builders.pod(
            'a', namespace='ns', number=1))
        self.views.node(reflector.ADDED, builders.node('node-a'))
        self.assertEqual(1, len(self.changes))
        self.views.set_fastpath({self.endpoint().vif_id})
        self.assertTrue(self.endpoint().fastpath)
        self.views.pod(reflector.DELETED, {'metadata': {'uid': 'ns/a'}})
        self.assertEqual(3, len(self.changes))
        self.assertEqual({}, self.views.peek('node-a'))
        self.views.namespace(reflector.DELETED, builders.namespace('ns'))
        self.views.node(reflector.DELETED, builders.node('node-a'))

    def fail(self, kind):
        """Let the parser of a kind have a fault."""
        def fail(obj, options):
            raise RuntimeError('a fault')

        self.patch(kinds, 'PARSERS', {**kinds.PARSERS, kind: fail})

    def groups(self, direction='ingress', name='a', namespace='ns'):
        view = self.views.peek('node-a')
        endpoint = view['endpoint:%s/%s' % (namespace, name)]
        return [(group.tier, group.verdict.value, group.peers, group.ports)
                for group in view[
                    'ruleset:' + getattr(endpoint, direction)].groups]

    def test_policy_that_can_not_be_handled_isolates_its_namespace(self):
        self.fail('NetworkPolicy')
        self.fail('CiliumNetworkPolicy')
        policy = builders.policy('p', {'podSelector': {'matchLabels': {
            'not': 'this'}}, 'ingress': [{}]}, namespace='ns')
        handle = self.views.policy('NetworkPolicy')
        self.assertRaises(RuntimeError, handle, reflector.ADDED, policy)
        for direction in ('ingress', 'egress'):
            self.assertEqual([], self.groups(direction))
        self.assertEqual(['policy/ns/p'], list(self.views.problems()))
        handle(reflector.DELETED, policy)
        self.assertEqual(model.ALLOW_ALL, self.endpoint().ingress)
        # Of a kind that may deny what others allow.
        handle = self.views.policy('CiliumNetworkPolicy')
        self.assertRaises(RuntimeError, handle, reflector.ADDED, policy)
        for direction in ('ingress', 'egress'):
            self.assertEqual([(1, 'deny', None, None)],
                             self.groups(direction))

    def test_cluster_wide_one_spares_exempt_namespaces(self):
        self.fail('Wide')
        self.views.pod(reflector.ADDED, builders.pod(
            'dns', namespace='kube-system', number=2))
        policy = {'metadata': {'uid': 'w', 'name': 'w'}}
        handle = self.views.policy('Wide')
        self.assertRaises(RuntimeError, handle, reflector.ADDED, policy)
        self.assertEqual([(0, 'deny', None, None)], self.groups())
        self.assertEqual(model.ALLOW_ALL, self.views.peek('node-a')[
            'endpoint:kube-system/dns'].ingress)

    def test_metrics(self):
        self.views.policy('NetworkPolicy')(reflector.ADDED, builders.policy(
            'p', {'podSelector': {}, 'ingress': [{'unknown': 1}]},
            namespace='ns'))
        for name in ('policies', 'policies_with_problems'):
            self.assertEqual(1, prometheus_client.REGISTRY.get_sample_value(
                'kuryr_cilium_' + name, {'kind': 'NetworkPolicy'}))
        self.assertLess(0, prometheus_client.REGISTRY.get_sample_value(
            'kuryr_cilium_policy_change_seconds_count',
            {'change': 'set_policy'}))

    def test_problems_of_policies_and_pods(self):
        self.views.policy('NetworkPolicy')(reflector.ADDED, builders.policy(
            'p', {'podSelector': {}, 'ingress': [{'unknown': 1}]},
            namespace='ns'))
        broken = builders.pod('b', namespace='ns', number=2)
        broken['metadata']['annotations'][vif.ANNOTATION] = 'no'
        self.views.pod(reflector.ADDED, broken)
        self.assertEqual({'policy/ns/p', 'ns/b'}, set(self.views.problems()))


class TestHints(base.TestCase):
    """Hints of a world of two nodes."""

    def setUp(self):
        super().setUp()
        self.endpoint = model.Endpoint(
            '1', 'ns', 'p', 'a', 'vif', 'mac', 'network', ())
        pieces = {'endpoint:1': self.endpoint, 'ruleset:r': 'R',
                  'selector:s': 'S', 'members:t/1': 'T1'}
        self.dead = set()
        self.hints = hints.Hints(
            None, lambda keys: {key: pieces.get(key) for key in keys},
            lambda host, name: (host, name) == ('a', 'r'),
            lambda key, obj: 'digest of %s' % (
                'E1' if obj is self.endpoint else obj),
            lambda host: host not in self.dead)

    def messages(self, **changes):
        return self.hints.messages([world.Changes(**changes)])

    def test_endpoints_go_to_their_node(self):
        self.assertEqual(
            {'a': {'endpoint:1': 'digest of E1', 'endpoint:2': None}},
            self.messages(endpoints={'1': 'a', '2': 'a'},
                          hosts=frozenset('a')))

    def test_an_endpoint_has_left_a_node(self):
        self.assertEqual(
            {'b': {'endpoint:1': None}},
            self.messages(endpoints={'1': 'b'}, hosts=frozenset('ab')))

    def test_rulesets_go_to_the_nodes_that_have_them(self):
        self.assertEqual(
            {'a': {'ruleset:r': 'digest of R'}},
            self.messages(rulesets=frozenset({'r', 'gone'}),
                          hosts=frozenset('ab')))

    def test_selectors_go_to_all(self):
        self.assertEqual(
            {None: {'selector:s': 'digest of S', 'members:t/1':
                    'digest of T1', 'members:t/2': None}},
            self.messages(selectors=frozenset('st'), hosts=frozenset('ab'),
                          pieces=frozenset({'selector:s', 'members:t/1',
                                            'members:t/2'})))

    def test_dead_node_gets_none(self):
        self.dead.add('a')
        self.assertEqual({}, self.messages(endpoints={'1': 'a'},
                                           hosts=frozenset('a')))

    def test_changes_are_sent_together(self):
        sent = []
        self.hints._send = lambda *message: sent.append(message)
        self.hints.start()
        self.addCleanup(self.hints.stop)
        for uid in '12':
            self.hints.add(world.Changes(endpoints={uid: 'a'},
                                         hosts=frozenset('a')))
        self.assertEventually(lambda: sent)
        self.assertEqual([('a', {'endpoint:1': 'digest of E1',
                                 'endpoint:2': None})], sent)
        self.hints.stop()
        self.assertFalse(self.hints.alive())

    def test_failure_stops_nothing(self):
        calls = []

        def send(host, objects):
            calls.append(host)
            raise ValueError('a fault')

        self.hints._send = send
        self.hints.start()
        self.addCleanup(self.hints.stop)
        for number in (1, 2):
            self.hints.add(world.Changes(endpoints={'1': 'a'},
                                         hosts=frozenset('a')))
            self.assertEventually(lambda: len(calls) == number)
        self.assertTrue(self.hints.alive())


class TestProblems(base.TestCase):

    def setUp(self):
        super().setUp()
        self.found = {}
        self.events = []
        self.problems = problems.Problems(
            lambda: self.found, lambda *event: self.events.append(event))
        self.obj = {'metadata': {'uid': 'p', 'name': 'n',
                                 'namespace': 'ns'}}
        self.handle = self.problems.handler(resources.NETWORK_POLICIES)

    def test_once_per_change(self):
        self.found['p'] = ['spec.x: no']
        self.problems.review()
        self.assertEqual([], self.events)
        self.handle(reflector.ADDED, self.obj)
        for _number in range(2):
            self.problems.review()
        (reference, kind, reason, message), = self.events
        self.assertEqual(('NetworkPolicy', 'ns', 'n'), (
            reference['kind'], reference['namespace'], reference['name']))
        self.assertEqual(('Warning', 'PolicyIsolates'), (kind, reason))
        self.assertIn('spec.x: no', message)
        self.found['p'] = ['spec.y: no']
        self.problems.review()
        self.assertEqual(2, len(self.events))
        self.found.clear()
        self.problems.review()
        self.found['p'] = ['spec.y: no']
        self.problems.review()
        self.assertEqual(3, len(self.events))
        self.problems.forget()
        self.problems.review()
        self.assertEqual(4, len(self.events))
        self.handle(reflector.DELETED, self.obj)
        self.problems.forget()
        self.problems.review()
        self.assertEqual(4, len(self.events))

    def test_pod(self):
        self.problems.handler(resources.PODS)(reflector.ADDED, self.obj)
        self.found['p'] = ['not JSON']
        self.problems.review()
        self.assertEqual('InvalidVIF', self.events[0][2])

    def test_service(self):
        self.problems.handler(resources.SERVICES)(reflector.ADDED, self.obj)
        self.found['p'] = ['spec.ports: port 80 is SCTP']
        self.problems.review()
        self.assertEqual('PortNotServed', self.events[0][2])
        self.assertIn('port 80 is SCTP', self.events[0][3])
