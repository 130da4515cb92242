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
import threading
import time

import fixtures

from kuryr_cilium.agent import sync
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects
from tests import base
from tests.unit.agent import samples

FAILED = exceptions.RPCFailed(method='sync', topic='t', reason='nobody')


class TestViews(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.sync.BACKOFF', (0.01, 0.05)))
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.agent.sync.ASK_AGAIN', 0.05))
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'view.json'
        self.controller = samples.Controller(samples.endpoint())
        self.datapath = samples.Datapath()
        self.resumed = []
        self.epochs = []
        self.views = self.make()

    def make(self, interval=600.0):
        views = sync.Views(
            'node-1', self.controller, self.datapath,
            viewfile.ViewFile(self.path), interval,
            lambda: self.resumed.append(1), lambda: self.epochs.append(1))
        self.addCleanup(views.stop)
        return views

    def applied(self, count):
        base.wait_until(lambda: len(self.datapath.applied) >= count, 5,
                        'view number %d' % count)
        return self.datapath.applied[-1]

    def pulled(self, count=1):
        """Wait until the controller was asked so often from now on."""
        seen = self.controller.calls
        base.wait_until(lambda: self.controller.calls >= seen + count, 5,
                        'a pull')

    def wait_endpoint(self, seconds=5.0, vif_id=samples.VIF):
        self.views.wait_endpoint(samples.UID, vif_id,
                                 time.monotonic() + seconds)

    def test_the_first_view(self):
        self.views.start()
        self.wait_endpoint()
        self.assertEqual({samples.UID: samples.endpoint()},
                         self.views.current.endpoints)
        self.assertEqual([self.views.current], self.datapath.applied)
        self.assertEqual([1], self.resumed)
        self.assertIsNone(self.views.trouble())
        self.assertTrue(self.views.confirmed())
        base.wait_until(self.path.exists, 5, 'the view on disk')

    def test_only_changes_are_applied(self):
        self.views.start()
        self.applied(1)
        self.views.pull_soon()
        self.pulled()
        self.views.pull_soon()
        self.pulled()
        self.assertEqual(1, len(self.datapath.applied))

    def test_hints(self):
        self.views.start()
        self.wait_endpoint()
        held = self.controller.digests()
        calls = self.controller.calls
        for useless in (held, {'selector:other': 'x'},
                        {'selector:other': None}, {'endpoint:other': None},
                        {}):
            self.views.hint(1, useless)
        self.views.hint(0, {'endpoint:new': 'x'})
        self.controller.put(samples.endpoint('new', name='new'))
        self.views.hint(1, {'endpoint:new': 'x'})
        self.assertEqual({'new', samples.UID},
                         self.applied(2).endpoints.keys())
        self.assertEqual(calls + 1, self.controller.calls)

    def test_a_change_that_is_undone_while_it_comes_into_force(self):
        self.views.start()
        self.wait_endpoint()
        other, apply = samples.endpoint('new', name='new'), self.datapath.apply

        def undo(view):
            self.datapath.apply = apply
            self.controller.remove(other)
            # That is what this node holds until the view is in force.
            self.views.hint(1, {'endpoint:new': None})
            return apply(view)

        self.datapath.apply = undo
        self.controller.put(other)
        self.views.hint(1, {'endpoint:new': 'x'})
        self.assertEqual({samples.UID}, self.applied(3).endpoints.keys())

    def test_removal(self):
        self.views.start()
        self.wait_endpoint()
        self.controller.remove(samples.endpoint())
        self.views.hint(1, {'endpoint:' + samples.UID: None})
        self.assertEqual({}, self.applied(2).endpoints)

    def test_an_unsynced_answer_changes_nothing(self):
        self.views.start()
        self.wait_endpoint()
        self.controller.synced = False
        self.controller.remove(samples.endpoint())
        self.views.pull_soon()
        self.pulled(3)
        self.assertEqual(1, len(self.datapath.applied))
        self.assertIn('has not listed', self.views.trouble())
        self.controller.synced = True
        self.assertEqual({}, self.applied(2).endpoints)
        base.wait_until(lambda: self.views.trouble() is None)

    def test_a_lower_epoch_is_ignored(self):
        self.controller.epoch = 7
        self.views.start()
        self.wait_endpoint()
        self.controller.epoch = 6
        self.controller.put(samples.endpoint('old'))
        self.views.pull_soon()
        self.pulled(3)
        self.assertEqual(1, len(self.datapath.applied))
        self.assertIn('epoch 6', self.views.trouble())
        self.controller.epoch = 8
        self.assertEqual(8, self.applied(2).epoch)

    def test_a_new_leader_is_noticed_by_its_hints(self):
        self.views.start()
        self.wait_endpoint()
        base.wait_until(lambda: self.epochs == [1])
        self.controller.epoch = 2
        self.views.hint(2, {'selector:other': 'x'})
        self.assertEqual(2, self.applied(2).epoch)
        base.wait_until(lambda: self.epochs == [1, 1])

    def test_no_answer_enforces_the_last(self):
        self.views.start()
        self.wait_endpoint()
        self.controller.error = FAILED
        self.views.pull_soon()
        self.pulled(3)
        self.assertIn('nobody', self.views.trouble())
        self.assertEqual(1, len(self.datapath.applied))
        self.assertGreater(self.views.age(), 0)

    def test_a_fault_does_not_end_the_thread(self):
        self.controller.error = ZeroDivisionError('a fault')
        self.views.start()
        self.pulled(2)
        self.assertTrue(self.views.is_alive())
        self.controller.error = None
        self.wait_endpoint()

    def test_what_the_datapath_refuses_is_tried_again(self):
        self.datapath.error = exceptions.DatapathError(reason='maps')
        self.views.start()
        self.pulled(3)
        self.assertIn('maps', self.views.trouble())
        self.assertIn('maps', self.views.refused())
        self.assertRaises(exceptions.EndpointNotInView, self.wait_endpoint,
                          0.1)
        self.datapath.error = None
        self.wait_endpoint()
        self.assertIsNone(self.views.refused())
        self.assertEqual(1, len(self.datapath.applied))

    def test_an_incomplete_view_denies_until_it_is_whole(self):
        self.controller.put(samples.endpoint(ingress='r'))
        self.views.start()
        view = self.applied(1)
        self.assertEqual(model.DENY_ALL, view.endpoints[samples.UID].ingress)
        base.wait_until(lambda: 'lacks' in (self.views.trouble() or ''))
        self.controller.put(samples.ruleset('r', 's'),
                            samples.selector('s', '10.0.0.1'))
        base.wait_until(lambda: self.datapath.applied[-1].endpoints[
            samples.UID].ingress == 'r')
        base.wait_until(lambda: self.views.trouble() is None)

    def test_the_view_on_disk_is_enforced_but_not_enough_for_an_add(self):
        self.views.start()
        self.wait_endpoint()
        self.views.stop()
        self.controller.error = FAILED
        self.views = self.make()
        self.views.load()
        self.assertEqual(2, len(self.datapath.applied))
        self.assertEqual(*self.datapath.applied)
        self.assertFalse(self.views.confirmed())
        self.views.start()
        error = self.assertRaises(exceptions.EndpointNotInView,
                                  self.wait_endpoint, 0.2)
        self.assertIn('RabbitMQ', str(error))
        self.assertEqual(11, error.code)
        self.controller.error = None
        self.wait_endpoint()
        # What is on disk was known to be the same.
        self.assertEqual(2, len(self.datapath.applied))

    def test_the_epoch_outlives_a_restart(self):
        self.controller.epoch = 5
        self.views.start()
        self.wait_endpoint()
        self.views.stop()
        self.controller.epoch = 4
        self.views = self.make()
        self.views.load()
        self.views.start()
        self.pulled(2)
        self.assertFalse(self.views.confirmed())

    def test_waits_for_the_endpoint_of_the_port(self):
        self.views.start()
        error = self.assertRaises(
            exceptions.EndpointNotInView, self.wait_endpoint, 0.2, 'other')
        self.assertIn(samples.VIF, str(error))
        self.controller.remove(samples.endpoint())
        self.views.pull_soon()
        self.applied(2)
        error = self.assertRaises(exceptions.EndpointNotInView,
                                  self.wait_endpoint, 0.2)
        self.assertIn('[agent] host', str(error))

    def test_a_wait_asks_by_itself(self):
        self.controller.remove(samples.endpoint())
        self.views.start()
        self.applied(1)
        waiter = threading.Thread(target=self.wait_endpoint)
        waiter.start()
        self.pulled(2)
        self.controller.put(samples.endpoint())
        waiter.join(5)
        self.assertFalse(waiter.is_alive())

    def test_abandon(self):
        self.controller.remove(samples.endpoint())
        self.views.start()
        self.applied(1)
        raised = []

        def wait():
            try:
                self.wait_endpoint(30)
            except exceptions.Abandoned as error:
                raised.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        self.pulled()
        self.views.abandon(samples.VIF)
        waiter.join(5)
        self.assertEqual(1, len(raised))
        self.assertRaises(exceptions.Abandoned, self.wait_endpoint)
        self.views.readmit(samples.VIF)
        self.assertRaises(exceptions.EndpointNotInView, self.wait_endpoint,
                          0.1)

    def test_what_a_limit_denies_is_known(self):
        self.datapath.denied = {samples.UID: 'too many rules'}
        self.views.start()
        self.wait_endpoint()
        self.assertEqual({samples.UID: 'too many rules'}, self.views.denied)

    def test_the_disk_lags_little_while_changes_keep_coming(self):
        self.views.start()
        self.wait_endpoint()
        for number in range(30):
            self.controller.put(samples.endpoint(f'u{number}'))
            self.views.pull_soon()
        self.views.stop()
        saved = viewfile.ViewFile(self.path).load()
        self.assertEqual(
            self.datapath.applied[-1].endpoints.keys(),
            {key.partition(':')[2] for key in saved.held})
        self.assertEqual(saved.held.keys(), {
            objects.key(e)
            for e in self.datapath.applied[-1].endpoints.values()})
