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

"""Threads that work on things by their keys.

A key is worked on by one thread at a time; put in again meanwhile, it is
worked on once more afterwards. So what is done looks at the state as it is
then, not at what was the reason.
"""

import heapq
import itertools
import threading
import time

from oslo_log import log as logging

from kuryr_cilium.k8s import backoff

LOG = logging.getLogger(__name__)


class Pool:
    """Workers for keys.

    :param name: of the threads.
    :param size: number of threads.
    :param work: callable(key), returning whether it is done; if not, or if
        it raises, it is called again after a delay that grows.
    :param first: seconds, about, of the first delay.
    :param longest: seconds of the longest delay.
    """

    def __init__(self, name, size, work, first=1.0, longest=60.0):
        self._work = work
        self._first = first
        self._longest = longest
        self._condition = threading.Condition()
        self._stopped = False
        self._ready = {}
        self._running = set()
        self._again = set()
        self._later = []
        self._delayed = {}
        self._backoffs = {}
        self._serial = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, name='%s-%d' % (name, number),
                             daemon=True) for number in range(size)]

    def start(self):
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout=5):
        """Begin nothing more.

        :param timeout: seconds to wait for what is being worked on.
        """
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0, deadline - time.monotonic()))

    def alive(self):
        """Whether all threads run, as they do until stop()."""
        return all(thread.is_alive() for thread in self._threads)

    def put(self, key):
        """Have a key worked on soon, also if it waits for another try."""
        with self._condition:
            self._put(key)

    def forget(self, key):
        """There is nothing to be done for a key any more."""
        with self._condition:
            self._ready.pop(key, None)
            self._delayed.pop(key, None)
            self._backoffs.pop(key, None)
            self._again.discard(key)

    def __len__(self):
        """How many keys wait or are worked on."""
        with self._condition:
            return len(self._ready.keys() | self._delayed.keys()
                       | self._running)

    def _put(self, key):
        if key in self._running:
            self._again.add(key)
            return
        self._delayed.pop(key, None)
        self._ready[key] = None
        self._condition.notify()

    def _run(self):
        while True:
            key = self._take()
            if key is None:
                return
            try:
                done = self._work(key)
            except Exception:
                LOG.exception('Working on %s failed', key)
                done = False
            self._finished(key, done)

    def _take(self):
        """Wait for a key and take it; None once stopped."""
        with self._condition:
            while not self._stopped:
                wait = self._promote()
                if self._ready:
                    key = next(iter(self._ready))
                    del self._ready[key]
                    self._running.add(key)
                    return key
                self._condition.wait(wait)
            return None

    def _promote(self):
        """Make ready what has waited; returns the seconds to the next."""
        while self._later:
            at, serial, key = self._later[0]
            if self._delayed.get(key) != serial:
                # Put in or forgotten meanwhile.
                heapq.heappop(self._later)
                continue
            wait = at - time.monotonic()
            if wait > 0:
                return wait
            heapq.heappop(self._later)
            self._put(key)
        return None

    def _finished(self, key, done):
        with self._condition:
            self._running.discard(key)
            if done:
                self._backoffs.pop(key, None)
            if key in self._again:
                self._again.discard(key)
                self._put(key)
            elif not done:
                delays = self._backoffs.setdefault(
                    key, backoff.Backoff(self._first, self._longest))
                serial = next(self._serial)
                self._delayed[key] = serial
                heapq.heappush(self._later, (
                    time.monotonic() + delays.next(), serial, key))
                # Another thread may be waiting for something later.
                self._condition.notify()
