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

from kuryr_cilium.controller import poller
from kuryr_cilium import exceptions
from tests import base


class TestPoller(base.TestCase):

    def setUp(self):
        super().setUp()
        self.calls = []
        self.error = None
        self.asked = threading.Event()

    def ask(self):
        self.calls.append(None)
        self.asked.set()
        if self.error is not None:
            raise self.error

    def poller(self, interval):
        made = poller.Poller('test', self.ask, interval, gather=0.01)
        made.start()
        self.addCleanup(made.stop)
        return made

    def test_repeats(self):
        self.poller(0.01)
        self.assertEventually(lambda: len(self.calls) > 3)

    def test_asks_soon(self):
        polled = self.poller(60)
        self.assertEventually(lambda: polled.check() is None)
        for _number in range(5):
            polled.wake()
        self.assertEventually(lambda: len(self.calls) >= 2)
        self.assertLessEqual(len(self.calls), 3)

    def test_failure_is_shown_and_got_over(self):
        for error in (exceptions.NeutronUnavailable(
                method='GET', path='/ports', reason='away'),
                RuntimeError('a fault')):
            self.error = error
            polled = self.poller(0.05)
            self.assertEventually(lambda: polled.check() == str(error))
            self.error = None
            self.assertEventually(lambda: polled.check() is None)
            self.assertTrue(polled.alive())
            polled.stop()
            self.assertFalse(polled.alive())
