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

"""Where a load balancer asks which nodes have backends of a service."""

import http.client
import json

from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import pods
from tests.e2e import test_services


class TestHealthCheckPorts(base.TestCase):

    def setUp(self):
        super().setUp()
        self.pods(pods.manifest('server-a', {'app': 'server'}, self.node),
                  pods.manifest('server-b', {'app': 'no-server'},
                                self.other_node))
        self.create(test_services.service(
            'web', {'app': 'server'}, type='LoadBalancer',
            externalTrafficPolicy='Local'))
        self.port = self.lab.get('service', '-n', self.namespace, 'web')[
            'spec']['healthCheckNodePort']

    def ask(self, node):
        """(status, number of backends) of a node, by both its addresses."""
        def ask(address):
            connection = http.client.HTTPConnection(address, self.port,
                                                    timeout=5)
            try:
                connection.request('GET', '/healthz')
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except OSError as error:
                return str(error)
            finally:
                connection.close()
            self.assertEqual(
                {'namespace': self.namespace, 'name': 'web'},
                body['service'])
            self.assertEqual(str(body['localEndpoints']), answer.headers[
                'X-Load-Balancing-Endpoint-Weight'])
            return answer.status, body['localEndpoints']

        facts = self.lab.facts['nodes'][node]
        # As a balancer does: from beside the nodes.
        return [netns.run(self.lab.netns(), ask, facts[family])
                for family in ('address', 'address6')]

    def expect(self, **wanted):
        """Within seconds nodes say so."""
        names = {'here': self.node, 'there': self.other_node}
        for name, answer in wanted.items():
            base.wait_until(
                lambda: self.ask(names[name]) == [answer, answer], 20,
                lambda: '%s: %s, not %s' % (names[name], self.ask(
                    names[name]), answer))

    def label(self, pod, app):
        self.lab.kubectl('label', 'pod', '-n', self.namespace, pod,
                         '--overwrite', 'app=' + app)

    def test_follows_backends(self):
        self.expect(here=(200, 1), there=(503, 0))
        self.label('server-b', 'server')
        self.expect(here=(200, 1), there=(200, 1))
        self.label('server-a', 'no-server')
        self.expect(here=(503, 0), there=(200, 1))
        self.lab.kubectl('delete', 'service', '-n', self.namespace, 'web')
        base.wait_until(lambda: not any(
            isinstance(answer, tuple) for answer in self.ask(self.node)), 20,
            'the port is closed')

    def test_the_agent_is_started_again(self):
        self.expect(here=(200, 1))
        self.lab.part('restart', self.node + '/agent', '--kill')
        self.lab.wait_agent(self.node)
        self.expect(here=(200, 1))
        service, = [found for found in self.lab.agent(self.node).get(
            '/v1/services')['services'] if (found['namespace'], found[
                'name']) == (self.namespace, 'web')]
        self.assertEqual(
            ('in force', 'Local', self.port),
            (service['state'], service['external_traffic_policy'],
             service['health_check_node_port']))
