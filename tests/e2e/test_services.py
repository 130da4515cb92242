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

"""Services as pods find them, by address and by name."""

import socket

from tests.e2e import base
from tests.e2e import pods

NODE_PORT = 30180


def service(name, selector, **spec):
    """A service of both families."""
    return {'apiVersion': 'v1', 'kind': 'Service', 'metadata': {'name': name},
            'spec': {'selector': selector,
                     'ipFamilyPolicy': 'RequireDualStack',
                     'ports': [{'name': 'tcp', 'port': 80, 'protocol': 'TCP',
                                'targetPort': base.PORT},
                               {'name': 'udp', 'port': 80, 'protocol': 'UDP',
                                'targetPort': base.PORT}], **spec}}


def no_answers(lab):
    """What nodes, and clients outside, get of a service without backends."""
    if lab.facts['kube_proxy']:
        # It is kube-proxy's then, which is silent at times.
        return 'refused', 'Operation not permitted', None
    return 'refused',


class ServicesCase(base.TestCase):

    def serve(self, **spec):
        """Make the service; its addresses, IPv4 and IPv6."""
        self.create(service('web', {'app': 'server'}, **spec))
        return self.lab.get('service', '-n', self.namespace,
                            'web')['spec']['clusterIPs']

    def ask_all(self, client, targets, wanted, times=1):
        """Within seconds each of some requests has a wanted answer."""
        def answers():
            return {(address, port, protocol): pods.ask(
                client, address, port, protocol)
                for address, port in targets for protocol in ('tcp', 'udp')
                for _time in range(times)}
        base.wait_until(lambda: set(answers().values()) == {wanted}, 15,
                        lambda: '%s is answered by: %s' % (client,
                                                           answers()))


class TestServices(ServicesCase):

    def setUp(self):
        super().setUp()
        # One on each node, and a client that is one of them.
        self.servers = self.pods(
            pods.manifest('server-a', {'app': 'server'}, self.node),
            pods.manifest('server-b', {'app': 'server'}, self.other_node))
        for server in self.servers:
            self.echo(server)
        self.client, = self.pods(pods.manifest('client', {}, self.node))

    def test_addresses_and_node_ports(self):
        spec = service('web', {'app': 'server'})['spec']['ports']
        for port in spec:
            port['nodePort'] = NODE_PORT
        found = self.serve(type='NodePort', ports=spec)
        targets = [(address, 80) for address in found]
        for node in self.lab.nodes:
            facts = self.lab.facts['nodes'][node]
            targets += [(facts['address'], NODE_PORT),
                        (facts['address6'], NODE_PORT)]
        for client in (self.client, *self.servers):
            # Those that are backends reach themselves too, now and then.
            self.ask_all(client, targets, 'answer', times=4)

    def test_nobody_is_ready(self):
        found = self.serve()
        targets = [(address, 80) for address in found]
        self.ask_all(self.client, targets, 'answer')
        self.lab.kubectl('label', 'pod', '-n', self.namespace, '--all',
                         'app-')
        self.ask_all(self.client, targets, 'refused')
        self.ask_all(self.client, [(found[0], 81)], 'refused')
        self.lab.kubectl('label', 'pod', '-n', self.namespace, 'server-b',
                         'app=server')
        self.ask_all(self.client, targets, 'answer')

    def test_policy_is_about_backends(self):
        targets = [(address, 80) for address in self.serve()]
        self.create(pods.policy(
            'backends', {}, policyTypes=['Egress'], egress=[{
                'to': [{'podSelector': {'matchLabels': {'app': 'server'}}}],
                'ports': [{'protocol': protocol, 'port': base.PORT}
                          for protocol in ('TCP', 'UDP')]}]))
        self.ask_all(self.client, targets, 'answer')
        self.create(pods.policy('closed', {'app': 'server'},
                                policyTypes=['Ingress']))
        self.ask_all(self.client, targets, None)
        self.delete('networkpolicy', 'closed')
        self.ask_all(self.client, targets, 'answer')
        # The same by addresses: those of the backends, not of the service.
        self.create(self._only_to(*(address for address, _port in targets)))
        self.ask_all(self.client, targets, None)
        self.create(self._only_to(*(
            address for server in self.servers
            for address in server.addresses)))
        self.ask_all(self.client, targets, 'answer')
        for server in self.servers:
            self.assertReaches(self.client, server)

    def _only_to(self, *addresses):
        """The policy 'backends' with addresses in place of a selector."""
        return pods.policy('backends', {}, policyTypes=['Egress'], egress=[{
            'to': [{'ipBlock': {'cidr': '%s/%d' % (
                address, 128 if ':' in address else 32)}}
                for address in addresses]}])

    def test_an_open_connection_outlives_the_agent_and_the_service(self):
        address, address6 = self.serve()
        flows = []
        for version, target in ((4, address), (6, address6)):
            flow = self.client.bound(socket.SOCK_STREAM, version)
            self.addCleanup(flow.close)
            flow.settimeout(5)
            base.wait_until(lambda: flow.connect_ex((target, 80)) in (
                0, 106), 15, 'the service answers')
            flows.append(flow)
        self.lab.part('restart', self.node + '/agent', '--kill')
        self.lab.wait_agent(self.node)
        self.lab.kubectl('delete', 'service', '-n', self.namespace, 'web')
        base.wait_until(lambda: not self._answers(address), 15,
                        'the service is gone')
        for flow in flows:
            flow.sendall(b'still there')
            self.assertEqual(b'still there', flow.recv(100))

    def _answers(self, address):
        try:
            return pods.reaches(self.client, address, 80)
        except OSError:
            # To the router it is an address of nobody's network.
            return False

    def test_connections_of_processes_are_led_when_made(self):
        """By what the client's kernel has for the peers of its sockets."""
        address, address6 = self.serve()
        for target, listed in ((address, 'tcp'), ('[%s]' % address6, 'tcp6')):
            base.wait_until(lambda: self.client.exec(
                '/agnhost', 'connect', '--timeout=1s', target + ':80',
                check=False) == '', 15, 'the service answers')
            # The client has ended it: it is in TIME_WAIT.
            ports = {int(row.split()[2].rpartition(':')[2], 16) for row
                     in self.client.read(listed).splitlines()[1:]}
            self.assertEqual(
                {80} if self.lab.facts['kube_proxy'] else {base.PORT}, ports)

    def test_names(self):
        self.serve()
        name = 'web.%s.svc.cluster.local:80' % self.namespace
        base.wait_until(lambda: self.client.exec(
            '/agnhost', 'connect', '--timeout=1s', name,
            check=False) == '', 20, 'the name is known')
        self.assertIn('REFUSED', self.client.exec(
            'sh', '-c', '/agnhost connect --timeout=1s %s 2>&1 || true' %
            name.replace(':80', ':81')))
