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

import threading
import time

import fixtures as fixture

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access
from kuryr_cilium.k8s import client
from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures


class TestClient(base.TestCase):

    def setUp(self):
        super().setUp()
        self.kube = fixtures.shared()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self)

    def path(self, name=None):
        return resources.PODS.path(self.namespace, name)

    def test_patch_changes_only_the_pod_of_the_uid(self):
        uid = self.api.create(self.path(), fixtures.pod('a'))['metadata'][
            'uid']
        change = {'metadata': {'uid': uid, 'annotations': {'x': 'y'}}}
        answer = self.api.merge_patch(self.path('a'), change)
        self.assertEqual({'x': 'y'}, answer['metadata']['annotations'])
        self.api.delete(self.path('a'), {'gracePeriodSeconds': 0})
        self.assertRaises(exceptions.KubernetesNotFound,
                          self.api.merge_patch, self.path('a'), change)
        self.api.create(self.path(), fixtures.pod('a'))
        self.assertRaises(exceptions.KubernetesInvalid,
                          self.api.merge_patch, self.path('a'), change)
        self.assertNotIn('annotations',
                         self.api.get(self.path('a'))['metadata'])

    def test_put_needs_the_version_that_was_read(self):
        path = resources.NAMESPACES.path(name=self.namespace)
        read = self.api.get(path)
        read['metadata']['labels']['x'] = 'y'
        self.api.put(path, read)
        self.assertRaises(exceptions.KubernetesConflict, self.api.put, path,
                          read)

    def test_pages(self):
        for number in range(7):
            self.api.create(self.path(), fixtures.pod('p%d' % number))
        pages = list(self.kube.client(page_size=3).pages(self.path()))
        self.assertEqual([3, 3, 1], [len(page['items']) for page in pages])
        self.assertEqual(1, len({page['metadata']['resourceVersion']
                                 for page in pages}))
        self.assertEqual([7], [len(page['items']) for page in
                               self.api.pages(self.path(), limit=0)])

    def test_refusals_say_what_to_do(self):
        nobody = self.kube.client('nobody-token')
        error = self.assertRaises(exceptions.KubernetesForbidden,
                                  nobody.get, self.path('a'))
        self.assertIn('nobody', str(error))
        self.assertIn('rbac.yaml', str(error))
        error = self.assertRaises(exceptions.KubernetesUnauthorized,
                                  self.kube.client('x').get, self.path('a'))
        self.assertIn('token_file', str(error))

    def test_kubeconfig(self):
        api = client.Client(access.from_kubeconfig(self.kube.kubeconfig))
        self.addCleanup(api.close)
        self.assertEqual('default', api.get(resources.NAMESPACES.path(
            name='default'))['metadata']['name'])

    def test_unknown_authority_is_refused(self):
        api = client.Client(access.Access(server=self.kube.url, token='x'))
        self.addCleanup(api.close)
        error = self.assertRaises(exceptions.KubernetesUnavailable, api.get,
                                  self.path())
        self.assertIn('CERTIFICATE_VERIFY_FAILED', str(error))

    def test_proxies_of_the_environment_are_not_used(self):
        self.useFixture(fixture.EnvironmentVariable(
            'HTTPS_PROXY', 'http://127.0.0.1:1'))
        self.api.get(self.path())

    def test_watch_is_closed_from_another_thread(self):
        version = next(self.api.pages(self.path()))['metadata'][
            'resourceVersion']
        watch = self.api.watch(self.path(), {'resourceVersion': version}, 60)
        seen = []
        accepted = threading.Event()

        def follow():
            for change, obj in watch:
                accepted.set()
                seen.append((change, obj and obj['metadata']['name']))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        self.assertTrue(accepted.wait(10))
        self.api.create(self.path(), fixtures.pod('a'))
        self.assertEventually(lambda: ('ADDED', 'a') in seen)
        began = time.monotonic()
        watch.close()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertLess(time.monotonic() - began, 1)

    def test_close_cuts_a_request_that_hangs(self):
        self.api.get(self.path())
        errors = []

        def ask():
            try:
                self.api.get(self.path(), timeout=60)
            except exceptions.KubernetesUnavailable as error:
                errors.append(error)

        self.kube.freeze_server()
        self.addCleanup(self.kube.thaw_server)
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        # It may not have sent its request yet: both ways it ends at once.
        self.api.close()
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertEqual(1, len(errors))
