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
"""Where the node's cgroup is."""

from kuryr_cilium.datapath.bpf import cgroups
from tests import base

V1 = '32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n'
V2 = '41 31 0:38 %s %s rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n'


class TestFindRoot(base.TestCase):

    def test_nothing_but_version_1(self):
        self.assertIsNone(cgroups.find_root(''))
        self.assertIsNone(cgroups.find_root(V1))

    def test_beside_version_1(self):
        self.assertEqual('/sys/fs/cgroup/unified', cgroups.find_root(
            V1 + V2 % ('/', '/sys/fs/cgroup/unified')))

    def test_alone(self):
        self.assertEqual('/sys/fs/cgroup', cgroups.find_root(
            V2 % ('/', '/sys/fs/cgroup')))

    def test_a_part_of_it_is_not_the_root(self):
        self.assertEqual('/host', cgroups.find_root(
            V2 % ('/kubepods/pod1', '/sys/fs/cgroup') + V2 % ('/', '/host')))
        self.assertIsNone(cgroups.find_root(
            V2 % ('/kubepods/pod1', '/sys/fs/cgroup')))
