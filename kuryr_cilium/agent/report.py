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

"""Reports to the leader what is plugged here and what no longer is.

One thread sends both, so that they arrive in the order in which they became
true. What the leader did not take is sent again; releases that a restart of
this process loses are healed by the next list of what is plugged.
"""

import threading
import time
from typing import Callable, Iterable, Optional

from oslo_log import log as logging

from kuryr_cilium import exceptions
from kuryr_cilium.monitor import metrics

LOG = logging.getLogger(__name__)

#: Seconds between two tries: first and last.
BACKOFF = (0.5, 15.0)


class Reporter:
    """Sends reports. Safe for threads.

    :param client: an rpc.client.LeaderClient.
    :param plugged: callable that returns the ids of the Neutron ports that
        are plugged on this node; it may raise.
    :param holds: whether a port is (being) plugged here: a sandbox that was
        made anew has the port of the one that went.
    :param interval: seconds between two lists.
    """

    def __init__(self, host: str, client,
                 plugged: Callable[[], Iterable[str]],
                 holds: Callable[[str], bool],
                 interval: float = 60.0):
        self._host = host
        self._client = client
        self._plugged = plugged
        self._holds = holds
        self._interval = interval
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._due = 0.0
        self._failures = 0
        self._trouble: Optional[str] = 'nothing was reported yet'

    def start(self) -> None:
        """Begin with the list of what is plugged."""
        self._thread = threading.Thread(target=self._run, name='reports',
                                        daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> Optional[str]:
        """None if the leader took the last report, else why not."""
        return self._trouble

    def released(self, record) -> None:
        """Queue the report that a record's port is unplugged."""
        with self._lock:
            self._waiting[record.vif_id] = record.uid
            metrics.RELEASES_WAITING.set(len(self._waiting))
        self._wake.set()

    def list_soon(self) -> None:
        """Send the list of what is plugged now: there is a new leader."""
        self._due = 0.0
        self._wake.set()

    def waiting(self) -> int:
        """How many releases wait to be taken."""
        with self._lock:
            return len(self._waiting)

    def _run(self):
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._report()
                self._failures = 0
                self._trouble = None
                delay = max(0.0, self._due - time.monotonic())
            except exceptions.KuryrCiliumException as error:
                if self._trouble is None:
                    LOG.warning('Reports to the controller wait: %s', error)
                delay = self._failed(str(error))
            except Exception:
                LOG.exception('Reports to the controller failed.')
                delay = self._failed('internal error, see the log')
            # NOTE: a new release doesn't shorten the pause after a failure.
            (self._stop if self._failures else self._wake).wait(delay)

    def _failed(self, trouble):
        self._trouble = trouble
        delay = min(BACKOFF[0] * 2 ** self._failures, BACKOFF[1])
        self._failures = min(self._failures + 1, 16)
        return delay

    def _report(self):
        if time.monotonic() >= self._due:
            # NOTE: a leader that comes in the middle of it is sent another.
            self._due = time.monotonic() + self._interval
            try:
                self._client.plugged(self._host, list(self._plugged()))
            except Exception:
                self._due = 0.0
                raise
        with self._lock:
            for vif_id in [v for v in self._waiting if self._holds(v)]:
                del self._waiting[vif_id]
            batch = dict(self._waiting)
            metrics.RELEASES_WAITING.set(len(batch))
        if not batch:
            return
        self._client.released(self._host, [
            {'vif_id': vif_id, 'pod_uid': uid}
            for vif_id, uid in batch.items()])
        with self._lock:
            for vif_id, uid in batch.items():
                if self._waiting.get(vif_id) == uid:
                    del self._waiting[vif_id]
            metrics.RELEASES_WAITING.set(len(self._waiting))
