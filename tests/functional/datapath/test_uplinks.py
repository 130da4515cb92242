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

"""On which devices services are reached, and for how long."""

import logging
import os

import fixtures

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium import exceptions
from tests import base
from tests.functional.datapath import scene


class TestUplinks(base.TestCase):

    def setUp(self):
        super().setUp()
        self.scene = self.useFixture(scene.Scene())
        self.node = self.scene.node
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))
        self.scene.options(uplinks=[])
        for setting in ('net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'
                        ):
            self.ns('sysctl', '-qw', setting + '=1')
        self.ns('sysctl', '-qw', 'net.ipv4.ip_local_port_range=32768 60999')

    def ns(self, *command):
        return scene.run('nsenter', '--net=' + self.node.path, *command)

    def ip(self, *arguments):
        return self.ns('ip', *arguments)

    def add(self, name, *addresses):
        self.ip('link', 'add', name, 'type', 'veth', 'peer', 'name',
                name + 'p')
        for device in (name, name + 'p'):
            self.ip('link', 'set', device, 'up')
        for address in addresses:
            self.ip('addr', 'add', address, 'dev', name,
                    *(['nodad'] if ':' in address else []))

    def links(self):
        """Every pinned link that is on a device."""
        folder = self.scene.conf.datapath.pin_dir + '/uplinks'
        for index in os.listdir(folder):
            for program in os.listdir(os.path.join(folder, index)):
                link = libbpf.obj_get(os.path.join(folder, index, program))
                try:
                    info = libbpf.link_info(link)
                finally:
                    os.close(link)
                if info.ifindex:
                    yield program, info

    def attached(self):
        """Device -> hooks that have a program."""
        names = {int(line.split(':')[0]): line.split(': ')[1].split('@')[0]
                 for line in self.ip('-o', 'link').splitlines()}
        found = {}
        for program, info in self.links():
            self.assertEqual({
                'from_uplink': libbpf.TCX_INGRESS,
                'to_uplink': libbpf.TCX_EGRESS}[program], info.attach_type)
            found.setdefault(names[info.ifindex], set()).add(program)
        for programs in found.values():
            self.assertEqual({'from_uplink', 'to_uplink'}, programs)
        return set(found)

    def programs(self):
        return {info.program for _, info in self.links()}

    def driver(self):
        made = self.scene.driver()
        self.made = made
        return made

    def sweep(self):
        self.node.run(self.made.sweep)

    def test_those_that_lead_out(self):
        self.add('world', '198.51.100.1/24', 'fd60::1/64')
        self.add('routed', '198.51.101.1/24')
        self.add('mine', self.node.v4 + '/24')
        self.add('six', self.node.v6 + '/64')
        self.add('other', '198.51.102.1/24')
        self.ip('route', 'add', 'default', 'via', '198.51.100.2')
        self.ip('route', 'add', '10.99.0.0/16', 'via', '198.51.101.2')
        self.ip('route', 'add', 'blackhole', '10.98.0.0/16')
        self.driver()
        self.assertEqual({'world', 'routed', 'mine', 'six'}, self.attached())
        self.assertEqual('', self.log.output)

    def test_by_several_routers(self):
        self.add('one', '198.51.100.1/24')
        self.add('two', '198.51.101.1/24')
        self.add('three', 'fd60::1/64')
        self.ip('route', 'add', 'default', 'nexthop', 'via', '198.51.100.2',
                'nexthop', 'via', '198.51.101.2')
        self.ip('-6', 'route', 'add', 'default', 'via', 'fe80::1', 'dev',
                'three')
        self.driver()
        self.assertEqual({'one', 'two', 'three'},
                         self.attached())

    def test_those_that_are_named(self):
        self.add('world', self.node.v4 + '/24')
        self.add('named')
        self.scene.options(uplinks=['named', 'absent'])
        self.driver()
        self.assertEqual({'named'}, self.attached())
        self.assertEqual(1, self.log.output.count('no device absent'))
        self.sweep()
        self.assertEqual(1, self.log.output.count('no device absent'))
        self.add('absent')
        self.sweep()
        self.assertEqual({'named', 'absent'},
                         self.attached())

    def test_come_and_go(self):
        self.add('eth.100', self.node.v4 + '/24')
        self.driver()
        self.assertEqual({'eth.100'}, self.attached())
        self.ip('link', 'del', 'eth.100')
        self.sweep()
        self.assertEqual(set(), self.attached())
        self.assertIn('set [services] uplinks', self.log.output)
        self.add('eth.100', self.node.v4 + '/24')
        self.sweep()
        self.assertEqual({'eth.100'}, self.attached())
        self.assertEqual(1, len(self.made._uplinks._links.known()))
        self.ip('addr', 'del', self.node.v4 + '/24', 'dev', 'eth.100')
        self.sweep()
        self.assertEqual(set(), self.attached())

    def test_while_there_is_no_agent(self):
        self.add('mine', self.node.v4 + '/24')
        self.driver().stop()
        self.assertEqual({'mine'}, self.attached())
        programs = self.programs()
        self.driver()
        self.assertEqual({'mine'}, self.attached())
        # The next one's own programs, without a gap.
        self.assertTrue(programs.isdisjoint(self.programs()))

    def test_only_where_kube_proxy_is_replaced(self):
        self.add('mine', self.node.v4 + '/24')
        for option in ('replace_kube_proxy', 'enabled'):
            self.driver().stop()
            self.assertEqual({'mine'}, self.attached())
            self.scene.options(**{option: False})
            self.driver()
            self.sweep()
            self.assertEqual(set(), self.attached())
            self.made.stop()
            self.scene.options(**{option: True})
        self.assertEqual('', self.log.output)

    def test_what_carries_no_frames(self):
        self.ip('tuntap', 'add', 'dev', 'tun0', 'mode', 'tun')
        self.scene.options(uplinks=['tun0'])
        self.driver()
        self.assertEqual(set(), self.attached())
        self.assertIn('tun0: it carries no Ethernet frames', self.log.output)

    def test_what_the_operator_has_to_set(self):
        self.add('mine', self.node.v4 + '/24')
        self.ns('sysctl', '-qw', 'net.ipv4.ip_forward=0')
        self.ns('sysctl', '-qw', 'net.ipv6.conf.all.forwarding=0')
        self.ns('sysctl', '-qw', 'net.ipv4.ip_local_port_range=32768 61000')
        self.driver()
        for text in ('sysctl -w net/ipv4/ip_forward=1',
                     'sysctl -w net/ipv6/conf/all/forwarding=1',
                     'sysctl -w net/ipv4/ip_local_port_range="32768 60999"'):
            self.assertEqual(1, self.log.output.count(text), text)
        self.sweep()
        self.ns('sysctl', '-qw', 'net.ipv4.ip_forward=1')
        self.ns('sysctl', '-qw', 'net.ipv4.conf.mine.forwarding=0')
        self.sweep()
        self.assertIn('sysctl -w net/ipv4/conf/mine/forwarding=1',
                      self.log.output)
        self.assertEqual(4, self.log.output.count('sysctl'))

    def test_ports_that_are_none(self):
        for ports in ('61000-70000', '0-5', '65000-64000'):
            self.scene.options(source_ports=ports)
            error = self.assertRaises(exceptions.DatapathError, self.driver)
            self.assertIn('source_ports', str(error))
