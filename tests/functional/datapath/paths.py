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

"""Two pods of a node that are judged, and a stranger."""

import contextlib
import subprocess

from testtools import content

from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import scene

FAMILIES = (4, 6)


def nothing(direction):
    """The ruleset of an isolated pod without a rule."""
    return model.RuleSet('nothing-' + direction.value, direction, ())


class PathCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.scene = self.useFixture(scene.Scene())
        self.a, self.b = self.scene.pods
        self.stranger = self.scene.stranger
        self.prepare()
        self.driver = self.scene.driver()
        self.scene.attach(self.driver, self.a, self.b)
        self.addOnException(self._tell)

    def _tell(self, exc_info):
        """Add to a failure what the programs have dropped so far."""
        with contextlib.suppress(exceptions.DatapathError):
            self.addDetail('drops', content.text_content(str({
                reason: count for reason, count
                in self.driver.drops().items() if count})))

    def prepare(self):
        """What there is on the node before its driver starts."""

    def restart(self):
        """The agent ends, and another one begins."""
        self.driver.stop()
        self.driver = self.scene.driver()
        for pod in self.scene.pods:
            self.assertTrue(self.scene.node.run(self.driver.adopt,
                                                pod.attachment))

    def in_node(self, *command):
        return scene.run('nsenter', '--net=' + self.scene.node.path,
                         *command)

    def mac_of(self, device):
        return self.in_node('ip', '-o', 'link', 'show', device).split(
            'link/ether ')[1].split()[0]

    def join(self):
        """Connect the node and its pods, as agent/pod.py does."""
        for pod in self.scene.pods:
            kc_mac = self.mac_of(pod.kc)
            for version in FAMILIES:
                node = self.scene.node.address(version)
                self.in_node('ip', 'neigh', 'replace', pod.address(version),
                             'lladdr', pod.mac, 'dev', pod.kc, 'nud',
                             'permanent')
                self.in_node('ip', 'route', 'replace', pod.address(version),
                             'dev', pod.kc, 'src', node)
                self.scene._ip(pod, 'neigh', 'replace', node, 'lladdr',
                               kc_mac, 'dev', 'eth0', 'nud', 'permanent')
                self.scene._ip(pod, 'route', 'replace', node, 'dev', 'eth0')

    def forward(self):
        """Let the node forward, and pods answer by a gateway."""
        for version, gateway, setting in (
                (4, '10.50.0.254', 'net.ipv4.ip_forward'),
                (6, 'fd50::fffe', 'net.ipv6.conf.all.forwarding')):
            self.in_node('sysctl', '-qw', setting + '=1')
            for pod in self.scene.pods:
                self.scene._ip(pod, 'neigh', 'replace', gateway, 'lladdr',
                               '02:00:00:00:00:fe', 'dev', 'eth0', 'nud',
                               'permanent')
                self.scene._ip(pod, '-%d' % version, 'route', 'replace',
                               'default', 'via', gateway)

    def apply(self, fastpath=False, **rules):
        """Have pods judged: a_in, a_out, b_in, b_out; all else is allowed."""
        rulesets = [rule for rule in rules.values()
                    if isinstance(rule, model.RuleSet)]

        def endpoint(pod, name):
            return pod.endpoint(*(
                getattr(rule, 'id', rule) for rule in (
                    rules.get(name + '_in', model.ALLOW_ALL),
                    rules.get(name + '_out', model.ALLOW_ALL))), fastpath)

        self.driver.apply(scene.view(
            (endpoint(self.a, 'a'), endpoint(self.b, 'b')), rulesets))
        for pod in self.scene.pods:
            self.driver.activate(pod.attachment.vif_id)

    def ways(self):
        """From a by the switch, by the local hop, and to a stranger.

        :returns: pairs of a target and a version, each while it is so.
        """
        for fastpath in (False, True):
            self.apply(fastpath)
            for version in FAMILIES:
                yield self.b, version
        for version in FAMILIES:
            yield self.stranger, version

    def ping(self, source, target, version, *options):
        done = subprocess.run(
            ['nsenter', '--net=' + source.path, 'ping', '-c', '2', '-i',
             '0.2', '-W', '3', *options, target.address(version)],
            capture_output=True, text=True)
        return done.returncode == 0
