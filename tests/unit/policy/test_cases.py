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

"""Cases in which the oracle and what was compiled once differed.

Each file of ``cases`` is run with all its packets: the oracle, the tables
read in Python, and the planner's maps in memory, in the middle of changes
too. ``tox -e differential`` saves a case there when it finds one.
"""

import os

from tests import base
from tests.differential import cases
from tests.differential import check
from tests.differential import search
from tests.differential import simulated
from tests.unit.policy import strategies_worlds

FOLDER = os.path.join(os.path.dirname(__file__), 'cases')


class TestCases(base.TestCase):

    def test_saved(self):
        for name in sorted(os.listdir(FOLDER)):
            if not name.endswith('.json'):
                continue
            with open(os.path.join(FOLDER, name)) as stream:
                case = cases.loads(stream.read())
            nodes = {host: simulated.Node(own)
                     for host, own in search.OWN.items()}
            with self.subTest(case=name):
                check.Check(strategies_worlds.HOSTS, nodes,
                            between=20).run(case)

    def test_json_there_and_back(self):
        case = cases.Case([('Node', {'metadata': {'name': 'n'}})],
                          [('Node', 'n', None)])
        self.assertEqual(case, cases.loads(case.dumps()))
