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

"""What the node itself sends to its pods, and what it merely forwards."""

import socket
import time

from kuryr_cilium.linux import netns
from tests.e2e import base
from tests.e2e import lab as e2e_lab
from tests.e2e import pods

PROBES = {
    'http': {'httpGet': {'path': '/healthz', 'port': 8080}},
    'tcp': {'tcpSocket': {'port': 8080}},
    'exec': {'exec': {'command': ['true']}},
}
#: Seconds for which the probes are watched.
WATCHED = 8.0
NODE_PORT = 30080
TABLE = 'kuryr-cilium-e2e'


def probed(name, probe, node):
    """A pod that is restarted at the first probe that fails."""
    common = {'periodSeconds': 1, 'failureThreshold': 2, 'timeoutSeconds': 2,
              **PROBES[probe]}
    return pods.manifest(
        name, {'app': 'probed'}, node, ('netexec', '--http-port=8080'),
        readinessProbe=common, livenessProbe=common,
        startupProbe={**common, 'failureThreshold': 30})


class TestProbes(base.TestCase):

    def isolate(self):
        self.create(pods.policy('isolate', {'app': 'probed'},
                                policyTypes=['Ingress', 'Egress']))

    def assertGreen(self, *names):
        """For a while all pods are ready and none is restarted."""
        deadline = time.monotonic() + WATCHED
        while time.monotonic() < deadline:
            for name in names:
                self.assertTrue(self.is_ready(name), name)
        for name in names:
            status, = self.get_pod(name)['status']['containerStatuses']
            self.assertEqual(0, status['restartCount'], name)

    def test_green_on_an_isolated_pod_and_without_vswitchd(self):
        self.isolate()
        found = self.pods(*(probed(name, name, self.node)
                            for name in PROBES))
        stranger, = self.pods(pods.manifest('stranger', {}, self.node))
        self.assertBlocked(stranger, found[0], 8080, ('tcp',))
        self.assertGreen(*PROBES)
        self.stop(self.node + '/vswitchd', '--kill')
        # What the kernel has learned of neighbours must not be needed.
        for pod in found:
            netns.run(pod.netns, e2e_lab.run, 'ip', 'neigh', 'flush', 'all')
        self.assertGreen(*PROBES)
        self.start(self.node + '/vswitchd')

    def test_a_masqueraded_client_is_not_the_node(self):
        server, = self.pods(pods.manifest(
            'server', {'app': 'probed'}, self.node,
            ('netexec', '--http-port=8080')))
        self.addCleanup(self.lab.on_node, self.node, 'nft', 'delete',
                        'table', 'inet', TABLE, check=False)
        for version in (4, 6):
            self._node_port(server, version)
            base.wait_until(lambda: self._client_reaches(version), 10,
                            'IPv%d: a client reaches the node port of a '
                            'pod without policy' % version)
        self.isolate()
        self.assertBlocked(*self.pods(pods.manifest('other', {}, self.node)),
                           server, 8080, ('tcp',))
        for version in (4, 6):
            self._node_port(server, version)
            self.assertFalse(self._client_reaches(version))
            self.assertFalse(self._client_reaches(version))
            # The node itself does reach it.
            self.assertTrue(self._connects(
                self.lab.netns(self.node), server.address(version), 8080))

    def _node_port(self, pod, version):
        """What kube-proxy does for a NodePort service."""
        family = 'ip' if version == 4 else 'ip6'
        rules = '''
            table inet %(table)s
            delete table inet %(table)s
            table inet %(table)s {
                chain before {
                    type nat hook prerouting priority -100;
                    tcp dport %(port)d dnat %(family)s to %(target)s
                }
                chain after {
                    type nat hook postrouting priority 100;
                    %(family)s daddr %(address)s tcp dport 8080 masquerade
                }
            }''' % {
            'table': TABLE, 'port': NODE_PORT, 'family': family,
            'address': pod.address(version),
            'target': '%s:8080' % pod.ip4 if version == 4
            else '[%s]:8080' % pod.ip6}
        netns.run(self.lab.netns(self.node), self._load, rules)

    def _load(self, rules):
        e2e_lab.run('nft', '-f', '-', stdin=rules)

    def _client_reaches(self, version):
        node = self.lab.facts['nodes'][self.node]
        return self._connects(
            self.lab.netns(),
            node['address' if version == 4 else 'address6'], NODE_PORT)

    def _connects(self, path, address, port):
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        with netns.run(path, socket.socket, family,
                       socket.SOCK_STREAM) as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex((address, port)) == 0
