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

import pathlib

import fixtures
from oslo_config import cfg

from kuryr_cilium.agent import store
from kuryr_cilium.agent import upgradecheck
from kuryr_cilium.conf import agent as agent_conf
from kuryr_cilium.conf import binding as binding_conf
from kuryr_cilium.conf import datapath as datapath_conf
from tests import base
from tests.unit.agent import samples

MOUNTS = '''\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /sys rw,nosuid shared:2 - sysfs sysfs rw
24 23 0:30 / /sys/fs/bpf rw shared:3 - tmpfs none rw
25 23 0:31 / /sys/fs/bpf rw shared:4 master:9 - bpf bpf rw,mode=700
26 22 0:33 / /sys/fs/bpfish rw - tmpfs none rw
'''


class TestFileSystem(base.TestCase):

    def test_the_mount_that_counts(self):
        for path, kind in (('/sys/fs/bpf/kuryr-cilium', 'bpf'),
                           ('/sys/fs/bpf', 'bpf'), ('/sys/fs', 'sysfs'),
                           ('/var/x', 'ext4'), ('/sys/fs/bpfish/x', 'tmpfs')):
            self.assertEqual(kind, upgradecheck.file_system(
                pathlib.Path(path), MOUNTS))


class TestChecks(base.TestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.conf = cfg.ConfigOpts()
        for module in (agent_conf, binding_conf, datapath_conf):
            module.register_opts(self.conf)
        self.conf([], default_config_files=[])
        self.conf.set_override('state_dir', str(self.path), 'agent')
        self.conf.set_override('ovsdb_connection',
                               'unix:%s/db.sock' % self.path, 'binding')
        self.checks = upgradecheck.Checks(self.conf)

    def test_state(self):
        store.Store(self.path / 'endpoints').put(samples.record())
        self.assertEqual(0, self.checks.check_state().code)
        (self.path / 'view.json').write_text('{"version": 99}')
        (self.path / 'endpoints' / 'x.json').write_text('{')
        result = self.checks.check_state()
        self.assertEqual(1, result.code)
        self.assertIn('view.json', result.details)
        self.assertIn('x.json', result.details)

    def test_ovsdb_that_is_not_there(self):
        result = self.checks.check_ovsdb()
        self.assertEqual(2, result.code)
        self.assertIn('ovsdb_connection', result.details)

    def test_programs(self):
        self.conf.set_override('object_file', str(self.path / 'x.o'),
                               'datapath')
        self.assertEqual(2, self.checks.check_programs().code)
        (self.path / 'x.o').write_text('')
        self.assertEqual(0, self.checks.check_programs().code)
        self.conf.clear_override('object_file', 'datapath')
        self.conf.set_override('cache_dir', str(self.path), 'datapath')
        (self.path / 'kuryr_cilium.bpf.o').write_text('')
        self.assertEqual(0, self.checks.check_programs().code)
