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

"""Services under load: many connections while backends and agents change."""

import collections
import selectors
import socket
import struct
import threading

from benchmarks import lab as bench_lab
from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import lab as e2e_lab
from tests.e2e import pods

CONNECTIONS = 30000
OPEN = 1000
KILLS = 20
#: Closing with it sends a reset: no port waits, so they don't run out.
RESET = struct.pack('ii', 1, 0)


def service(name='web'):
    """A service of both families in front of the pods of that name."""
    return {'apiVersion': 'v1', 'kind': 'Service', 'metadata': {'name': name},
            'spec': {'selector': {'app': name},
                     'ipFamilyPolicy': 'RequireDualStack',
                     'ports': [{'port': 80, 'targetPort': base.PORT}]}}


def deployment(replicas, name='web'):
    """Web servers that go on for some seconds after they were told to end."""
    pod = pods.manifest(name, {'app': name}, args=(
        'netexec', '--http-port=%d' % base.PORT, '--delay-shutdown=5'),
        readinessProbe={'httpGet': {'port': base.PORT, 'path': '/healthz'},
                        'periodSeconds': 1})
    pod['spec']['terminationGracePeriodSeconds'] = 30
    return {'apiVersion': 'apps/v1', 'kind': 'Deployment',
            'metadata': {'name': name},
            'spec': {'replicas': replicas,
                     'selector': {'matchLabels': {'app': name}},
                     'strategy': {'rollingUpdate': {'maxUnavailable': 0}},
                     'template': {'metadata': pod['metadata'],
                                  'spec': pod['spec']}}}


class Asking(threading.Thread):
    """Short connections to an address, one after the other, until stopped.

    :ivar answers: how many there were, by the name of the pod.
    :ivar failures: what failed, as texts.
    """

    def __init__(self, pod, address):
        super().__init__(name='asking', daemon=True)
        self._pod, self._address = pod, address
        self._done = threading.Event()
        self.answers = collections.Counter()
        self.failures = []
        self.start()

    def run(self):
        netns.run(self._pod.netns, self._ask_all)

    def _ask_all(self):
        while not self._done.is_set():
            try:
                self.answers[self._ask()] += 1
            except OSError as error:
                self.failures.append('after %d: %s' % (self.count, error))

    def _ask(self):
        version = socket.AF_INET6 if ':' in self._address else socket.AF_INET
        with socket.socket(version) as asking:
            asking.settimeout(5)
            asking.connect((self._address, 80))
            asking.sendall(b'GET /hostname HTTP/1.0\r\n\r\n')
            answer = b''
            while piece := asking.recv(4096):
                answer += piece
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if not answer.startswith(b'HTTP/1.0 200'):
            raise OSError('the answer is %r' % answer)
        return answer.rpartition(b'\r\n\r\n')[2].decode()

    @property
    def count(self):
        return self.answers.total()

    def stop(self):
        self._done.set()
        self.join()


class Echo(threading.Thread):
    """A server for more connections than select() takes."""

    def __init__(self, pod, port=base.PORT):
        super().__init__(name='echo', daemon=True)
        self._done = threading.Event()
        self._selector = selectors.DefaultSelector()
        for version in (4, 6):
            listener = pod.bound(socket.SOCK_STREAM, version, port)
            listener.listen(1024)
            self._selector.register(listener, selectors.EVENT_READ, True)
        self.start()

    def run(self):
        while not self._done.is_set():
            for key, _ in self._selector.select(0.1):
                if key.data:
                    self._selector.register(key.fileobj.accept()[0],
                                            selectors.EVENT_READ, False)
                    continue
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.sendall(data)
                else:
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()

    def stop(self):
        self._done.set()
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()


class TestServices(base.TestCase):

    def serve(self):
        """Make the service; its addresses, IPv4 and IPv6."""
        self.create(service())
        return self.lab.get('service', '-n', self.namespace,
                            'web')['spec']['clusterIPs']

    def deploy(self, replicas):
        self.create(deployment(replicas))
        self.addCleanup(self.lab.kubectl, 'delete', 'deployment', '--all',
                        '-n', self.namespace)
        self.rolled_out()

    def rolled_out(self):
        self.lab.kubectl('rollout', 'status', '-n', self.namespace,
                         'deployment/web', '--timeout=120s', timeout=150)

    def ask(self, client, addresses, each=1):
        asking = [Asking(client, address) for address in addresses
                  for _thread in range(each)]
        for thread in asking:
            self.addCleanup(thread.stop)
        return asking

    def answered(self, addresses, client):
        for address in addresses:
            base.wait_until(
                lambda address=address: pods.reaches(client, address, 80),
                30, '%s answers %s' % (address, client))

    def assertAsked(self, asking, connections, timeout=240):
        """So many connections, and none failed."""
        def failed():
            return [text for thread in asking for text in thread.failures]

        base.wait_until(
            lambda: failed() or sum(thread.count for thread in asking)
            >= connections, timeout, '%d connections' % connections)
        self.assertEqual([], failed())

    def test_rolling_update_under_connections(self):
        self.deploy(4)
        client, = self.pods(pods.manifest('client', {}, self.node))
        addresses = self.serve()
        self.answered(addresses, client)
        asking = self.ask(client, addresses, 2)
        self.assertAsked(asking, 1000)
        for _time in range(2):
            self.lab.kubectl('rollout', 'restart', '-n', self.namespace,
                             'deployment/web')
            self.rolled_out()
            self.assertAsked(asking, 0)
        self.assertAsked(asking, CONNECTIONS)
        for thread in asking:
            thread.stop()
        answers = collections.Counter()
        for thread in asking:
            answers += thread.answers
        # The four of before, of between and of after, about the same.
        self.assertEqual(12, len(answers), answers)

    def test_to_nothing_and_back(self):
        self.deploy(3)
        client, = self.pods(pods.manifest('client', {}, self.node))
        addresses = self.serve()
        self.answered(addresses, client)
        for _time in range(3):
            self.lab.kubectl('scale', '-n', self.namespace, 'deployment/web',
                             '--replicas=0')
            for address in addresses:
                base.wait_until(
                    lambda address=address: pods.ask(
                        client, address, 80) == 'refused', 60,
                    '%s refuses' % address)
            self.lab.kubectl('scale', '-n', self.namespace, 'deployment/web',
                             '--replicas=3')
            self.answered(addresses, client)

    def test_open_connections_outlive_killed_agents(self):
        servers = self.pods(*(
            pods.manifest('server-' + node, {'app': 'web'}, node)
            for node in self.lab.nodes))
        for server in servers:
            self.addCleanup(Echo(server).stop)
        client, = self.pods(pods.manifest('client', {}, self.node))
        addresses = self.serve()
        self.answered(addresses, client)
        flows = []
        for number in range(OPEN):
            version = 4 if number % 2 else 6
            flow = client.bound(socket.SOCK_STREAM, version)
            self.addCleanup(flow.close)
            flow.settimeout(10)
            flow.connect((addresses[version == 6], 80))
            flows.append(flow)
        for kill in range(KILLS):
            self.lab.part('restart', '%s/agent' % self.lab.nodes[kill % 2],
                          '--kill')
            self.assertAlive(flows, kill)
        for node in self.lab.nodes:
            self.lab.wait_agent(node)
        self.assertAlive(flows, KILLS)

    def assertAlive(self, flows, number):
        """Every flow answers, those of both backends."""
        message = struct.pack('>I', number)
        for flow in flows:
            flow.sendall(message)
        self.assertEqual(
            [message] * len(flows),
            [flow.recv(4, socket.MSG_WAITALL) for flow in flows])

    def test_ports_are_used_again(self):
        server, client = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {}, self.node))
        load = bench_lab.loadgen()
        addresses = self.serve()
        with self.in_pod(server, load, 'server', base.PORT) as running:
            self.assertEqual('ready\n', running.stdout.readline())
            self.answered(addresses, client)
            for address in addresses:
                with self.in_pod(client, load, 'crr', address, 80, 20) as one:
                    rate = one.stdout.readline()
                    # Each has a port of 28,232 anew: more than one round.
                    self.assertGreater(float(rate or 0) * 20, 2 * 28232)

    def in_pod(self, pod, *argv):
        """A process in a pod's network namespace, until the block ends."""
        return bench_lab.process(
            str(e2e_lab.COMMAND), 'shell', pod.node, '--', 'nsenter',
            '--net=' + pod.netns_in_node, *map(str, argv))
