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

"""What is looked after in intervals: leftovers, expired connections."""

import collections
import threading
import time
from typing import Callable, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import store as agent_store
from kuryr_cilium.monitor import metrics

LOG = logging.getLogger(__name__)

#: Seconds between two sweeps of connections.
CONNECTIONS_INTERVAL = 10.0


class Sweeper:
    """Sweeps in a thread of its own.

    :param plugger: an agent.plug.Plugger.
    :param datapath: a datapath.driver.Driver.
    :param released: called with the record of each port unplugged.
    :param interval: seconds between two searches for pods that are gone.
    """

    def __init__(self, plugger, datapath, store: agent_store.Store,
                 released: Callable, interval: float = 300.0):
        self._plugger = plugger
        self._datapath = datapath
        self._store = store
        self._released = released
        self._interval = interval
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def first(self) -> None:
        """The sweep at start: before the CNI socket opens."""
        self._pods(starting=True)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name='sweeps',
                                        daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self):
        due = time.monotonic() + self._interval
        while not self._stop.wait(min(CONNECTIONS_INTERVAL, self._interval)):
            try:
                self._datapath.sweep()
                self._count()
                if time.monotonic() >= due:
                    due = time.monotonic() + self._interval
                    self._pods()
            except Exception:
                # NOTE: the next sweep tries again what this one could not.
                LOG.exception('A sweep failed.')

    def _pods(self, starting=False):
        for record in self._plugger.sweep(starting=starting):
            LOG.info('%(pod)s: port %(port)s was swept: %(why)s.', {
                'pod': record.pod, 'port': record.vif_id,
                'why': 'its network namespace is gone'
                if record.state == agent_store.READY
                else 'its ADD had not ended'})
            metrics.SWEPT.inc()
            self._released(record)
        self._count()

    def _count(self):
        states = collections.Counter(
            record.state for record in self._store.list())
        for state in (agent_store.READY, agent_store.PLUGGING):
            metrics.ENDPOINTS.labels(state).set(states[state])
