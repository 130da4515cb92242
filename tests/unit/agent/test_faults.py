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

import os
import subprocess
import sys

from tests import base


class TestPoint(base.TestCase):

    def call(self, value):
        return subprocess.run(
            [sys.executable, '-c', 'from kuryr_cilium.agent import faults; '
             'faults.point("a")'],
            env=dict(os.environ, KURYR_CILIUM_FAULT_POINT=value)).returncode

    def test_dies_at_its_name_only(self):
        self.assertEqual(-9, self.call('a'))
        self.assertEqual(0, self.call('ab'))
        self.assertEqual(0, self.call(''))
