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

"""A few hundred of the objects that ``tox -e fuzz`` makes."""

from tests import base
from tests.fuzz import policy


class TestFuzz(base.TestCase):

    def test_policies(self):
        for number in range(600):
            policy.check(*policy.example('unit', number))

    def test_half_is_broken_and_each_kind_is_made(self):
        examples = [policy.example('unit', number) for number in range(200)]
        self.assertEqual(set(policy.KINDS), {kind for kind, _, _ in examples})
        self.assertTrue(any(valid for _, _, valid in examples))
