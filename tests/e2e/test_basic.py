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

"""Pods reach each other and policy decides, as an operator would try it."""

from tests.e2e import base
from tests.e2e import pods

SERVER = ('netexec', '--http-port=8080', '--udp-port=8081')


class TestBasic(base.TestCase):

    def connect(self, client, address):
        """What goes wrong with a connection from the client's container."""
        address = '[%s]' % address if ':' in address else address
        return client.exec('sh', '-c', '/agnhost connect --timeout=1s '
                           '%s:8080 2>&1 || :' % address).strip()

    def test_a_policy_by_labels(self):
        near, far, friend, stranger = self.pods(
            pods.manifest('near', {'app': 'web'}, self.node, SERVER),
            pods.manifest('far', {'app': 'web'}, self.other_node, SERVER),
            pods.manifest('friend', {'role': 'friend'}, self.node),
            pods.manifest('stranger', {}, self.node))
        for client in (friend, stranger):
            for server in (near, far):
                self.assertReaches(client, server, 8080, ('tcp',))
        self.create(pods.policy('web', {'app': 'web'}, ingress=[
            {'from': [{'podSelector': {'matchLabels': {'role': 'friend'}}}],
             'ports': [{'port': 8080}]}]))
        for server in (near, far):
            self.assertReaches(friend, server, 8080, ('tcp',))
            self.assertBlocked(stranger, server, 8080, ('tcp',))
            for address in server.addresses:
                self.assertEqual('', self.connect(friend, address))
                self.assertIn('TIMEOUT', self.connect(stranger, address))

    def test_namespaces(self):
        red = self.new_namespace({'team': 'red'})
        blue = self.new_namespace({'team': 'blue'})
        server, = self.pods(pods.manifest('server', {}, self.node))
        clients = {name: self.pods(
            pods.manifest('client', {'role': 'client'}, self.other_node),
            pods.manifest('other', {}, self.node), namespace=name)
            for name in (red, blue)}
        self.echo(server)
        self.create(pods.policy('red', ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'red'}},
             'podSelector': {'matchLabels': {'role': 'client'}}}]}]))
        self.assertReaches(clients[red][0], server)
        for client in (clients[red][1], *clients[blue]):
            self.assertBlocked(client, server)
        self.lab.kubectl('label', '--overwrite', 'namespace', blue,
                         'team=red')
        self.assertReaches(clients[blue][0], server)
        self.lab.kubectl('label', '--overwrite', 'namespace', red,
                         'team=blue')
        self.assertBlocked(clients[red][0], server)

    def test_ports(self):
        server, client = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {}, self.node))
        for port in (1000, 1001, 1002, 1003):
            self.echo(server, port)
        self.create(pods.policy('ports', {'app': 'web'}, ingress=[
            {'ports': [{'port': 1000}, {'port': 1002, 'endPort': 1003,
                                        'protocol': 'UDP'}]}]))
        for port, protocol, allowed in (
                (1000, 'tcp', True), (1000, 'udp', False),
                (1001, 'tcp', False), (1001, 'udp', False),
                (1002, 'tcp', False), (1002, 'udp', True),
                (1003, 'udp', True)):
            check = self.assertReaches if allowed else self.assertBlocked
            check(client, server, port, (protocol,))

    def test_drops_are_told_by_name(self):
        server, client = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {}, self.node))
        self.create(pods.policy('deny', {'app': 'web'},
                                policyTypes=['Ingress']))
        self.assertBlocked(client, server)
        expected = ('%s/client' % self.namespace,
                    '%s/server' % self.namespace, 'policy')
        base.wait_until(
            lambda: expected in {
                (event['source_pod'], event['destination_pod'],
                 event['reason'])
                for event in self.lab.agent(self.node).events(
                    verdict='drop')}, 10, 'the agent tells of the drops')
