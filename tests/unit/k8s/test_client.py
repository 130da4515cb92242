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

import json

from hypothesis import given
from hypothesis import strategies as st

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff
from kuryr_cilium.k8s import client
from kuryr_cilium.k8s import resources
from tests import base


class TestLines(base.TestCase):

    @given(st.lists(st.text(alphabet='ab{', min_size=1)),
           st.lists(st.integers(0, 40)))
    def test_any_cuts(self, lines, cuts):
        data = ''.join(line + '\n' for line in lines).encode()
        places = sorted({min(cut, len(data)) for cut in cuts}
                        | {0, len(data)})
        chunks = [data[first:last] for first, last in
                  zip(places, places[1:])]
        self.assertEqual([line.encode() for line in lines],
                         list(client._lines(chunks)))

    def test_unfinished_line_is_no_event(self):
        self.assertEqual([b'a'], list(client._lines([b'a\n', b'{"x"'])))


class TestErrors(base.TestCase):

    def refusal(self, status, body):
        return client._refusal('GET', '/x', status, body)

    def test_status(self):
        error = self.refusal(429, json.dumps({
            'message': 'too many', 'details': {
                'retryAfterSeconds': 3}}).encode())
        self.assertIsInstance(error, exceptions.KubernetesBusy)
        self.assertEqual(3, error.kwargs['retry_after'])
        self.assertEqual('Kubernetes: GET /x: 429 too many', str(error))

    def test_what_is_no_status(self):
        for body in (b'', b'<html>100%</html>', b'[]', b'\xff',
                     b'{"details": 1}'):
            error = self.refusal(502, body)
            self.assertIsInstance(error, exceptions.KubernetesUnavailable)
        self.assertIs(exceptions.KubernetesError,
                      type(self.refusal(418, b'')))


class TestResources(base.TestCase):

    def test_paths(self):
        self.assertEqual('/api/v1/pods', resources.PODS.path())
        self.assertEqual('/api/v1/namespaces/ns/pods/p/status',
                         resources.PODS.path('ns', 'p', 'status'))
        self.assertEqual('/api/v1/namespaces/ns',
                         resources.NAMESPACES.path(name='ns'))
        self.assertEqual(
            '/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies',
            resources.NETWORK_POLICIES.path('ns'))
        self.assertEqual('/api/v1/namespaces/a%2Fb/pods/..%2Fc',
                         resources.PODS.path('a/b', '../c'))


class TestBackoff(base.TestCase):

    def test_grows_to_the_longest(self):
        delays = backoff.Backoff(1, 10)
        for whole in (1, 2, 4, 8, 10, 10):
            self.assertTrue(whole / 2 <= delays.next() <= whole)
        delays.reset()
        self.assertLessEqual(delays.next(), 1)
        for _number in range(2000):
            self.assertLessEqual(delays.next(), 10)
