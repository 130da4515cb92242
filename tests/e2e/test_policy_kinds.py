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

"""Every kind of policy, a case or two of each: tools/lab/lab conformance has
the rest."""

import socket

from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import pods

OTHER = 8081


def block(*addresses, cidr=None):
    """Peers of a NetworkPolicy: addresses, or all others of a block."""
    if cidr is None:
        return [{'ipBlock': {'cidr': '%s/%d' % (
            address, 128 if ':' in address else 32)}}
            for address in addresses]
    return [{'ipBlock': {'cidr': cidr, 'except': [
        item['ipBlock']['cidr'] for item in block(*addresses)]}}]


def serving(name, node, web, labels=None):
    """A pod whose port "web" is of its own choice."""
    return pods.manifest(name, labels, node, ports=[
        {'name': 'web', 'containerPort': web, 'protocol': 'TCP'}])


class TestPolicyKinds(base.TestCase):

    def cluster(self, kind, name, version, spec):
        """Make, or change, an object of a kind without namespaces."""
        name = '%s-%s' % (self.namespace, name)
        self.addCleanup(self.lab.kubectl, 'delete', kind, name,
                        '--ignore-not-found')
        self.lab.apply({'apiVersion': version, 'kind': kind,
                        'metadata': {'name': name}, 'spec': spec})
        return name

    def administer(self, tier, *ingress):
        """A ClusterNetworkPolicy on the pods of the test's namespace."""
        return self.cluster(
            'ClusterNetworkPolicy', tier.lower(),
            'policy.networking.k8s.io/v1beta1',
            {'tier': tier, 'priority': 10, 'ingress': list(ingress),
             'subject': {'namespaces': self.names(self.namespace)}})

    def names(self, namespace):
        return {'matchLabels': {'kubernetes.io/metadata.name': namespace}}

    def cilium(self, name, selector=None, **spec):
        self.create({'apiVersion': 'cilium.io/v2',
                     'kind': 'CiliumNetworkPolicy',
                     'metadata': {'name': name},
                     'spec': {'endpointSelector': {
                         'matchLabels': selector or {}}, **spec}})

    def test_a_block_of_addresses_that_are_pods(self):
        server, friend, stranger = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('friend', {}, self.other_node),
            pods.manifest('stranger', {}, self.node))
        self.echo(server)
        self.create(pods.policy('block', {'app': 'web'}, ingress=[{'from': [
            *block(stranger.ip4, cidr='0.0.0.0/0'),
            *block(stranger.ip6, cidr='::/0')]}]))
        self.assertBlocked(stranger, server)
        self.assertReaches(friend, server)
        # What one rule excepts, another may allow.
        self.create(pods.policy('address', {'app': 'web'}, ingress=[
            {'from': block(*stranger.addresses)}]))
        self.assertReaches(stranger, server)

    def test_a_named_port_is_of_each_pod(self):
        one, other, client = self.pods(
            serving('one', self.node, base.PORT, {'app': 'web'}),
            serving('other', self.other_node, OTHER, {'app': 'web'}),
            pods.manifest('client', {'app': 'client'}, self.node))
        for server in (one, other):
            for port in (base.PORT, OTHER):
                self.echo(server, port)
        ports = [{'port': 'web'}]
        for spec in ({'selector': {'app': 'web'}, 'policyTypes': ['Ingress'],
                      'ingress': [{'ports': ports}]},
                     {'selector': {'app': 'client'},
                      'policyTypes': ['Egress'], 'egress': [
                          {'to': [{'podSelector': {}}], 'ports': ports}]}):
            self.create(pods.policy('named', **spec))
            for server, open_port, closed in ((one, base.PORT, OTHER),
                                              (other, OTHER, base.PORT)):
                self.assertBlocked(client, server, closed)
                self.assertBlocked(client, server, open_port, ('udp',))
                self.assertReaches(client, server, open_port, ('tcp',))

    def test_tiers_of_the_cluster(self):
        server, client = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {}, self.other_node))
        stranger, = self.pods(pods.manifest('stranger', {}, self.node),
                              namespace=self.new_namespace())
        self.echo(server)
        everyone = [{'namespaces': {}}]
        self.administer('Baseline', {'action': 'Deny', 'from': everyone})
        for other in (client, stranger):
            self.assertBlocked(other, server)
        self.create(pods.policy('own', {'app': 'web'}, ingress=[{}]))
        for other in (client, stranger):
            self.assertReaches(other, server)
        admin = self.administer(
            'Admin',
            {'action': 'Pass', 'from': [
                {'namespaces': self.names(self.namespace)}]},
            {'action': 'Deny', 'from': everyone})
        self.assertBlocked(stranger, server)
        self.assertReaches(client, server)
        self.lab.kubectl('delete', 'clusternetworkpolicy', admin)
        self.assertReaches(stranger, server)

    def test_entities_and_what_is_denied(self):
        server, client, denied = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {}, self.other_node),
            pods.manifest('denied', {'app': 'denied'}, self.node))
        self.echo(server)
        self.assertTrue(self._from_outside(server))
        self.cilium('cluster', {'app': 'web'},
                    ingress=[{'fromEntities': ['cluster']}],
                    ingressDeny=[{'fromEndpoints': [
                        {'matchLabels': {'app': 'denied'}}]}])
        self.assertBlocked(denied, server)
        self.assertReaches(client, server)
        self.assertFalse(self._from_outside(server))
        self.cilium('cluster', {'app': 'web'},
                    ingress=[{'fromEntities': ['world']}])
        self.assertBlocked(client, server)
        self.assertTrue(self._from_outside(server))

    def _from_outside(self, server):
        """Whether somebody outside of the cluster can connect."""
        reached = set()
        for address in server.addresses:
            family = socket.AF_INET6 if ':' in address else socket.AF_INET
            with netns.run(self.lab.netns(), socket.socket, family,
                           socket.SOCK_STREAM) as attempt:
                attempt.settimeout(1)
                reached.add(attempt.connect_ex((address, base.PORT)) == 0)
        self.assertEqual(1, len(reached), 'IPv4 and IPv6 differ')
        return reached.pop()

    def test_what_is_not_supported_isolates_and_says_so(self):
        server, client = self.pods(
            pods.manifest('server', {'app': 'web'}, self.node),
            pods.manifest('client', {'app': 'client'}, self.other_node))
        self.echo(server)
        self.echo(client)
        self.assertReaches(client, server)
        self.cilium('names', {'app': 'client'},
                    egress=[{'toEndpoints': [{}]},
                            {'toFQDNs': [{'matchName': 'example.org'}]}])
        self.assertBlocked(client, server)
        # It is about what the client sends, and about nothing else.
        self.assertReaches(server, client)
        text = base.wait_until(
            lambda: self.events('names', 'CiliumNetworkPolicy'), 15,
            'there is an event on the policy')
        self.assertIn('spec.egress[1].toFQDNs', text[0])
        self.assertIn('spec.egress[1].toFQDNs', self._condition('False'))
        self.cilium('names', {'app': 'client'},
                    egress=[{'toEndpoints': [{}]}])
        self.assertReaches(client, server)
        self._condition('True')

    def _condition(self, status):
        """Soon the policy's condition has a status; what it says then."""
        def valid():
            policy = self.lab.get('ciliumnetworkpolicy', '-n',
                                  self.namespace, 'names')
            return [item['message'] for item in
                    policy.get('status', {}).get('conditions', ())
                    if (item['type'], item['status']) == ('Valid', status)]
        return base.wait_until(
            valid, 15, 'the condition Valid is %s' % status)[0]
