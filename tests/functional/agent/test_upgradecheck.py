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

"""The checks of a node that ask the kernel: in a namespace of their own."""

import pathlib

import fixtures
from oslo_config import cfg

from kuryr_cilium.agent import store
from kuryr_cilium.agent import upgradecheck
from kuryr_cilium.conf import agent as agent_conf
from kuryr_cilium.conf import services as services_conf
from kuryr_cilium.linux import netlink
from tests import base
from tests.functional.binding import fixtures as binding_fixtures
from tests.unit.agent import samples

run = binding_fixtures.run
V4, V6 = '10.99.0.0/16', 'fd99::/64'


class TestChecks(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(binding_fixtures.Node())
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.configure()
        with netlink.Netlink() as net:
            net.add_veth('kca0', 'kca1', 1400)
            for name in ('kca0', 'kca1'):
                net.set_up(name)
            net.add_address('kca0', '192.0.2.7', 24)
            net.add_address('kca0', 'fd01::7', 64)

    def configure(self, node_ips='192.0.2.7,fd01::7', **options):
        """Options of [services], of node_ips."""
        file = self.path / 'agent.conf'
        file.write_text('\n'.join((
            '[agent]', 'state_dir = %s' % self.path,
            'node_ips = ' + node_ips, '[services]',
            *('%s = %s' % option for option in options.items()))))
        self.conf = cfg.ConfigOpts()
        for module in (agent_conf, services_conf):
            module.register_opts(self.conf)
        self.conf(['--config-file', str(file)])

    def check(self, name):
        result = getattr(upgradecheck.Checks(self.conf), 'check_' + name)()
        return result.code, result.details

    def sysctl(self, name, value):
        pathlib.Path('/proc/sys', *name.split('.')).write_text(value)

    def test_routes(self):
        code, text = self.check('routes')
        self.assertEqual(0, code)
        self.assertIn('no pod is on this node yet', text)
        store.Store(self.path / 'endpoints').put(samples.record())
        (self.path / 'endpoints' / 'broken.json').write_text('{')
        for setup, missing in (
                ((), (V4, V6)),
                (('-4', V4, 'via', '192.0.2.1'), (V6,)),
                (('-6', 'unreachable', V6), (V6,)),
                (('-6', V6, 'via', 'fd01::1', 'metric', '9'), ()),
                (('-4', 'blackhole', V4), (V4,))):
            if setup:
                run('ip', setup[0], 'route', 'replace', *setup[1:])
            code, text = self.check('routes')
            self.assertEqual(1 if missing else 0, code, (setup, text))
            self.assertEqual([subnet in missing for subnet in (V4, V6)],
                             ['ip route add ' + subnet in text
                              for subnet in (V4, V6)])
            if not missing:
                self.assertIn('10.99.0.0/16 via 192.0.2.1 dev kca0', text)
                self.assertIn('fd99::/64 via fd01::1 dev kca0', text)

    def test_a_default_route_is_told(self):
        store.Store(self.path / 'endpoints').put(samples.record())
        run('ip', 'route', 'add', 'default', 'via', '192.0.2.9')
        run('ip', '-6', 'route', 'add', 'default', 'via', 'fd01::9')
        code, text = self.check('routes')
        self.assertEqual(0, code)
        self.assertIn('10.99.0.0/16 via 192.0.2.9 dev kca0', text)

    def test_forwarding(self):
        names = 'net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'
        for values, wrong in (('00', names), ('10', names[1:]),
                              ('01', names[:1]), ('11', ())):
            for name, value in zip(names, values):
                self.sysctl(name, value)
            code, text = self.check('forwarding')
            self.assertEqual(1 if wrong else 0, code)
            if wrong:
                self.assertIn('sysctl -w ' + ' '.join(
                    name + '=1' for name in wrong), text)
        self.sysctl('net.ipv6.conf.all.forwarding', '0')
        self.configure(node_ips='192.0.2.7')
        self.assertEqual(0, self.check('forwarding')[0])
        self.sysctl('net.ipv4.ip_forward', '0')
        for option in ('replace_kube_proxy', 'enabled'):
            self.configure(**{option: False})
            self.assertEqual(0, self.check('forwarding')[0])

    def test_ports_that_are_used_twice(self):
        for name in ('net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'):
            self.sysctl(name, '1')
        for ports, code in (('32768 60999', 0), ('1024 65535', 1),
                            ('1024 61000', 1)):
            self.sysctl('net.ipv4.ip_local_port_range', ports)
            found, text = self.check('forwarding')
            self.assertEqual(code, found)
            if code:
                self.assertIn('source_ports', text)

    def test_cgroup(self):
        mounts = self.path / 'mountinfo'
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.upgradecheck.MOUNTS', mounts))
        root = '22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n'
        mounts.write_text(root + '30 22 0:26 / %s rw - cgroup2 none rw\n'
                          % self.path)
        self.assertEqual((0, None), self.check('cgroup'))
        self.configure(cgroup_dir=self.path)
        self.assertEqual((0, None), self.check('cgroup'))
        for folder in (str(self.path / 'none'), '/tmp'):
            self.configure(cgroup_dir=folder)
            code, text = self.check('cgroup')
            self.assertEqual(2, code)
            self.assertIn(folder, text)
        self.configure()
        mounts.write_text(root)
        code, text = self.check('cgroup')
        self.assertEqual(2, code)
        self.assertIn('mount -t cgroup2', text)
        self.configure(replace_kube_proxy=False)
        self.assertEqual(0, self.check('cgroup')[0])

    def test_cgroup_of_this_machine(self):
        self.assertEqual((0, None), self.check('cgroup'))
