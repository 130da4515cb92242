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

"""Work in another network namespace."""

import os
import threading

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import netns
from tests import base
from tests.functional.binding import fixtures


def inode():
    return os.stat('/proc/thread-self/ns/net').st_ino


class TestRun(base.TestCase):

    def setUp(self):
        super().setUp()
        self.pod = self.useFixture(fixtures.Namespace())

    def test_runs_inside_and_comes_back(self):
        home = inode()
        self.assertEqual(os.stat(self.pod.path).st_ino,
                         netns.run(self.pod.path, inode))
        self.assertEqual(home, inode())
        seen = []
        thread = threading.Thread(target=lambda: seen.append(inode()))
        thread.start()
        thread.join()
        self.assertEqual([home], seen)

    def test_netlink_is_inside(self):
        def names():
            with netlink.Netlink() as net:
                return net.names()
        self.assertEqual(['lo'], netns.run(self.pod.path, names))

    def test_raises_what_the_function_raises(self):
        self.assertRaises(KeyError, netns.run, self.pod.path, {}.__getitem__,
                          'x')

    def test_gone(self):
        self.assertTrue(netns.exists(self.pod.path))
        self.pod.remove()
        self.assertFalse(netns.exists(self.pod.path))
        error = self.assertRaises(exceptions.NetnsGone, netns.run,
                                  self.pod.path, inode)
        self.assertIn(self.pod.path, str(error))

    def test_not_a_network_namespace(self):
        # What is left where a namespace was bind-mounted is an empty file.
        empty = os.path.join(self.useFixture(
            fixtures.fixtures.TempDir()).path, 'ns')
        with open(empty, 'w'):
            pass
        for path in (empty, '/proc/self/ns/uts', '/proc'):
            self.assertFalse(netns.exists(path), path)
