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

from kuryr_cilium.controller import conditions
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources
from tests import base

CNP = resources.CILIUM_NETWORK_POLICIES
WIDE = resources.CLUSTER_NETWORK_POLICIES
NOW = '2025-01-01T00:00:00Z'


class Client:

    def __init__(self):
        self.patches = []
        self.error = None

    def clone(self):
        return self

    def close(self):
        self.patches = None

    def merge_patch(self, path, body):
        self.patches.append((path, body))
        if self.error is not None:
            raise self.error


class TestConditions(base.TestCase):

    def setUp(self):
        super().setUp()
        self.client = Client()
        self.problems = {}
        self.leads = True
        self.conditions = conditions.Conditions(
            self.client, lambda: self.problems, lambda: self.leads)

    def see(self, resource, *found, version='1', generation=3):
        metadata = {'uid': 'u', 'name': 'p', 'resourceVersion': version,
                    'generation': generation}
        if resource.namespaced:
            metadata['namespace'] = 'ns'
        self.conditions.handler(resource)(reflector.MODIFIED, {
            'metadata': metadata, 'status': {'conditions': list(found)}})

    def written(self):
        (path, body), = self.client.patches
        self.assertEqual({'uid': 'u', 'resourceVersion': '1'},
                         body['metadata'])
        return path, body['status']['conditions']

    def test_a_policy_that_is_enforced(self):
        self.see(CNP)
        self.conditions.review()
        path, (found,) = self.written()
        self.assertEqual('/apis/cilium.io/v2/namespaces/ns/'
                         'ciliumnetworkpolicies/p/status', path)
        self.assertEqual(('Valid', 'True'), (found['type'], found['status']))
        self.assertNotIn('observedGeneration', found)
        # It is not written again when the watch brings it.
        self.see(CNP, found, version='2')
        self.conditions.review()
        self.assertEqual(1, len(self.client.patches))

    def test_a_policy_with_problems(self):
        self.problems['u'] = ['spec.x: no', 'y' * 9000]
        self.see(WIDE)
        self.conditions.review()
        path, (found,) = self.written()
        self.assertEqual('/apis/policy.networking.k8s.io/v1beta1/'
                         'clusternetworkpolicies/p/status', path)
        self.assertEqual(('False', 3), (found['status'],
                                        found['observedGeneration']))
        self.assertIn('spec.x: no', found['message'])
        self.assertEqual(4096, len(found['message']))

    def test_conditions_of_others_stay_and_time_is_of_the_status(self):
        other = {'type': 'Other', 'status': 'False'}
        wanted = conditions.wanted(conditions.FORMS[CNP.kind], [], 1)
        older = {**wanted, 'message': 'other', 'lastTransitionTime': NOW}
        found = conditions.merged((older, other), wanted, 'later')
        self.assertEqual([other, {**wanted, 'lastTransitionTime': NOW}],
                         found)
        found = conditions.merged(({**older, 'status': 'False'},), wanted,
                                  'later')
        self.assertEqual('later', found[0]['lastTransitionTime'])
        self.assertIsNone(conditions.merged(
            ({**wanted, 'lastTransitionTime': NOW},), wanted, 'later'))

    def test_only_the_leader_writes(self):
        self.leads = False
        self.see(CNP)
        self.conditions.review()
        self.assertEqual([], self.client.patches)

    def test_one_that_is_gone_is_not_written(self):
        self.see(CNP)
        self.conditions.handler(CNP)(reflector.DELETED, {
            'metadata': {'uid': 'u', 'name': 'p'}})
        self.conditions.review()
        self.assertEqual([], self.client.patches)

    def refuse(self, error):
        self.client.error = error(method='', path='', status='', reason='')

    def test_what_is_refused_is_tried_again_on_a_newer_object_only(self):
        self.refuse(exceptions.KubernetesForbidden)
        for version, patches in (('1', 1), ('1', 1), ('2', 2)):
            self.see(CNP, version=version)
            self.conditions.review()
            self.assertEqual(patches, len(self.client.patches))

    def test_a_conflict_waits_for_the_watch(self):
        self.refuse(exceptions.KubernetesConflict)
        self.see(CNP)
        self.conditions.review()
        self.assertEqual(1, len(self.client.patches))

    def test_a_server_that_is_away_is_asked_again(self):
        self.refuse(exceptions.KubernetesUnavailable)
        self.conditions.start()
        self.addCleanup(self.conditions.stop)
        self.see(CNP)
        self.assertEventually(lambda: len(self.client.patches) == 1)
        self.client.error = None
        self.assertEventually(lambda: len(self.client.patches) == 2)
        self.assertTrue(self.conditions.alive())
