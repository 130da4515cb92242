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

"""Services as clients outside reach them: the control plane is one."""

import json
import socket

from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import lab as e2e_lab
from tests.e2e import pods
from tests.e2e import test_services

NODE_PORT = 30190
BALANCER = {4: '203.0.113.90', 6: '2001:db8:90::1'}


class Outside:
    """The machine of the control plane, which has no pods.

    :ivar addresses: those that nodes see.
    """

    def __init__(self, lab):
        self._netns = lab.netns()
        self.addresses = {4: '192.168.50.1', 6: 'fd50::1'}

    def __repr__(self):
        return 'the control plane'

    def bound(self, kind, version=4, port=0):
        """A socket bound to its address."""
        found = netns.run(
            self._netns, socket.socket,
            socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((self.addresses[version], port))
        return found

    def ip(self, *arguments):
        return e2e_lab.run('nsenter', '--net=' + self._netns, 'ip',
                           *arguments)


class TestOutside(test_services.ServicesCase):

    def setUp(self):
        super().setUp()
        self.client = Outside(self.lab)
        # On one node only, so that the other one leads elsewhere.
        self.server, = self.pods(
            pods.manifest('server', {'app': 'server'}, self.node))
        self.echo_server = self.echo(self.server)

    def serve_outside(self, **spec):
        """Make the service, of node ports at least."""
        ports = test_services.service('web', {})['spec']['ports']
        for port in ports:
            port['nodePort'] = NODE_PORT
        return self.serve(**{'type': 'NodePort', 'ports': ports, **spec})

    def addresses(self, *nodes):
        facts = self.lab.facts['nodes']
        return [facts[node][name] for node in nodes
                for name in ('address', 'address6')]

    def node_ports(self, *nodes):
        return [(address, NODE_PORT) for address in self.addresses(*nodes)]

    def seen(self):
        """From whom the server has its open connections."""
        return {connection.getpeername()[0]
                for connection in self.echo_server.connections}

    def connect(self, address, port):
        """A connection that stays open."""
        version = 6 if ':' in address else 4
        found = self.client.bound(socket.SOCK_STREAM, version)
        self.addCleanup(found.close)
        found.settimeout(5)
        found.connect((address, port))
        self.assertGoesOn(found)
        return found

    def assertGoesOn(self, *connections):
        for connection in connections:
            connection.sendall(b'still there')
            self.assertEqual(b'still there', connection.recv(100))

    def balance(self, node):
        """Give the service a balancer's addresses, that lead to a node."""
        for version, address in zip((4, 6), self.addresses(node)):
            self.client.ip('route', 'replace', BALANCER[version], 'via',
                           address)
            self.addCleanup(self.client.ip, '-%d' % version, 'route',
                            'flush', 'exact', BALANCER[version])
        self.lab.kubectl(
            'patch', 'service', '-n', self.namespace, 'web',
            '--subresource=status', '--type=merge', '-p', json.dumps(
                {'status': {'loadBalancer': {'ingress': [
                    {'ip': address} for address in BALANCER.values()]}}}))
        return [(address, 80) for address in BALANCER.values()]

    def test_node_ports_of_every_node(self):
        self.serve_outside()
        self.ask_all(self.client, self.node_ports(*self.lab.nodes), 'answer',
                     times=3)
        for address, port in self.node_ports(self.node):
            self.connect(address, port)
        if self.lab.facts['kube_proxy']:
            # It sends everything under the node's address.
            self.assertEqual({*self.addresses(self.node)}, self.seen())
            return
        self.assertEqual(set(self.client.addresses.values()), self.seen())
        for address, port in self.node_ports(self.other_node):
            self.connect(address, port)
        self.assertEqual({*self.client.addresses.values(),
                          *self.addresses(self.other_node)}, self.seen())

    def test_nobody_is_ready(self):
        self.serve_outside()
        targets = self.node_ports(*self.lab.nodes)
        self.ask_all(self.client, targets, 'answer')
        self.lab.kubectl('label', 'pod', '-n', self.namespace, '--all',
                         'app-')
        wanted = test_services.no_answers(self.lab)
        base.wait_until(
            lambda: {pods.ask(self.client, *target)
                     for target in targets} <= {*wanted}, 15,
            'answers are %s' % (wanted,))

    def test_local_backends(self):
        self.serve_outside(externalTrafficPolicy='Local')
        self.ask_all(self.client, self.node_ports(self.node), 'answer')
        self.ask_all(self.client, self.node_ports(self.other_node), None)
        for address, port in self.node_ports(self.node):
            self.connect(address, port)
        self.assertEqual(set(self.client.addresses.values()), self.seen())

    def test_policy_is_about_the_client(self):
        self.serve_outside(externalTrafficPolicy='Local')
        targets = self.node_ports(self.node)
        self.create(pods.policy('closed', policyTypes=['Ingress']))
        self.ask_all(self.client, targets, None)
        self.create(pods.policy('client', policyTypes=['Ingress'], ingress=[{
            'from': [{'ipBlock': {'cidr': '192.168.50.1/32'}},
                     {'ipBlock': {'cidr': 'fd50::1/128'}}]}]))
        self.ask_all(self.client, targets, 'answer')

    def test_a_balancer(self):
        self.serve_outside(type='LoadBalancer')
        for node in self.lab.nodes:
            self.ask_all(self.client, self.balance(node), 'answer')

    def test_source_ranges(self):
        self.serve_outside(type='LoadBalancer', loadBalancerSourceRanges=[
            '192.168.50.0/24', 'fd50::/64'])
        targets = self.balance(self.other_node)
        self.ask_all(self.client, targets, 'answer')
        self.lab.kubectl(
            'patch', 'service', '-n', self.namespace, 'web', '--type=merge',
            '-p', json.dumps({'spec': {'loadBalancerSourceRanges': [
                '192.168.50.128/25', 'fd51::/64']}}))
        self.ask_all(self.client, targets, None)
        self.ask_all(self.client, self.node_ports(*self.lab.nodes), 'answer')

    def test_connections_outlive_the_agents_and_the_service(self):
        self.serve_outside()
        targets = self.node_ports(*self.lab.nodes)
        self.ask_all(self.client, targets, 'answer')
        flows = [self.connect(*target) for target in targets]
        for node in self.lab.nodes:
            self.lab.part('restart', node + '/agent', '--kill')
        self.assertGoesOn(*flows)
        for node in self.lab.nodes:
            self.lab.wait_agent(node)
        self.assertGoesOn(*flows)
        self.lab.kubectl('delete', 'service', '-n', self.namespace, 'web')
        # Nobody listens on the node itself.
        self.ask_all(self.client, targets, 'refused')
        self.assertGoesOn(*flows)
