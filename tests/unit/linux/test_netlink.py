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

from hypothesis import given
from hypothesis import strategies

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from tests import base


class TestCheckName(base.TestCase):

    def test_good(self):
        for name in ('eth0', 'tap12345678-90', 'a' * 15, 'eth0.5', '..a'):
            self.assertEqual(name, netlink.check_name(name))

    def test_bad(self):
        for name in ('', '.', '..', 'a/b', '../../x', 'a b', 'a\n', 'a:1',
                     'a' * 16, '\u00e9' * 8):
            self.assertRaises(exceptions.LinkError, netlink.check_name, name)

    @given(strategies.text())
    def test_never_a_path(self, name):
        try:
            netlink.check_name(name)
        except exceptions.LinkError:
            return
        self.assertNotIn('/', name)
        self.assertLess(len(name.encode()), 16)
