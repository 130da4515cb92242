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

from kuryr_cilium.k8s import resources
from kuryr_cilium.policy import model
from tests import base
from tests.functional.controller import fixtures

#: Seconds within which things happen that take moments.
SOON = 60


class ControllerTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fixtures.Cluster(self))

    def endpoint(self, uid, **expected):
        """A condition on views: an endpoint with fields as expected."""
        def condition(view):
            found = view.changed.get('endpoint:' + uid)
            return found is not None and all(
                getattr(found, name) == value
                for name, value in expected.items())
        return condition


class TestPods(ControllerTestCase):

    def setUp(self):
        super().setUp()
        self.controller = self.cluster.controller()
        self.controller.wait_ready()

    def test_way_of_a_pod(self):
        agent = self.cluster.agent('node-a')
        uid = self.cluster.create_pod('web', app='web')
        facts, = self.cluster.wait_facts('web')
        self.assertEqual({facts.vif_id}, self.cluster.ports())
        port = self.cluster.neutron.call(
            'GET', 'ports/' + facts.vif_id)['port']
        self.assertEqual((uid, 'node-a', self.cluster.namespace + '/web'),
                         (port['device_id'], port['binding:host_id'],
                          port['name']))
        self.assertEqual({ip['ip_address'] for ip in port['fixed_ips']},
                         set(facts.addresses))
        view = agent.wait_view(
            self.endpoint(uid, vif_id=facts.vif_id, fastpath=False),
            'the endpoint')
        endpoint = view.changed['endpoint:' + uid]
        self.assertEqual((facts.addresses, model.ALLOW_ALL, model.ALLOW_ALL),
                         (endpoint.addresses, endpoint.ingress,
                          endpoint.egress))
        self.assertEqual(1, view.epoch)
        # The agent was told.
        self.assertEventually(
            lambda: 'endpoint:' + uid in agent.hints, SOON)
        # Other nodes have nothing of it.
        other = self.cluster.agent('node-b').wait_view(
            lambda view: True, 'a view')
        self.assertNotIn('endpoint:' + uid, other.changed)

        agent.report(plugged=[facts.vif_id])
        self.cluster.delete_pod('web')
        self.assertEventually(
            lambda: agent.hints['endpoint:' + uid] is None, SOON)
        agent.wait_view(lambda view: not view.changed, 'an empty view')
        self.assertEqual({facts.vif_id}, self.cluster.ports())
        agent.report(released=[{'vif_id': facts.vif_id, 'pod_uid': uid}])
        self.assertEventually(lambda: not self.cluster.ports(), SOON)

    def test_pods_without_ports(self):
        self.cluster.create_pod('host', host_network=True)
        uid = self.cluster.create_pod('ends')
        facts, = self.cluster.wait_facts('ends')
        agent = self.cluster.agent('node-a')
        agent.report(plugged=[facts.vif_id])
        agent.report(released=[{'vif_id': facts.vif_id, 'pod_uid': uid}])
        # It may be a new sandbox: the pod has not ended.
        self.assertEqual({facts.vif_id}, self.cluster.ports())
        self.cluster.set_phase('ends', 'Succeeded')
        self.assertEventually(lambda: not self.cluster.ports(), SOON)
        agent.wait_view(lambda view: not view.changed, 'an empty view')
        self.assertIsNone(self.cluster.facts('host'))

    def test_policy_changes(self):
        agent = self.cluster.agent('node-a')
        uid = self.cluster.create_pod('server', app='server')
        client = self.cluster.create_pod('client', node='node-b',
                                         app='client')
        server_facts, client_facts = self.cluster.wait_facts(
            'server', 'client')
        agent.wait_view(self.endpoint(uid, ingress=model.ALLOW_ALL),
                        'the endpoint')
        path = resources.NETWORK_POLICIES.path(self.cluster.namespace)
        self.cluster.api.create(path, {
            'metadata': {'name': 'only-clients'},
            'spec': {'podSelector': {'matchLabels': {'app': 'server'}},
                     'ingress': [{'from': [{'podSelector': {
                         'matchLabels': {'app': 'client'}}}],
                         'ports': [{'port': 80}]}]}})
        self.assertEventually(lambda: any(
            key.startswith('ruleset:') for key in agent.hints), SOON)
        view = agent.sync()
        endpoint = view.changed['endpoint:' + uid]
        ruleset = view.changed['ruleset:' + endpoint.ingress]
        peer, = ruleset.groups[0].peers
        self.assertEqual(
            (model.Member(client, tuple(sorted(client_facts.addresses))),),
            view.changed['selector:' + peer].members)
        # A label makes another one a peer; only that selector is sent.
        other = self.cluster.create_pod('other', node='node-b')
        self.cluster.wait_facts('other')
        agent.wait_view(lambda view: True, 'a view')
        agent.hints.clear()
        self.cluster.api.merge_patch(
            self.cluster.pod_path('other'),
            {'metadata': {'labels': {'app': 'client'}}})
        self.assertEventually(
            lambda: 'selector:' + peer in agent.hints, SOON)
        delta = agent.sync(view.digests)
        self.assertEqual(['selector:' + peer], list(delta.changed))
        self.assertEqual({client, other}, {
            member.uid
            for member in delta.changed['selector:' + peer].members})
        self.assertEqual(frozenset(), delta.removed)

    def test_port_that_can_not_be_bound(self):
        host = 'node-' + self.cluster.name
        self.cluster.create_pod('lost', node=host)
        messages = self.assertEventually(
            lambda: self.cluster.events('FailedCreatePort'), SOON)
        self.assertIn(host, messages[0])
        self.assertIsNone(self.cluster.facts('lost'))
        self.cluster.neutron.add_chassis(host)
        self.cluster.wait_facts('lost')
        self.assertEqual(1, len(self.cluster.ports()))

    def test_node_that_is_gone(self):
        self.cluster.create_pod('a', node='node-b')
        self.cluster.wait_facts('a')
        self.cluster.delete_pod('a')
        self.cluster.api.delete(resources.NODES.path(name='node-b'))
        self.assertEventually(lambda: not self.cluster.ports(), SOON)

    def test_same_name_again(self):
        first = self.cluster.create_pod('a')
        before, = self.cluster.wait_facts('a')
        self.cluster.delete_pod('a')
        second = self.cluster.create_pod('a')
        after, = self.cluster.wait_facts('a')
        self.assertNotEqual(before.vif_id, after.vif_id)
        self.assertNotEqual(set(before.addresses), set(after.addresses))
        agent = self.cluster.agent('node-a')
        agent.report(plugged=[before.vif_id, after.vif_id])
        agent.report(released=[{'vif_id': before.vif_id,
                                'pod_uid': first}])
        self.assertEventually(
            lambda: self.cluster.ports() == {after.vif_id}, SOON)
        agent.wait_view(self.endpoint(second, vif_id=after.vif_id),
                        'the new pod')


class TestRestarts(ControllerTestCase):

    def test_port_made_and_not_annotated(self):
        uid = self.cluster.create_pod('a')
        network = self.cluster.network['id']
        made = self.cluster.neutron.create(
            'port', network_id=network, device_id=uid,
            device_owner='compute:kuryr', name='x',
            description='kuryr-cilium:cluster=' + self.cluster.name)
        self.cluster.controller()
        facts, = self.cluster.wait_facts('a')
        self.assertEqual(made['id'], facts.vif_id)
        self.assertEqual({made['id']}, self.cluster.ports())

    def test_new_leader_keeps_ports_until_the_agent_has_spoken(self):
        controller = self.cluster.controller()
        uid = self.cluster.create_pod('a')
        self.cluster.create_pod('b')
        a, b = self.cluster.wait_facts('a', 'b')
        controller.kill()
        self.cluster.delete_pod('a')
        controller.start()
        controller.wait_ready()
        agent = self.cluster.agent('node-a')
        # What is said of a port that the leader has not listed yet is lost.
        self.assertEventually(lambda: controller.metric(
            'kuryr_cilium_controller_ports{state="releasing"}') == 1, SOON)
        agent.report(released=[{'vif_id': a.vif_id, 'pod_uid': uid}])
        self.assertEqual({a.vif_id, b.vif_id}, self.cluster.ports())
        agent.report(plugged=[b.vif_id])
        self.assertEventually(
            lambda: self.cluster.ports() == {b.vif_id}, SOON)

    def test_agent_that_never_reports_a_release(self):
        self.cluster.controller()
        agent = self.cluster.agent('node-a')
        self.cluster.create_pod('a')
        self.cluster.wait_facts('a')
        self.cluster.delete_pod('a')
        agent.report(plugged=[])
        # That list may have been made before the pod was plugged.
        self.assertEqual(1, len(self.cluster.ports()))

        def freed():
            agent.report(plugged=[])
            return not self.cluster.ports()
        self.assertEventually(freed, SOON)

    def test_port_of_no_pod(self):
        made = self.cluster.neutron.create(
            'port', network_id=self.cluster.network['id'],
            device_id='gone', device_owner='compute:kuryr', name='x',
            description='kuryr-cilium:cluster=' + self.cluster.name)
        foreign = self.cluster.neutron.create(
            'port', network_id=self.cluster.network['id'],
            device_id='gone', device_owner='compute:kuryr', name='y',
            description='kuryr-cilium:cluster=another')
        # It is bound to no node that exists.
        self.cluster.controller()
        self.assertEventually(
            lambda: self.cluster.ports() == {foreign['id']}, SOON,
            lambda: made)

    def test_two_replicas(self):
        first = self.cluster.controller('first')
        first.wait_ready()
        self.cluster.create_pod('a')
        self.cluster.wait_facts('a')
        second = self.cluster.controller('second')
        second.wait_ready()
        self.assertEqual(0, second.metric('kuryr_cilium_leader'))
        self.assertEqual(0, first.terminate())
        self.cluster.create_pod('b')
        self.cluster.wait_facts('b')
        self.assertEqual(1, second.metric('kuryr_cilium_leader'))
        agent = self.cluster.agent('node-a')
        view = agent.wait_view(lambda view: view.changed, 'a view')
        self.assertEqual(2, view.epoch)

    def test_neutron_away(self):
        controller = self.cluster.controller()
        controller.wait_ready()
        agent = self.cluster.agent('node-a')
        self.cluster.neutron.stop_server()
        try:
            self.cluster.create_pod('a')
            self.assertEventually(
                lambda: self.cluster.events('FailedCreatePort'), SOON)
            self.assertEventually(
                lambda: 'neutron: ' in controller.get('/readyz')[1], SOON)
            self.assertEqual(200, controller.get('/healthz')[0])
            # Policy goes on.
            self.assertIsNotNone(agent.sync())
        finally:
            self.cluster.neutron.start_server()
        self.cluster.wait_facts('a')
        controller.wait_ready()

    def test_api_server_away(self):
        controller = self.cluster.controller()
        agent = self.cluster.agent('node-a')
        uid = self.cluster.create_pod('a')
        self.cluster.wait_facts('a')
        agent.wait_view(self.endpoint(uid), 'the endpoint')
        self.cluster.kube.stop_server()
        try:
            # A replica that is cut off takes nothing back.
            self.assertEventually(lambda: agent.sync() is None, SOON)
            self.assertEventually(
                lambda: 'pods: ' in controller.get('/readyz')[1], SOON)
            self.assertEqual(200, controller.get('/healthz')[0])
        finally:
            self.cluster.kube.start_server()
        self.cluster.create_pod('b')
        self.cluster.wait_facts('b')
        view = agent.wait_view(self.endpoint(uid), 'the endpoint')
        self.assertEqual(2, len(view.changed))

    def test_rabbitmq_away(self):
        self.cluster.rabbit.stop()
        controller = self.cluster.controller()
        # Ports are made all the same.
        self.cluster.create_pod('a')
        self.cluster.wait_facts('a')
        self.assertIn('rabbitmq: ', controller.get('/readyz')[1])
        self.assertEqual(200, controller.get('/healthz')[0])
        self.cluster.rabbit.start()
        controller.wait_ready()
        self.cluster.agent('node-a').wait_view(lambda view: view.changed,
                                               'a view')
        self.assertEqual(0, controller.terminate())
