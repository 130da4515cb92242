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

"""The manifests are what the API server takes, and what they forbid."""

from kuryr_cilium import vif
from tests.e2e import base
from tests.e2e import lab
from tests.e2e import pods


class ManifestsTestCase(base.TestCase):

    def test_all_are_valid(self):
        answer = self.lab.kubectl('apply', '--dry-run=server', '-k',
                                  str(lab.ROOT / 'deploy' / 'base'))
        kinds = {line.split('/')[0].split('.')[0]
                 for line in answer.splitlines()}
        self.assertEqual(
            {'serviceaccount', 'role', 'rolebinding', 'clusterrole',
             'clusterrolebinding', 'configmap', 'deployment', 'daemonset',
             'validatingadmissionpolicy', 'validatingadmissionpolicybinding'},
            kinds)

    def test_kinds_of_policy_are_valid(self):
        answer = self.lab.kubectl('apply', '--dry-run=server', '-k',
                                  str(lab.ROOT / 'deploy' / 'crds'))
        self.assertEqual(
            {'clusternetworkpolicies.policy.networking.k8s.io',
             'ciliumnetworkpolicies.cilium.io',
             'ciliumclusterwidenetworkpolicies.cilium.io'},
            {line.split()[0].partition('/')[2]
             for line in answer.splitlines()})

    def test_only_the_controller_writes_vifs(self):
        self.pods(pods.manifest('pod'))
        for change in ('%s=other' % vif.ANNOTATION, vif.ANNOTATION + '-'):
            error = self.assertRaises(
                lab.LabError, self.lab.kubectl, 'annotate', '--overwrite',
                '-n', self.namespace, 'pod', 'pod', change)
            self.assertIn('only kuryr-cilium-controller may write it',
                          str(error))
