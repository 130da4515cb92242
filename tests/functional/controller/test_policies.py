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

"""Policies of the kinds that a cluster may have or not."""

from kuryr_cilium.k8s import resources
from kuryr_cilium.policy import model
from tests import base
from tests.functional.controller import fixtures

#: Seconds within which a definition is found, and things happen.
SOON = 60
CNP = resources.CILIUM_NETWORK_POLICIES
CCNP = resources.CILIUM_CLUSTERWIDE_NETWORK_POLICIES
WIDE = resources.CLUSTER_NETWORK_POLICIES


class TestPolicies(base.TestCase):

    def setUp(self):
        super().setUp()
        self.cluster = self.useFixture(fixtures.Cluster(self))
        self.namespace = self.cluster.namespace
        self.controller = self.cluster.controller()
        # Without a definition nothing waits for it.
        self.controller.wait_ready()
        self.agent = self.cluster.agent('node-a')
        self.uid = self.cluster.create_pod('web', app='web')
        self.cluster.wait_facts('web')
        self.wait_ingress(lambda found: found == model.ALLOW_ALL)

    def wait_ingress(self, condition):
        """Wait for a view in which the pod's ruleset is as expected."""
        key = 'endpoint:' + self.uid
        return self.agent.wait_view(
            lambda view: key in view.changed and condition(
                view.changed[key].ingress), 'the ruleset')

    def create(self, resource, name, spec):
        namespace = self.namespace if resource.namespaced else None
        self.cluster.api.create(resource.path(namespace), {
            'apiVersion': resource.api_version, 'kind': resource.kind,
            'metadata': {'name': name}, 'spec': spec})
        self.addCleanup(self.cluster.kube.undefine, resource)

    def condition(self, resource, name, kind):
        """A condition of a policy, {} if it has none."""
        namespace = self.namespace if resource.namespaced else None
        status = self.cluster.api.get(
            resource.path(namespace, name)).get('status') or {}
        return next((item for item in status.get('conditions') or ()
                     if item['type'] == kind), {})

    def wait_condition(self, resource, name, kind, status):
        return base.wait_until(
            lambda: (found := self.condition(resource, name, kind)).get(
                'status') == status and found, SOON,
            lambda: str(self.condition(resource, name, kind)))

    def test_a_definition_comes_and_goes(self):
        self.cluster.kube.define(self, CNP)
        self.create(CNP, 'good', {
            'endpointSelector': {'matchLabels': {'app': 'web'}},
            'ingress': [{'fromEntities': ['cluster']}]})
        view = self.wait_ingress(lambda found: found != model.ALLOW_ALL)
        ruleset = view.changed[
            'ruleset:' + view.changed['endpoint:' + self.uid].ingress]
        self.assertEqual(
            ((CNP.kind + '/' + self.namespace + '/good ingress[0]',),),
            ruleset.names[:1])
        self.assertIn('selector:entity:cluster', view.changed)
        found = self.wait_condition(CNP, 'good', 'Valid', 'True')
        version = self.cluster.api.get(CNP.path(
            self.namespace, 'good'))['metadata']['resourceVersion']
        self.create(CNP, 'bad', {
            'endpointSelector': {'matchLabels': {'app': 'web'}},
            'ingress': [{'nonsense': True}]})
        found = self.wait_condition(CNP, 'bad', 'Valid', 'False')
        self.assertIn('spec.ingress[0]', found['message'])
        message, = self.assertEventually(
            lambda: self.cluster.events('PolicyIsolates'), SOON)
        self.assertIn('spec.ingress[0]', message)
        # What is as it should be is left alone.
        self.assertEqual(version, self.cluster.api.get(CNP.path(
            self.namespace, 'good'))['metadata']['resourceVersion'])
        self.assertIn('kuryr_cilium_policies_with_problems{'
                      'kind="CiliumNetworkPolicy"} 1.0',
                      self.controller.get('/metrics')[1])
        self.cluster.kube.undefine(CNP)
        self.wait_ingress(lambda found: found == model.ALLOW_ALL)
        self.assertEqual(200, self.controller.get('/readyz')[0])

    def test_conditions_of_others_stay(self):
        self.cluster.kube.define(self, WIDE)
        self.create(WIDE, 'wide', {
            'tier': 'Admin', 'priority': 1,
            'subject': {'namespaces': {'matchLabels': {
                'kubernetes.io/metadata.name': self.namespace}}},
            'ingress': [{'action': 'Deny', 'from': [{'namespaces': {}}]}]})
        kind = 'kuryr-cilium.openstack.org/Accepted'
        found = self.wait_condition(WIDE, 'wide', kind, 'True')
        self.assertEqual(1, found['observedGeneration'])
        self.wait_ingress(lambda found: found != model.ALLOW_ALL)
        other = {'type': 'Other', 'status': 'True', 'reason': 'R',
                 'message': '', 'lastTransitionTime': '2025-01-01T00:00:00Z'}
        self.cluster.api.merge_patch(
            WIDE.path(name='wide', subresource='status'),
            {'status': {'conditions': [other]}})
        self.wait_condition(WIDE, 'wide', kind, 'True')
        self.assertEqual(other, self.condition(WIDE, 'wide', 'Other'))
        self.cluster.api.merge_patch(
            WIDE.path(name='wide'), {'spec': {'ingress': [
                {'action': 'Deny', 'from': [{'unheard': {}}]}]}})
        found = self.wait_condition(WIDE, 'wide', kind, 'False')
        self.assertEqual(2, found['observedGeneration'])
        self.assertEqual(other, self.condition(WIDE, 'wide', 'Other'))

    def test_services(self):
        self.cluster.kube.define(self, CNP)
        services = resources.SERVICES.path(self.namespace)
        slices = resources.ENDPOINT_SLICES.path(self.namespace)
        self.cluster.api.create(services, {
            'metadata': {'name': 'db'}, 'spec': {'ports': [{'port': 80}]}})
        self.cluster.api.create(slices, {
            'metadata': {'name': 'db-1', 'labels': {
                'kubernetes.io/service-name': 'db'}},
            'addressType': 'IPv4',
            'endpoints': [{'addresses': ['203.0.113.7']}], 'ports': []})
        for path in (services + '/db', slices + '/db-1'):
            self.addCleanup(self.cluster.api.delete, path)
        self.create(CNP, 'to-db', {
            'endpointSelector': {'matchLabels': {'app': 'web'}},
            'egress': [{'toServices': [{'k8sService': {
                'serviceName': 'db', 'namespace': self.namespace}}]}]})

        def backends(view):
            return [member.addresses for key, obj in view.changed.items()
                    if key.startswith('selector:') for member in obj.members]
        self.agent.wait_view(
            lambda view: backends(view) == [('203.0.113.7',)], 'the backend')
