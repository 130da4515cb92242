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
"""Services as the nodes themselves find them, and pods with hostNetwork."""

import socket
import struct

from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import pods
from tests.e2e import test_services

NODE_PORT = 30182
#: A standard query for the A record of kubernetes.default.svc.cluster.local.
QUERY = (struct.pack('>6H', 0x4b43, 0x100, 1, 0, 0, 0) + b''.join(
    bytes([len(label)]) + label for label in
    b'kubernetes.default.svc.cluster.local'.split(b'.')) +
    b'\0' + struct.pack('>2H', 1, 1))


class Node:
    """A node, as what runs on it sees the network."""

    def __init__(self, lab, name):
        self.name = name
        self._netns = lab.netns(name)

    def __repr__(self):
        return self.name

    def bound(self, kind, version=4):
        """A socket that is bound to nothing: the kernel chooses."""
        return netns.run(
            self._netns, socket.socket,
            socket.AF_INET if version == 4 else socket.AF_INET6, kind)


def ask(*question):
    """As pods.ask(), on a node that may be about to start."""
    try:
        return pods.ask(*question)
    except OSError as error:
        return error.strerror


class TestServicesOfNodes(base.TestCase):

    def setUp(self):
        super().setUp()
        self.places = [Node(self.lab, name) for name in self.lab.nodes]

    def servers(self):
        """A server on each node."""
        found = self.pods(
            pods.manifest('server-a', {'app': 'server'}, self.node),
            pods.manifest('server-b', {'app': 'server'}, self.other_node))
        for server in found:
            self.echo(server)
        return found

    def serve(self, **spec):
        """Make the service; its addresses, IPv4 and IPv6."""
        self.create(test_services.service('web', {'app': 'server'}, **spec))
        return self.lab.get('service', '-n', self.namespace,
                            'web')['spec']['clusterIPs']

    def ask_all(self, targets, wanted):
        """Within seconds every node gets wanted answers, several times."""
        def answers():
            return {(str(place), address, port, protocol, time): ask(
                place, address, port, protocol) for place in self.places
                for address, port in targets for protocol in ('tcp', 'udp')
                for time in range(4)}
        base.wait_until(lambda: set(answers().values()) <= {*wanted}, 20,
                        lambda: 'all get %s: %s' % (wanted, answers()))

    def test_addresses_and_node_ports(self):
        self.servers()
        ports = test_services.service('web', {})['spec']['ports']
        for port in ports:
            port['nodePort'] = NODE_PORT
        targets = [(address, 80) for address in self.serve(
            type='NodePort', ports=ports)]
        for name in self.lab.nodes:
            facts = self.lab.facts['nodes'][name]
            targets += [(facts['address'], NODE_PORT),
                        (facts['address6'], NODE_PORT)]
        self.ask_all(targets, ['answer'])

    def test_answers_bear_the_address_of_the_service(self):
        self.servers()
        found = self.serve()
        self.ask_all([(address, 80) for address in found], ['answer'])
        for place in self.places:
            for version, address in zip((4, 6), found):
                with place.bound(socket.SOCK_STREAM, version) as sock:
                    sock.settimeout(5)
                    sock.connect((address, 80))
                    self.assertEqual((address, 80), sock.getpeername()[:2])
                with place.bound(socket.SOCK_DGRAM, version) as sock:
                    sock.settimeout(5)
                    sock.sendto(b'?', (address, 80))
                    self.assertEqual((address, 80),
                                     sock.recvfrom(100)[1][:2])

    def test_nobody_is_ready(self):
        self.servers()
        targets = [(address, 80) for address in self.serve()]
        self.ask_all(targets, ['answer'])
        self.lab.kubectl('label', 'pod', '-n', self.namespace, '--all',
                         'app-')
        self.ask_all(targets, test_services.no_answers(self.lab))
        self.lab.kubectl('label', 'pod', '-n', self.namespace, 'server-b',
                         'app=server')
        self.ask_all(targets, ['answer'])

    def test_policy_of_backends_does_not_keep_their_own_node_out(self):
        server, = self.pods(pods.manifest('server', {'app': 'server'},
                                          self.node))
        self.echo(server)
        self.create(pods.policy('closed', {'app': 'server'},
                                policyTypes=['Ingress']))
        self.places = [Node(self.lab, self.node)]
        self.ask_all([(address, 80) for address in self.serve()], ['answer'])

    def test_while_the_agent_is_away(self):
        self.servers()
        targets = [(address, 80) for address in self.serve()]
        self.ask_all(targets, ['answer'])
        for name in self.lab.nodes:
            self.stop(name + '/agent', '--kill')
        self.ask_all(targets, ['answer'])

    def test_after_a_reboot_without_a_controller(self):
        """What is on disk is in force before anybody answers."""
        server, = self.pods(pods.manifest('server', {'app': 'server'},
                                          self.other_node))
        self.echo(server)
        found = self.serve()
        targets = [(address, 80) for address in found]
        self.ask_all(targets, ['answer'])
        file = (self.lab.root(self.node) /
                'var/lib/kuryr-cilium/services.json')
        base.wait_until(lambda: all(
            address in file.read_text() for address in found), 10,
            'the service is on disk')
        self.stop('controller')
        self.lab.part('reboot', self.node)
        self.places = [Node(self.lab, self.node)]
        self.ask_all(targets, ['answer'])
        self.start('controller')

    def test_the_api_server(self):
        """By the address of its service, TLS: it says that it is TLS."""
        facts = self.lab.get('service', '-n', 'default', 'kubernetes')['spec']
        for place in self.places:
            for address in facts['clusterIPs']:
                self.assertEqual('answer', pods.ask(
                    place, address, facts['ports'][0]['port'], timeout=5))

    def test_names(self):
        wanted = socket.inet_aton(self.lab.get(
            'service', '-n', 'default', 'kubernetes')['spec']['clusterIP'])
        found = self.lab.get('service', '-n', 'kube-system',
                             'kube-dns')['spec']['clusterIPs']
        for place in self.places:
            for address in found:
                with place.bound(socket.SOCK_DGRAM,
                                 6 if ':' in address else 4) as sock:
                    sock.settimeout(5)
                    sock.sendto(QUERY, (address, 53))
                    answer, peer = sock.recvfrom(512)
                self.assertEqual((address, 53), peer[:2])
                self.assertEqual((QUERY[:2], wanted),
                                 (answer[:2], answer[-4:]))

    def test_pods_with_host_network(self):
        self.servers()
        found = self.serve()
        names = []
        for node in self.lab.nodes:
            pod = pods.manifest('host-' + node, {}, node)
            pod['spec']['hostNetwork'] = True
            names.append(pod['metadata']['name'])
            self.create(pod)
        self.wait_ready(*names)
        for name in names:
            for address in found:
                for protocol in ('tcp', 'udp'):
                    base.wait_until(
                        lambda: self._connects(name, address, 80, protocol),
                        20, '%s reaches %s by %s' % (name, address, protocol))
            self.assertIn('REFUSED', self._connect(name, found[0], 81, 'tcp'))

    def _connects(self, *target):
        return self._connect(*target) == ''

    def _connect(self, name, address, port, protocol):
        target = '[%s]:%d' % (address, port) if ':' in address else (
            '%s:%d' % (address, port))
        return self.lab.kubectl(
            'exec', '-n', self.namespace, name, '--', 'sh', '-c',
            '/agnhost connect --timeout=2s --protocol=%s %s 2>&1 || true' % (
                protocol, target))
