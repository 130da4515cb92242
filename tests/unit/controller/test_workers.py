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

import collections
import threading

from kuryr_cilium.controller import workers
from tests import base


class TestPool(base.TestCase):

    def pool(self, work, size=4, **kwargs):
        made = workers.Pool('test', size, work, **kwargs)
        made.start()
        self.addCleanup(made.stop)
        return made

    def test_one_key_in_one_thread_and_again_after_it(self):
        running, most, calls = (collections.Counter() for _ in range(3))
        lock, go = threading.Lock(), threading.Event()

        def work(key):
            with lock:
                running[key] += 1
                most[key] = max(most[key], running[key])
            go.wait(10)
            with lock:
                running[key] -= 1
                calls[key] += 1
            return True

        pool = self.pool(work)
        pool.put('a')
        pool.put('b')
        self.assertEventually(lambda: running['a'] and running['b'])
        for _number in range(10):
            pool.put('a')
            pool.put('b')
        go.set()
        self.assertEventually(lambda: not len(pool))
        # What was put in ten times while it ran is done once more.
        self.assertEqual({'a': 2, 'b': 2}, dict(calls))
        self.assertEqual({'a': 1, 'b': 1}, dict(most))

    def test_tried_again_until_done(self):
        calls = []

        def work(key):
            calls.append(key)
            if len(calls) == 2:
                raise ValueError('a fault')
            return len(calls) == 4

        pool = self.pool(work, first=0.01)
        pool.put('a')
        self.assertEventually(lambda: len(calls) == 4 and not len(pool))
        self.assertTrue(pool.alive())

    def test_put_does_not_wait_for_the_next_try(self):
        calls = []
        pool = self.pool(lambda key: calls.append(key), first=60)
        pool.put('a')
        self.assertEventually(lambda: len(calls) == 1)
        self.assertEqual(1, len(pool))
        pool.put('a')
        self.assertEventually(lambda: len(calls) == 2)

    def test_forgotten(self):
        calls = []
        pool = self.pool(lambda key: calls.append(key), size=1, first=0.05)
        pool.put('a')
        self.assertEventually(lambda: calls)
        pool.forget('a')
        pool.put('b')
        self.assertEventually(lambda: calls.count('b') > 2)
        self.assertLessEqual(calls.count('a'), 2)

    def test_stop_begins_nothing_more(self):
        calls, go = [], threading.Event()

        def work(key):
            calls.append(key)
            return go.wait(10)

        pool = self.pool(work, size=1)
        pool.put('a')
        pool.put('b')
        self.assertEventually(lambda: calls)
        stopper = threading.Thread(target=pool.stop)
        stopper.start()
        self.assertEventually(lambda: pool._stopped)
        go.set()
        stopper.join(10)
        self.assertEqual(['a'], calls)
        self.assertFalse(pool.alive())
