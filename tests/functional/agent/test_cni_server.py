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

"""The CNI server on its socket, with the real store and the real messages.

What plugs is a fake that keeps records as the real one does; that one is
tested with Open vSwitch in test_plug.
"""

import json
import pathlib
import socket
import stat
import threading
import time

import fixtures

from kuryr_cilium.agent import cni_server
from kuryr_cilium.agent import plug
from kuryr_cilium.agent import pod
from kuryr_cilium.agent import pods
from kuryr_cilium.agent import store
from kuryr_cilium.agent import sync
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access
from kuryr_cilium.k8s import client
from kuryr_cilium.k8s import reflector
from kuryr_cilium import vif as kc_vif
from tests import base
from tests.unit.agent import samples
from tests.unit.agent import test_cni_message
from tests.unit.binding import vifs

OTHER_VIF = '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'
OTHER_UID = '0b5ad0a4-0000-4000-8000-000000000002'


class Plugger:
    """Keeps the records of what it is asked for."""

    def __init__(self, records, views):
        self.records = records
        self.views = views
        self.error = None
        self.adds = []
        self.hold = threading.Event()
        self.hold.set()
        self.inside = 0

    def add(self, request: plug.Request, deadline):
        self.records.put(request.record(store.PLUGGING))
        self.adds.append(request)
        self.inside += 1
        try:
            self.views.wait_endpoint(request.uid, request.vif.id, deadline)
            self.hold.wait(deadline - time.monotonic())
        finally:
            self.inside -= 1
        if self.error is not None:
            raise self.error
        self.records.put(request.record(store.READY))
        return pod.layout(request.vif, request.ifname, 'kc0', 1442)

    def delete(self, container_id, ifname):
        if self.error is not None:
            raise self.error
        record = self.records.find(container_id, ifname)
        if record is not None:
            self.records.delete(record)
        return record

    def check(self, container_id, ifname):
        if self.error is not None:
            raise self.error


class TestServer(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.sync.ASK_AGAIN', 0.05))
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.store = store.Store(self.path / 'endpoints')
        self.controller = samples.Controller(
            samples.endpoint(), samples.endpoint(OTHER_UID, OTHER_VIF))
        self.views = sync.Views(
            'node-1', self.controller, samples.Datapath(),
            viewfile.ViewFile(self.path / 'view.json'))
        self.addCleanup(self.views.stop)
        self.views.start()
        self.pods = pods.Pods(client.Client(access.Access(
            'https://192.0.2.1:6443')), 'node-1')
        self.plugger = Plugger(self.store, self.views)
        self.released = []
        self.unavailable = None
        self.socket = self.path / 'run' / 'cni.sock'
        self.server = self.serve()

    def serve(self, **kwargs):
        server = cni_server.CNIServer(
            str(self.socket), self.plugger, self.pods, self.views,
            self.store, self.released.append, self.status, **kwargs)
        server.start()
        self.addCleanup(server.stop)
        return server

    def status(self):
        if self.unavailable:
            raise exceptions.PluginNotAvailable(reason=self.unavailable)

    def annotate(self, name='web', uid=samples.UID, vif_id=samples.VIF):
        self.pods.handle(reflector.ADDED, {'metadata': {
            'uid': uid, 'namespace': 'default', 'name': name,
            'annotations': {kc_vif.ANNOTATION: kc_vif.dumps(
                vifs.make(vif_id))}}})

    def forget(self, endpoint):
        """Take an endpoint out of the view."""
        self.controller.remove(endpoint)
        self.views.pull_soon()
        base.wait_until(
            lambda: self.views.current is not None and
            endpoint.uid not in self.views.current.endpoints)

    def ask(self, command, container='c1', config=None, name='web',
            uid=samples.UID, timeout=20, **environment):
        """(exit code, answer or None) of a request."""
        variables = {
            'CNI_COMMAND': command, 'CNI_CONTAINERID': container,
            'CNI_IFNAME': 'eth0', 'CNI_NETNS': '/run/netns/x',
            'CNI_ARGS': f'K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};'
                        f'K8S_POD_UID={uid}', **environment}
        message = test_cni_message.message(
            variables, {**test_cni_message.CONFIG, **(config or {})})
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.socket))
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            data = b''
            while chunk := connection.recv(65536):
                data += chunk
        code, _, body = data.partition(b'\n')
        return int(code), json.loads(body) if body else None

    def ask_aside(self, *args, **kwargs):
        """The thread of a request, and the list its answer comes into."""
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(self.ask(*args, **kwargs)))
        thread.start()
        return thread, answers

    def assertFails(self, code, text, answer):
        self.assertEqual(1, answer[0])
        self.assertEqual(code, answer[1]['code'], answer)
        self.assertIn(text, answer[1]['msg'])

    def test_only_root_connects(self):
        self.assertEqual(0o600, stat.S_IMODE(self.socket.stat().st_mode))
        self.assertEqual(0o700,
                         stat.S_IMODE(self.socket.parent.stat().st_mode))

    def test_add_and_del(self):
        self.annotate()
        code, result = self.ask('ADD')
        self.assertEqual((0, '1.1.0'), (code, result['cniVersion']))
        self.assertEqual(['10.99.3.7/16', 'fd99::3:7/64'],
                         [ip['address'] for ip in result['ips']])
        record = self.store.find('c1', 'eth0')
        self.assertEqual(
            ('ready', samples.UID, 'default/web', samples.VIF),
            (record.state, record.uid, record.pod, record.vif_id))
        self.assertEqual((0, None), self.ask('CHECK'))
        self.assertEqual((0, None), self.ask('DEL'))
        self.assertEqual([record], self.released)
        self.assertEqual((0, None), self.ask('DEL'))
        self.assertEqual([record], self.released)

    def test_versions(self):
        self.annotate()
        for version in ('0.4.0', '1.0.0', '1.1.0'):
            code, result = self.ask('ADD', config={'cniVersion': version})
            self.assertEqual((0, version), (code, result['cniVersion']))
        code, answer = self.ask('VERSION')
        self.assertEqual((0, 3), (code, len(answer['supportedVersions'])))
        self.assertFails(1, '0.3.0', self.ask(
            'ADD', config={'cniVersion': '0.3.0'}))

    def test_a_static_pod(self):
        self.pods.handle(reflector.ADDED, {'metadata': {
            'uid': samples.UID, 'namespace': 'default', 'name': 'web',
            'annotations': {
                'kubernetes.io/config.hash': 'f00',
                kc_vif.ANNOTATION: kc_vif.dumps(vifs.make(samples.VIF))}}})
        self.assertEqual(0, self.ask('ADD', uid='f00')[0])
        self.assertEqual(samples.UID, self.store.find('c1', 'eth0').uid)
        self.assertEqual(0, self.ask('DEL', uid='f00')[0])
        self.assertEqual(1, len(self.released))

    def test_what_an_add_waited_for(self):
        short = {'timeout': 1}
        self.assertFails(11, 'not among the pods', self.ask(
            'ADD', config=short))
        self.annotate('other', OTHER_UID, OTHER_VIF)
        self.forget(samples.endpoint(OTHER_UID, OTHER_VIF))
        answer = self.ask('ADD', name='other', uid=OTHER_UID, config=short)
        self.assertFails(11, 'has no endpoint of pod', answer)
        self.assertEqual('ADD of default/other', answer[1]['details'])

    def test_an_error_keeps_its_code(self):
        self.annotate()
        self.plugger.error = exceptions.VIFNotWired(
            vif='v', tap='tap', process='ovn-controller', state='no',
            log='log')
        self.assertFails(11, 'ovn-controller', self.ask('ADD'))
        self.plugger.error = exceptions.VIFNotSupported(vif='v', reason='r')
        self.assertFails(102, 'cannot be bound', self.ask('ADD'))
        self.plugger.error = ZeroDivisionError('a fault')
        self.assertFails(100, 'ZeroDivisionError', self.ask('ADD'))
        self.plugger.error = None
        self.assertEqual(0, self.ask('ADD')[0])

    def test_a_del_that_fails_can_be_repeated(self):
        self.annotate()
        self.ask('ADD')
        self.plugger.error = exceptions.SwitchUnavailable(
            reason='r', connection='c')
        self.assertFails(11, 'Open vSwitch', self.ask('DEL'))
        self.assertEqual([], self.released)
        self.plugger.error = None
        self.assertEqual(0, self.ask('DEL')[0])
        self.assertEqual(1, len(self.released))

    def test_what_cannot_be_read(self):
        self.assertFails(4, 'CNI_IFNAME', self.ask('ADD', CNI_IFNAME='a/b'))
        self.assertFails(4, 'eth0', self.ask('ADD', CNI_IFNAME='net1'))
        self.pods.handle(reflector.ADDED, {'metadata': {
            'uid': samples.UID, 'namespace': 'default', 'name': 'web',
            'annotations': {kc_vif.ANNOTATION: 'garbage'}}})
        self.assertFails(101, 'annotation', self.ask('ADD'))
        self.assertIsNone(self.store.find('c1', 'eth0'))

    def test_a_del_does_not_wait_for_an_add(self):
        thread, answers = self.ask_aside('ADD')
        base.wait_until(lambda: ('c1', 'eth0') in self.server.busy())
        started = time.monotonic()
        self.assertEqual((0, None), self.ask('DEL'))
        thread.join(10)
        self.assertLess(time.monotonic() - started, 5)
        self.assertFails(11, 'given up', answers[0])

    def test_a_del_ends_the_wait_for_an_endpoint(self):
        self.forget(samples.endpoint())
        self.annotate()
        thread, answers = self.ask_aside('ADD')
        base.wait_until(lambda: self.plugger.inside)
        self.assertEqual((0, None), self.ask('DEL'))
        thread.join(10)
        self.assertFails(11, 'given up', answers[0])
        self.assertEqual(samples.VIF, self.released[0].vif_id)
        self.controller.put(samples.endpoint())
        self.assertEqual(0, self.ask('ADD', 'c2')[0])

    def test_one_container_serial_pods_parallel(self):
        self.annotate()
        self.annotate('other', OTHER_UID, OTHER_VIF)
        self.plugger.hold.clear()
        first, one = self.ask_aside('ADD')
        base.wait_until(lambda: self.plugger.inside == 1)
        second, two = self.ask_aside('ADD')
        third, three = self.ask_aside('ADD', 'c9', name='other',
                                      uid=OTHER_UID)
        base.wait_until(lambda: self.plugger.inside == 2)
        self.assertEqual(['c1', 'c9'], [
            request.container_id for request in self.plugger.adds])
        self.plugger.hold.set()
        for thread in (first, second, third):
            thread.join(10)
        self.assertEqual([0, 0, 0], [a[0][0] for a in (one, two, three)])
        self.assertEqual(set(), self.server.busy())

    def test_more_adds_than_may_be_wait(self):
        self.server.stop()
        self.server = self.serve(max_adds=1)
        self.annotate()
        self.annotate('other', OTHER_UID, OTHER_VIF)
        self.plugger.hold.clear()
        thread, answers = self.ask_aside('ADD')
        base.wait_until(lambda: self.plugger.inside == 1)
        self.assertFails(11, 'max_adds', self.ask(
            'ADD', 'c9', name='other', uid=OTHER_UID, config={'timeout': 1}))
        self.assertEqual(0, self.ask('DEL', 'c9')[0])
        self.plugger.hold.set()
        thread.join(10)
        self.assertEqual(0, answers[0][0])

    def test_status(self):
        self.assertEqual((0, None), self.ask('STATUS'))
        self.unavailable = 'no switch'
        self.assertFails(50, 'no switch', self.ask('STATUS'))

    def test_check(self):
        self.assertFails(3, 'c1', self.ask('CHECK'))
        self.annotate()
        self.ask('ADD')
        self.plugger.error = exceptions.PodNetworkBroken(
            pod='default/web', problem='link kc is down')
        self.assertFails(103, 'link kc is down', self.ask('CHECK'))

    def test_gc(self):
        self.annotate()
        self.annotate('other', OTHER_UID, OTHER_VIF)
        self.ask('ADD')
        self.ask('ADD', 'c9', name='other', uid=OTHER_UID)
        self.assertFails(7, 'valid-attachments', self.ask('GC'))
        self.assertEqual((0, None), self.ask('GC', config={
            'cni.dev/valid-attachments': [
                {'containerID': 'c9', 'ifname': 'eth0'}]}))
        self.assertEqual(['c9'], [r.container_id for r in self.store.list()])
        self.assertEqual(['c1'], [r.container_id for r in self.released])

    def test_a_client_that_leaves_or_talks_nonsense(self):
        for data in (b'', b'nonsense', b'A=B\0\0'):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self.socket))
                connection.sendall(data)
        self.assertEqual((0, None), self.ask('STATUS'))

    def test_stop_gives_up_what_waits_and_start_takes_the_path_over(self):
        thread, answers = self.ask_aside('ADD')
        base.wait_until(lambda: self.server.busy())
        self.server.stop()
        thread.join(10)
        self.assertFails(11, 'given up', answers[0])
        self.assertFalse(self.socket.exists())
        self.socket.write_text('left behind')
        self.server = self.serve()
        self.assertEqual((0, None), self.ask('STATUS'))
