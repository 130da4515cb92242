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

from kuryr_cilium.k8s import events
from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures


class TestRecorder(base.TestCase):

    def setUp(self):
        super().setUp()
        self.kube = fixtures.shared()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self)
        self.recorder = events.Recorder(self.kube.client(), 'tests', 'here')
        self.recorder.start()
        self.addCleanup(self.recorder.stop)
        self.pod = events.reference(resources.PODS, self.api.create(
            resources.PODS.path(self.namespace), fixtures.pod('a')))

    def events(self):
        return self.api.get(resources.EVENTS.path(self.namespace))['items']

    def record(self, message):
        self.recorder.event(self.pod, events.WARNING, 'Failed', message)

    def test_event(self):
        self.record('no port')
        event, = self.assertEventually(self.events)
        self.assertEqual(self.pod, {
            key: event['involvedObject'][key] for key in self.pod})
        self.assertEqual(('Warning', 'Failed', 'no port', 1), (
            event['type'], event['reason'], event['message'],
            event['count']))
        self.assertEqual({'component': 'tests', 'host': 'here'},
                         event['source'])

    def test_repetition_is_counted(self):
        for _number in range(3):
            self.record('again')
        self.assertEventually(
            lambda: [event['count'] for event in self.events()] == [3])
        # The server forgets events after an hour.
        self.api.delete(resources.EVENTS.path(
            self.namespace, self.events()[0]['metadata']['name']))
        self.record('again')
        self.assertEventually(
            lambda: [event['count'] for event in self.events()] == [1])

    def test_one_object_can_not_flood_the_server(self):
        for number in range(events.BURST + 10):
            self.record('message %d' % number)
        other = dict(self.pod, name='other', uid='another')
        self.recorder.event(other, events.NORMAL, 'Fine', 'x' * 5000)
        self.assertEventually(lambda: any(
            event['reason'] == 'Fine' for event in self.events()))
        self.assertEqual(events.BURST + 1, len(self.events()))

    def test_server_away(self):
        self.kube.stop_server()
        try:
            self.record('meanwhile')
        finally:
            self.kube.start_server()
        self.assertEventually(self.events, 30)

    def test_refusal_is_dropped(self):
        self.recorder.event(dict(self.pod, namespace='not-there'),
                            events.WARNING, 'Failed', 'nowhere')
        self.record('next')
        self.assertEventually(self.events)
        self.assertTrue(self.recorder.alive())
