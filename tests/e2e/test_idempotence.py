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

"""CNI requests twice, late, of the unknown, after a crash at each step."""

import json

from tests.e2e import base
from tests.e2e import pods

#: What agent/plug.py names its steps.
ADD_STEPS = ('record', 'links', 'attach', 'plug', 'pod', 'host', 'view',
             'wired', 'activate', 'ready')
DEL_STEPS = ('del-unplug', 'del-detach', 'del-record')
PLUGIN = '/opt/cni/bin/kuryr-cilium-cni'


class TestIdempotence(base.TestCase):

    def setUp(self):
        super().setUp()
        # Pods of earlier tests may still be going.
        base.wait_until(lambda: not self.lab.records(self.node), 60,
                        '%s has no pods' % self.node)
        self.before = self.lab.leftovers(self.node)
        self.ports_before = self.ports()

    def ports(self):
        """Ids of Neutron's ports that are bound to the node."""
        return {port['id'] for port in self.lab.ports().values()
                if port['binding:host_id'] == self.node}

    def assertNothingLeft(self):
        """The node, and Neutron, are as they were before the test."""
        def same():
            self.left = (self.lab.leftovers(self.node),
                         self.ports() - self.ports_before)
            return self.left == (self.before, set())
        base.wait_until(same, 90, lambda: 'left: %s; before: %s' % (
            self.left, self.before), interval=1.0)

    def cni(self, command, pod, container_id=None):
        """Call the plugin as the container runtime does.

        :returns: exit code is 0, and what it prints.
        """
        config = json.loads((self.lab.root(self.node) / 'etc/cni/net.d' /
                             '10-kuryr-cilium.conflist').read_text())
        network = {'cniVersion': config['cniVersion'],
                   'name': config['name'], **config['plugins'][0]}
        script = 'echo "$CONFIG" | %s; echo "code $?"' % PLUGIN
        answer = self.lab.on_node(self.node, 'sh', '-c', script, env={
            'CONFIG': json.dumps(network), 'CNI_COMMAND': command,
            'CNI_CONTAINERID': container_id or pod.container_id,
            'CNI_NETNS': pod.netns_in_node, 'CNI_IFNAME': 'eth0',
            'CNI_PATH': '/opt/cni/bin',
            'CNI_ARGS': 'IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;'
            'K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s' % (
                pod.namespace, pod.name, container_id or pod.container_id,
                pod.uid)})
        text, _, code = answer.rpartition('code ')
        return int(code) == 0, text.strip()

    def test_twice(self):
        server, client = self.pods(
            pods.manifest('server', {}, self.node),
            pods.manifest('client', {}, self.other_node))
        self.echo(server)
        first, second = self.cni('ADD', server), self.cni('ADD', server)
        self.assertTrue(first[0], first[1])
        self.assertEqual(first, second)
        self.assertEqual({server.ip4, server.ip6}, {
            item['address'].split('/')[0]
            for item in json.loads(first[1])['ips']})
        self.assertReaches(client, server)
        self.assertEqual((True, ''), self.cni('CHECK', server))
        self.assertEqual((True, ''), self.cni('DEL', server, '0' * 64))
        self.assertReaches(client, server)
        for _time in range(2):
            self.assertEqual((True, ''), self.cni('DEL', server))
        self.assertFalse(self.cni('CHECK', server)[0])
        self.delete('pod', 'server', 'client')
        self.assertNothingLeft()

    def test_killed_at_each_step_of_the_plug(self):
        client, = self.pods(pods.manifest('client', {}, self.other_node))
        self.create(pods.policy('deny', {'app': 'closed'},
                                policyTypes=['Ingress']))
        for step in ADD_STEPS:
            self._die_at(step, lambda: self.create(
                pods.manifest('server', {}, self.node),
                pods.manifest('closed', {'app': 'closed'}, self.node)))
            self.wait_ready('server', 'closed')
            server, closed = self.pod('server'), self.pod('closed')
            echo = pods.Echo(server, base.PORT)
            self.assertReaches(client, server)
            self.assertReaches(closed, server)
            self.assertBlocked(client, closed)
            echo.stop()
            self.delete('pod', 'server', 'closed')
            self.assertNothingLeft()

    def test_killed_at_each_step_of_the_unplug(self):
        for step in DEL_STEPS:
            self.pods(pods.manifest('server', {}, self.node))
            self._die_at(step, lambda: self.lab.kubectl(
                'delete', 'pod', '-n', self.namespace, 'server',
                '--wait=false'))
            self.assertNothingLeft()

    def _die_at(self, step, action):
        """Run the agent until it dies at a step, then start it again."""
        agent = self.node + '/agent'
        self.lab.part('stop', agent)
        self.addCleanup(self.lab.part, 'start', agent)
        self.lab.part('start', agent, '--env',
                      'KURYR_CILIUM_FAULT_POINT=' + step)
        self.lab.wait_agent(self.node)
        action()
        base.wait_until(self._agent_is_dead, 60,
                        'the agent dies at %r' % step)
        self.start(agent)

    def _agent_is_dead(self):
        self.lab.refresh()
        part = self.lab.facts['parts'][self.node + '/agent']
        return part['state'] != 'running'
