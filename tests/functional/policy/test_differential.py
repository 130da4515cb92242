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

"""The oracle, the tables and the loaded programs, in random clusters.

More of it: ``tox -e differential -- --seed S --decisions N``.
"""

from tests import base
from tests.differential import kernel
from tests.differential import search


class TestDifferential(base.TestCase):

    def test_verdicts_are_the_oracles(self):
        with kernel.nodes(search.OWN) as (place, nodes):
            running = search.policies(20, 20000, nodes)
            place.call(running.run)
        self.assertEqual(20000, running.count.decisions)
        self.assertLess(0, running.count.between)
