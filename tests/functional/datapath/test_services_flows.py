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

"""The proof of services in small, cases that once differed, and mutants.

``tox -e differential -- --services`` is the whole of it, and saves a case in
``cases`` when it finds one.
"""

import dataclasses
import os
from unittest import mock

from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import plan
from tests import base
from tests.differential import services as differential
from tests.unit.lb import oracle
from tests.unit.lb import test_services as samples

FOLDER = os.path.join(os.path.dirname(__file__), 'cases')
DECISIONS = 8000

HERE, THERE = {'nodeName': 'node-a'}, {'nodeName': 'node-b'}


def case(*states):
    """A case of (service, slices), each with the agent that was there."""
    return differential.Case([([service], list(slices), False)
                              for service, slices in states])


class TestFlows(base.TestCase):

    def test_random_services(self):
        running = differential.find(1, DECISIONS)
        running.run()
        self.assertEqual(DECISIONS, running.count.decisions)
        self.assertLess(0, running.count.between)

    def test_saved(self):
        for name in sorted(os.listdir(FOLDER)):
            if name.endswith('.json'):
                with open(os.path.join(FOLDER, name)) as stream:
                    found = differential.loads(stream.read())
                with self.subTest(case=name):
                    differential.check(found)

    def test_json_there_and_back(self):
        found = case((samples.service(), [samples.piece('10.0.0.2')]))
        self.assertEqual(found, differential.loads(found.dumps()))


class TestMutants(base.TestCase):
    """Whatever is broken on either side is noticed."""

    CASE = case(
        (samples.service(sessionAffinity='ClientIP'),
         [samples.piece('10.0.0.2', **HERE)]),
        (samples.service(sessionAffinity='ClientIP'),
         [samples.piece('10.0.0.3', number=1, **THERE)]),
        (samples.service(internalTrafficPolicy='Local'),
         [samples.piece('10.0.0.2', **HERE),
          samples.piece('10.0.0.3', number=1, **THERE)]))

    def assertNoticed(self, **more):
        self.assertRaises(differential.Difference, differential.check,
                          self.CASE, **more)

    def test_nothing_broken(self):
        differential.check(self.CASE)

    def test_traffic_policy_forgotten(self):
        right = frontends.frontends
        with mock.patch.object(
                frontends, 'frontends', lambda service, *where: right(
                    dataclasses.replace(service, internal_local=False),
                    *where)):
            self.assertNoticed()

    def test_row_that_is_not_turned(self):
        right = plan.Table.update

        def update(table, changed):
            planned = right(table, changed)
            if table.rows and len(planned.addresses) == 1:
                planned.addresses.clear()
            return planned

        with mock.patch.object(plan.Table, 'update', update):
            self.assertNoticed()

    def test_affinity_that_outlives_its_backend(self):
        with mock.patch.object(services.Services, '_forget',
                               lambda made, targets: None):
            self.assertNoticed()

    def test_backends_written_after_the_row(self):
        right = services.Services._write

        def write(made, table, rows):
            late = [row for row in rows if table == services.BACKENDS
                    and made.after is not None]
            if late:
                made.late = late
                return
            right(made, table, rows)
            if table == services.ADDRESSES and getattr(made, 'late', None):
                rows, made.late = made.late, None
                right(made, services.BACKENDS, rows)

        with mock.patch.object(services.Services, '_write', write):
            self.assertNoticed()

    def test_oracle_that_knows_of_no_service(self):
        class Wrong(oracle.Cluster):

            def ask(self, address, port, protocol):
                return None

        self.assertNoticed(truth=Wrong)
