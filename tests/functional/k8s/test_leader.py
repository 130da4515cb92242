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

import threading
import time

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import leader
from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures

_LEASE = 'candidates'


class Candidate:
    """A replica that remembers when it led."""

    def __init__(self, test, name, duration=3, deadline=2, retry=0.2):
        self.name = name
        self.terms = []
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.elector = leader.Elector(
            test.kube.client(), test.namespace, _LEASE, name,
            self._begin, self._end, duration=duration, deadline=deadline,
            retry=retry)
        self.elector.start()
        test.addCleanup(self.elector.stop)

    def _begin(self, epoch):
        self.terms.append([epoch, time.monotonic(), None])
        self.stopped.clear()
        self.started.set()

    def _end(self):
        self.terms[-1][2] = time.monotonic()
        self.started.clear()
        self.stopped.set()


class TestElector(base.TestCase):

    def setUp(self):
        super().setUp()
        self.kube = fixtures.shared()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self)
        self.path = resources.LEASES.path(self.namespace, _LEASE)

    def test_failover_when_the_leader_stops(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        second = Candidate(self, 'second')
        self.assertEventually(lambda: second.elector.check() is None)
        self.assertFalse(second.elector.leads())
        epoch = first.elector.epoch
        self.assertEqual(epoch, second.elector.epoch)
        began = time.monotonic()
        first.elector.stop()
        self.assertFalse(first.elector.leads())
        self.assertTrue(second.started.wait(10))
        # It was given back: nobody waited for it to expire.
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(epoch + 1, second.elector.epoch)
        self.assertEqual(epoch + 1, second.terms[0][0])
        self.assertLessEqual(first.terms[0][2], second.terms[0][1])

    def test_failover_when_the_leader_is_cut_off(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        second = Candidate(self, 'second')
        # Its requests fail from now on; the others' do not.
        first.elector._client.close()
        self.assertTrue(first.stopped.wait(10))
        self.assertFalse(first.elector.leads())
        self.assertTrue(second.started.wait(10))
        self.assertLess(first.terms[0][2], second.terms[0][1])
        self.assertEqual(first.terms[0][0] + 1, second.terms[0][0])
        self.assertIn('cut', first.elector.check())

    def test_leader_gives_up_in_time_when_the_server_hangs(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        self.kube.freeze_server()
        try:
            began = time.monotonic()
            self.assertEventually(lambda: not first.elector.leads(), 3)
            self.assertTrue(first.stopped.wait(5))
            self.assertLess(time.monotonic() - began, 3.5)
        finally:
            self.kube.thaw_server()
        self.assertTrue(first.started.wait(10))
        self.assertGreater(first.terms[1][0], first.terms[0][0])

    def test_only_one_leads(self):
        candidates = [Candidate(self, 'c%d' % number) for number in range(4)]
        for _round in range(3):
            self.assertEventually(lambda: any(
                candidate.elector.leads() for candidate in candidates))
            leading = [candidate for candidate in candidates
                       if candidate.elector.leads()]
            self.assertEqual(1, len(leading))
            leading[0].elector.stop()
            candidates.remove(leading[0])

    def test_lease_taken_away(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        lease = self.api.get(self.path)
        epoch = lease['spec']['leaseTransitions']
        while True:
            lease['spec'].update(holderIdentity='usurper',
                                 leaseTransitions=epoch + 1)
            try:
                self.api.put(self.path, lease)
                break
            except exceptions.KubernetesConflict:
                lease = self.api.get(self.path)
        self.assertTrue(first.stopped.wait(10))
        # The usurper never renews it.
        self.assertTrue(first.started.wait(10))
        self.assertEqual(epoch + 2, first.terms[1][0])

    def test_epoch_goes_on_when_the_lease_was_deleted(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        first.elector.stop()
        second = Candidate(self, 'second')
        self.assertTrue(second.started.wait(10))
        self.api.delete(self.path)
        # Its next renewal makes the lease again.
        lease = self.assertEventually(self.lease)
        self.assertEqual(2, lease['spec']['leaseTransitions'])
        self.assertEqual('second', lease['spec']['holderIdentity'])

    def lease(self):
        try:
            return self.api.get(self.path)
        except exceptions.KubernetesNotFound:
            return None

    def test_stops_at_once_while_the_server_hangs(self):
        first = Candidate(self, 'first')
        self.assertTrue(first.started.wait(10))
        self.kube.freeze_server()
        self.addCleanup(self.kube.thaw_server)
        began = time.monotonic()
        first.elector.stop(10)
        self.assertTrue(first.stopped.is_set())
        self.assertLess(time.monotonic() - began, 5)
