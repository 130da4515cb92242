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

from concurrent import futures
import json
import socket

from kuryr_cilium.linux import netns
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
        self.without_dns()
        self.assertNothingLeft()

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
        self.create(pods.policy('deny', {'app': 'closed'},
                                policyTypes=['Ingress']))
        self._on_both_nodes(self._die_plugging, ADD_STEPS)

    def test_killed_at_each_step_of_the_unplug(self):
        self._on_both_nodes(self._die_unplugging, DEL_STEPS)

    def _on_both_nodes(self, work, steps):
        """Go through steps, on one node every other of them."""
        for node in self.lab.nodes:
            self.addCleanup(self.lab.part, 'restart', node + '/agent',
                            '--kill')

        def work_all(number):
            for step in steps[number::2]:
                work(self.lab.nodes[number], step)
        with futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(work_all, (0, 1)))

    def _die_plugging(self, node, step):
        names = ['server-' + node, 'closed-' + node]
        self._die_at(node, step, lambda: self.create(
            pods.manifest(names[0], {}, node),
            pods.manifest(names[1], {'app': 'closed'}, node)))
        # The kubelet tries again at once when a pod was changed.
        self.lab.kubectl('annotate', 'pod', '-n', self.namespace,
                         '--overwrite', *names, 'died-at=' + step)
        self.wait_ready(*names)
        server, closed = map(self.pod, names)
        echoes = [pods.Echo(pod, base.PORT) for pod in (server, closed)]
        self.assertReaches(closed, server)
        self.assertBlocked(server, closed)
        # Through the switch too, from outside the pods' network.
        base.wait_until(lambda: self._reached_from_outside(server), 15,
                        '%s is reached after %r' % (server, step))
        self.assertFalse(self._reached_from_outside(closed), step)
        for echo in echoes:
            echo.stop()
        self.delete('pod', *names)
        self.assertNothingLeft(node)

    def _die_unplugging(self, node, step):
        name = 'server-' + node
        self.pods(pods.manifest(name, {}, node))
        self._die_at(node, step, lambda: self.delete('pod', name))
        self.assertNothingLeft(node)

    def _reached_from_outside(self, pod):
        with netns.run(self.lab.netns(), socket.socket) as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex((pod.ip4, base.PORT)) == 0

    def _die_at(self, node, step, action):
        """Run an agent so that it dies at a step; then without that.

        Whenever it has died it is started again, to die again at once.
        """
        agent = node + '/agent'
        self.lab.part('restart', agent, '--kill', '--env',
                      'KURYR_CILIUM_FAULT_POINT=' + step)
        self.lab.wait_agent(node)
        pid = self.lab.agent_pid(node)
        action()
        base.wait_until(
            lambda: self.lab.agent_pid(node) not in (None, pid), 60,
            'the agent dies at %r' % step)
        self.lab.part('restart', agent, '--kill')
        self.lab.wait_agent(node)
