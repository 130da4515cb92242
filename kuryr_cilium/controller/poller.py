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

"""Does something every few seconds, and soon when asked to."""

import threading
from typing import Callable, Optional

from oslo_log import log as logging

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff

LOG = logging.getLogger(__name__)


class Poller:
    """A thread that repeats a question.

    :param name: of the thread.
    :param ask: callable; exceptions are logged once and asked again after a
        delay that grows to the interval.
    :param interval: seconds between two questions.
    :param gather: seconds for which wishes to ask soon are gathered.
    """

    def __init__(self, name: str, ask: Callable[[], object],
                 interval: float, gather: float = 0.5):
        self._name = name
        self._ask = ask
        self._interval = interval
        self._gather = gather
        self._delays = backoff.Backoff(1, interval)
        self._failure: Optional[str] = 'not asked yet'
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name,
                                        daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a question that waits for its answer is left alone."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def alive(self) -> bool:
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """Ask soon."""
        self._wake.set()

    def check(self) -> Optional[str]:
        """None if the last question was answered, else why not."""
        return self._failure

    def _run(self):
        while not self._stop.is_set():
            self._wake.clear()
            if self._once():
                delay = self._interval
            else:
                # What fails is not asked sooner for any wish.
                self._stop.wait(self._delays.next())
                continue
            if self._wake.wait(delay):
                self._stop.wait(self._gather)

    def _once(self):
        try:
            self._ask()
        except Exception as error:
            if self._stop.is_set():
                return False
            if self._failure is None or not self._delays.failures:
                if isinstance(error, exceptions.KuryrCiliumException):
                    LOG.warning('%s: %s', self._name, error)
                else:
                    LOG.exception('%s failed', self._name)
            self._failure = str(error) or type(error).__name__
            return False
        if self._failure is not None and self._delays.failures:
            LOG.info('%s: works again', self._name)
        self._failure = None
        self._delays.reset()
        return True
