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

"""What every test on the lab shares."""

from concurrent import futures
import json
import uuid

from testtools import content

from kuryr_cilium import exceptions
from kuryr_cilium import vif
from tests import base
from tests.e2e import lab as e2e_lab
from tests.e2e import pods

wait_until = base.wait_until

#: Port on which servers of the tests listen.
PORT = 8080


class TestCase(base.TestCase):
    """A namespace of the test's own, and what is done in it."""

    def setUp(self):
        super().setUp()
        self.lab = e2e_lab.Lab()
        self.lab.check()
        for node in self.lab.nodes:
            self.lab.wait_agent(node)
        self.node, self.other_node = self.lab.nodes[:2]
        self.namespace = self.new_namespace()
        self.addOnException(self._tell)

    def new_namespace(self, labels=None):
        name = 'e2e-' + uuid.uuid4().hex[:6]
        self.lab.apply({'apiVersion': 'v1', 'kind': 'Namespace',
                        'metadata': {'name': name, 'labels': labels or {}}})
        self.addCleanup(self._delete_namespace, name)
        return name

    def create(self, *objects, namespace=None):
        """Create objects in the test's namespace."""
        for obj in objects:
            obj['metadata']['namespace'] = namespace or self.namespace
        self.lab.apply(*objects)

    def pods(self, *manifests, namespace=None, timeout=60):
        """Create pods and wait until they are ready."""
        namespace = namespace or self.namespace
        self.create(*manifests, namespace=namespace)
        names = [item['metadata']['name'] for item in manifests]
        self.wait_ready(*names, namespace=namespace, timeout=timeout)
        return [self.pod(name, namespace) for name in names]

    def wait_ready(self, *names, namespace=None, timeout=60):
        self.lab.kubectl(
            'wait', '-n', namespace or self.namespace,
            '--for=condition=Ready', '--timeout=%ds' % timeout,
            *['pod/' + name for name in names], timeout=timeout + 30)

    def pod(self, name, namespace=None):
        """A pod that is there."""
        return pods.Pod(self.lab, self.get_pod(name, namespace))

    def get_pod(self, name, namespace=None):
        return self.lab.get('pod', '-n', namespace or self.namespace, name)

    def annotated(self, name):
        """Whether a pod has its VIF."""
        annotations = self.get_pod(name)['metadata'].get('annotations', {})
        return vif.ANNOTATION in annotations

    def is_ready(self, name):
        """Whether a pod is ready now."""
        return any(item['type'] == 'Ready' and item['status'] == 'True'
                   for item in self.get_pod(name)['status'].get(
                       'conditions', ()))

    def delete(self, kind, *names, force=False):
        """Delete objects of the test's namespace and wait for it."""
        options = ('--force', '--grace-period=0') if force else ()
        self.lab.kubectl('delete', kind, '-n', self.namespace, *names,
                         '--ignore-not-found', *options)

    def echo(self, pod, port=PORT):
        """A server in a pod."""
        server = pods.Echo(pod, port)
        self.addCleanup(server.stop)
        return server

    def assertReaches(self, client, server, port=PORT, protocols=('tcp',
                                                                  'udp')):
        """Within seconds the client reaches the server in every way."""
        self._ask_until(client, server, port, protocols, 'answer', 1.0)

    def assertBlocked(self, client, server, port=PORT, protocols=('tcp',
                                                                  'udp')):
        """Within seconds the client reaches the server in no way."""
        for _time in range(2):
            self._ask_until(client, server, port, protocols, None, 0.5)

    def _ask_until(self, client, server, port, protocols, wanted, timeout):
        ways = [(address, protocol) for address in server.addresses
                if address for protocol in protocols]

        def as_wanted():
            self.answers = dict(zip(ways, pool.map(
                lambda way: pods.ask(client, way[0], port, way[1], timeout),
                ways)))
            return set(self.answers.values()) == {wanted}
        with futures.ThreadPoolExecutor(len(ways)) as pool:
            wait_until(as_wanted, 15, lambda: '%s gets %s of %s, not %r' % (
                client, self.answers, server, wanted))

    def assertFlowed(self, streams):
        """End flows; nothing of them was lost, and none broke.

        What is lost between nodes may be the lab's: its switch reads from
        packet sockets, which overflow when the machine is busy.
        """
        lost = {stream: stream.stop() for stream in streams}
        for stream, messages in lost.items():
            self.assertIsNone(stream.error, stream)
            client, server = stream.pods
            few = 0 if client.node == server.node else stream.sent // 100
            self.assertLessEqual(len(messages), few, '%s: %s' % (
                stream, messages))

    def without_dns(self):
        """Take the pods of the cluster's DNS away for the test."""
        self.addCleanup(self._scale_dns, 1)
        self._scale_dns(0)

    def _scale_dns(self, replicas):
        self.lab.kubectl('scale', 'deployment/coredns', '-n', 'kube-system',
                         '--replicas=%d' % replicas)

    def assertNothingLeft(self, *nodes):
        """Soon nodes have nothing of any pod, nor has Neutron."""
        def left(node):
            found = {**self.lab.leftovers(node),
                     'ports': sorted(self.lab.ports(node))}
            return {what: items for what, items in found.items() if items}
        for node in nodes or self.lab.nodes:
            wait_until(lambda: not left(node), 90,
                       lambda: '%s has nothing left, but: %s' % (
                           node, left(node)), interval=0.5)

    def events(self, name, kind='Pod'):
        """Texts of the Kubernetes events of an object."""
        found = self.lab.get(
            'events', '-n', self.namespace, '--field-selector',
            'involvedObject.name=%s,involvedObject.kind=%s' % (name, kind))
        return ['%s: %s' % (item['reason'], item['message'])
                for item in found['items']]

    def start(self, *parts):
        """Start parts that the test has stopped, and wait for agents."""
        for part in parts:
            self.lab.part('start', part)
        for node in self.lab.nodes:
            self.lab.wait_agent(node)

    def stop(self, part, *options):
        """Stop a part; it is started again after the test."""
        self.addCleanup(self.lab.part, 'start', part)
        self.lab.part('stop', part, *options)

    def _delete_namespace(self, name):
        self.lab.kubectl('delete', 'networkpolicy,service,pod', '--all', '-n',
                         name)
        self.lab.kubectl('delete', 'namespace', name, '--wait=false')

    def _tell(self, _info):
        """Add to a failure what an operator would look at."""
        self.addDetail('pods', content.text_content(self.lab.kubectl(
            'get', 'pods', '-A', '-o', 'wide', check=False)))
        self.addDetail('events', content.text_content(self.lab.kubectl(
            'get', 'events', '-n', self.namespace, check=False)))
        told = ('controller', 'agent', 'vswitchd', 'ovn-controller')
        for part in self.lab.facts['parts']:
            if part.rpartition('/')[2] not in told:
                continue
            self.addDetail(part, content.text_content(self.lab.log(part)))
        for node in self.lab.nodes:
            self.addDetail(node + '/switch', content.text_content(
                self.lab.switch(node)))
            try:
                endpoints = self.lab.agent(node).get('/v1/endpoints')
                self.addDetail(node, content.text_content(
                    json.dumps(endpoints, indent=1)))
            except exceptions.KuryrCiliumException as error:
                self.addDetail(node, content.text_content(str(error)))
