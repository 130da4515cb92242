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

from kuryr_cilium.agent import pods
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access
from kuryr_cilium.k8s import client
from kuryr_cilium.k8s import reflector
from tests import base

ANNOTATION = 'openstack.org/kuryr-vif'


def pod(uid='u1', name='web', annotations=None):
    meta = {'uid': uid, 'namespace': 'default', 'name': name}
    if annotations is not None:
        meta['annotations'] = annotations
    return {'metadata': meta, 'spec': {}, 'status': {}}


class TestPods(base.TestCase):

    def setUp(self):
        super().setUp()
        # NOTE: nothing is started, so nothing is connected to.
        self.pods = pods.Pods(client.Client(access.Access(
            'https://192.0.2.1:6443')), 'node-1')
        self.cancelled = threading.Event()

    def wait(self, uid='u1', seconds=0.05):
        return self.pods.wait_annotation(
            'default', 'web', uid, time.monotonic() + seconds,
            self.cancelled)

    def assertMissing(self, *texts, **kwargs):
        error = self.assertRaises(exceptions.AnnotationMissing, self.wait,
                                  **kwargs)
        self.assertEqual(11, error.code)
        for text in texts:
            self.assertIn(text, str(error))

    def test_an_annotation_that_is_there(self):
        self.pods.handle(reflector.ADDED, pod(annotations={
            ANNOTATION: 'vif', 'other': 'x'}))
        self.assertEqual(pods.Pod('u1', 'default', 'web', '', 'vif'),
                         self.wait())
        self.assertEqual('u1', self.wait(uid='').uid)

    def test_an_annotation_that_comes(self):
        self.pods.handle(reflector.ADDED, pod())
        found = []
        waiter = threading.Thread(
            target=lambda: found.append(self.wait(seconds=5)))
        waiter.start()
        self.pods.handle(reflector.MODIFIED,
                         pod(annotations={ANNOTATION: 'vif'}))
        waiter.join(5)
        self.assertEqual('vif', found[0].annotation)

    def test_a_static_pod_is_known_by_its_hash(self):
        self.pods.handle(reflector.ADDED, pod(annotations={
            ANNOTATION: 'vif', 'kubernetes.io/config.hash': 'f00'}))
        self.assertEqual('u1', self.wait(uid='f00').uid)

    def test_what_is_missing(self):
        self.assertMissing('not among the pods of node node-1',
                           'API server', 'not connected')
        self.pods.handle(reflector.ADDED, pod(annotations={}))
        self.assertMissing('No annotation openstack.org/kuryr-vif on pod '
                           'default/web after 0 s',
                           'kuryr-cilium-controller', 'kubectl describe pod')
        self.assertMissing('has UID u1', 'u2', uid='u2')

    def test_a_deleted_pod_is_forgotten(self):
        self.pods.handle(reflector.ADDED,
                         pod(annotations={ANNOTATION: 'vif'}))
        self.pods.handle(reflector.DELETED, {'metadata': {
            'uid': 'u1', 'name': 'web', 'namespace': 'default'}})
        self.assertMissing('not among')

    def test_the_next_pod_of_the_same_name(self):
        self.pods.handle(reflector.ADDED,
                         pod(annotations={ANNOTATION: 'old'}))
        self.pods.handle(reflector.ADDED,
                         pod('u2', annotations={ANNOTATION: 'new'}))
        self.assertEqual('new', self.wait(uid='u2').annotation)
        self.assertEqual('old', self.wait(uid='u1').annotation)

    def test_giving_up(self):
        raised = []

        def wait():
            try:
                self.wait(seconds=30)
            except exceptions.Abandoned as error:
                raised.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.cancelled.set()
        self.pods.wake()
        waiter.join(5)
        self.assertEqual(1, len(raised))
