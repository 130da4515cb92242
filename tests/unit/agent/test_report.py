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

import fixtures

from kuryr_cilium.agent import report
from kuryr_cilium import exceptions
from tests import base
from tests.unit.agent import samples

OTHER = '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'


class Leader:

    def __init__(self):
        self.reports = []
        self.error = None
        self.refused = 0

    def plugged(self, host, vifs):
        self._take('plugged', host, sorted(vifs))

    def released(self, host, vifs):
        self._take('released', host, vifs)

    def _take(self, *what):
        if self.error is not None:
            self.refused += 1
            raise self.error
        self.reports.append(what)


class TestReporter(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.report.BACKOFF', (0.01, 0.05)))
        self.leader = Leader()
        self.plugged = {samples.VIF}
        self.held = set()
        self.reporter = self.make()

    def make(self, interval=600.0):
        reporter = report.Reporter(
            'node-1', self.leader, lambda: self.plugged,
            lambda vif_id: vif_id in self.held, interval)
        self.addCleanup(reporter.stop)
        return reporter

    def reports(self, count):
        base.wait_until(lambda: len(self.leader.reports) >= count, 5,
                        '%d reports' % count)
        return self.leader.reports

    def test_begins_with_what_is_plugged(self):
        self.reporter.released(samples.record(vif_id=OTHER))
        self.reporter.start()
        self.assertEqual([
            ('plugged', 'node-1', [samples.VIF]),
            ('released', 'node-1', [
                {'vif_id': OTHER, 'pod_uid': samples.UID}])],
            self.reports(2))
        base.wait_until(lambda: self.reporter.waiting() == 0)
        base.wait_until(lambda: self.reporter.check() is None)

    def test_is_sent_again_until_it_is_taken(self):
        self.leader.error = exceptions.RPCFailed(
            method='released', topic='t', reason='nobody')
        self.reporter.start()
        self.reporter.released(samples.record(vif_id=OTHER))
        base.wait_until(lambda: self.leader.refused >= 3)
        self.assertEqual(1, self.reporter.waiting())
        self.assertIn('nobody', self.reporter.check())
        self.leader.error = None
        self.assertEqual(['plugged', 'released'],
                         [what[0] for what in self.reports(2)])

    def test_the_list_is_repeated(self):
        self.reporter = self.make(0.02)
        self.reporter.start()
        self.plugged = {OTHER}
        base.wait_until(lambda: ('plugged', 'node-1', [OTHER])
                        in self.leader.reports)

    def test_a_new_leader_is_sent_the_list_at_once(self):
        self.reporter.start()
        self.reports(1)
        self.reporter.list_soon()
        self.assertEqual(['plugged'] * 2,
                         [what[0] for what in self.reports(2)])

    def test_a_port_that_is_plugged_again_is_not_released(self):
        self.held = {OTHER}
        self.reporter.released(samples.record(vif_id=OTHER))
        self.reporter.start()
        self.reports(1)
        base.wait_until(lambda: self.reporter.waiting() == 0)
        self.assertEqual(['plugged'], [what[0] for what
                                       in self.leader.reports])

    def test_a_fault_does_not_end_it(self):
        self.leader.error = ZeroDivisionError('a fault')
        self.reporter.start()
        base.wait_until(lambda: self.leader.refused >= 2)
        self.assertTrue(self.reporter.is_alive())
        self.leader.error = None
        self.reports(1)
