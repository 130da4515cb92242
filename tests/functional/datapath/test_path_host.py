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

"""The node and its pods: probes, what it forwards, what it is sent."""

import subprocess

from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import packets as p
from tests.functional.datapath import paths
from tests.functional.datapath import scene
from tests.functional.datapath import wire

FAMILIES = (4, 6)


class TestNode(paths.PathCase):
    """The node and its pods, as agent/pod.py connects them."""

    def setUp(self):
        super().setUp()
        for family, address in (('-4', self.scene.node.v4),
                                ('-6', self.scene.node.v6)):
            self.in_node('ip', family, 'addr', 'add', address, 'dev', 'lo')
        self.join()
        self.isolated = {
            'a_in': paths.nothing(model.Direction.INGRESS),
            'a_out': paths.nothing(model.Direction.EGRESS)}

    def test_probes_of_an_isolated_pod_without_a_switch(self):
        self.apply(**self.isolated)
        self.scene._ip(self.scene.switch, 'link', 'set', 'br0', 'down')
        node = self.scene.node
        for version in FAMILIES:
            self.assertTrue(self.ping(node, self.a, version))
            with scene.Server(self.a, version, 80):
                with scene.connect(node, version, self.a, 80) as sock:
                    self.assertTrue(scene.answers(sock))
            with scene.Echo(self.a, version, 80), \
                    scene.Stream(node, version, self.a, 80) as stream:
                stream.flows()

    def test_egress_to_the_node_is_judged(self):
        node = self.scene.node
        for version in FAMILIES:
            self.apply()
            self.assertTrue(self.ping(self.a, node, version))
            with scene.Server(node, version, 80), \
                    scene.connect(self.a, version, node, 80) as sock:
                self.assertTrue(scene.answers(sock))
                self.apply(**self.isolated)
                self.assertFalse(scene.answers(sock, timeout=0.3))
            self.assertFalse(self.ping(self.a, node, version, '-c', '1',
                                       '-W', '1'))
            self.assertRaises(TimeoutError, scene.connect, self.a, version,
                              node, 80, 0.5)

    def test_the_stack_gets_nothing_but_what_is_the_nodes(self):
        """A frame to kc's own MAC with a peer's address takes the switch."""
        self.apply()
        raw = wire.Sender(self.a)
        self.addCleanup(raw.close)
        for setting in ('net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'
                        ):
            self.in_node('sysctl', '-qw', setting + '=1')
        good, evil = b'to-the-node-77', b'by-the-node-77'
        mac = self.mac_of(self.a.kc)
        with scene.Echo(self.scene.node, 4, 9) as echo, \
                wire.Capture(self.b, wanted=lambda frame: evil in frame) \
                as capture:
            raw.send(p.frame(self.a.mac, mac, p.ip(
                self.a.v4, self.b.v4, p.UDP, p.udp(1, 2, evil))))
            raw.send(p.frame(self.a.mac, mac, p.ip(
                self.a.v4, self.scene.node.v4, p.UDP, p.udp(1, 9, good))))
            base.wait_until(lambda: echo.received, 10)
        self.assertEqual([], capture.frames)

    def test_forwarded(self):
        """By its source; under the node's own address as the world."""
        self.client = scene.Place(self.scene.node.name[:-4] + 'c',
                                  ('198.51.100.2', '2001:db8:1::2'))
        scene.run('ip', 'netns', 'add', self.client.name)
        self.addCleanup(scene.run, 'ip', 'netns', 'del', self.client.name)
        self.in_node('ip', 'link', 'add', 'c0', 'type', 'veth', 'peer',
                     'name', 'eth0', 'netns', self.client.name)
        for address, gateway in ((self.client.v4 + '/24', '198.51.100.1'),
                                 (self.client.v6 + '/64', '2001:db8:1::1')):
            size = address.split('/')[1]
            self.in_node('ip', 'addr', 'add', gateway + '/' + size, 'dev',
                         'c0', *(['nodad'] if ':' in gateway else []))
            self.scene._ip(self.client, 'addr', 'add', address, 'dev',
                           'eth0', *(['nodad'] if ':' in gateway else []))
        self.in_node('ip', 'link', 'set', 'c0', 'up')
        self.scene._ip(self.client, 'link', 'set', 'eth0', 'up')
        self.forward()
        for version, gateway in ((4, '198.51.100.1'), (6, '2001:db8:1::1')):
            self.scene._ip(self.client, 'route', 'add',
                           self.a.address(version), 'via', gateway)
        for masquerade in (False, True):
            if masquerade:
                self.masquerade()
            for version in FAMILIES:
                self.apply()
                with scene.Server(self.a, version, 80):
                    with scene.connect(self.client, version, self.a,
                                       80) as sock:
                        self.assertTrue(scene.answers(sock))
                        source = self.scene.node.address(version) \
                            if masquerade else self.client.address(version)
                        self.assertEqual(source, self.seen(version))
                        self.apply(**self.isolated)
                        self.assertFalse(scene.answers(sock, timeout=0.3))
                    self.assertRaises(
                        TimeoutError, scene.connect, self.client, version,
                        self.a, 80, 0.5)
                    # The node itself goes on.
                    with scene.connect(self.scene.node, version, self.a,
                                       80) as sock:
                        self.assertTrue(scene.answers(sock))

    def seen(self, version):
        """The peer of the pod's only connection."""
        found = subprocess.run(
            ['nsenter', '--net=' + self.a.path, 'ss', '-Htn', '-%d' % version,
             'state', 'established', 'sport = :80'], capture_output=True,
            text=True).stdout.split()[-1]
        return found.rsplit(':', 1)[0].strip('[]')

    def masquerade(self):
        node = self.scene.node
        self.in_node('nft', '''
            table inet nat {
                chain post {
                    type nat hook postrouting priority 100;
                    iifname c0 ip saddr %s snat ip to %s
                    iifname c0 ip6 saddr %s snat ip6 to %s
                }
            }''' % (self.client.v4, node.v4, self.client.v6, node.v6))
