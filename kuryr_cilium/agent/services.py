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

"""The services of this node: pulled, brought in force, kept on disk.

As with the policy view, messages are hints and what is pulled is the truth.
A hint names what has changed, and only that is asked for; now and then
everything is compared.
"""

import random
import threading
import time
from typing import Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import view
from kuryr_cilium.agent import viewfile
from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from kuryr_cilium.lb import model
from kuryr_cilium.lb import plan
from kuryr_cilium.monitor import metrics

LOG = logging.getLogger(__name__)

#: Seconds between two tries while no controller answers: first and last.
BACKOFF = (0.5, 10.0)
#: Seconds for which the services on disk may lag behind.
SAVE_DELAY = 1.0


class Services:
    """Services in force on this node. Safe for threads.

    :param host: name of this node.
    :param client: an rpc.client.ControllerClient.
    :param interval: seconds between two comparisons of everything.
    """

    def __init__(self, host: str, client, datapath: driver.Driver,
                 file: viewfile.ViewFile, interval: float = 60.0):
        self._host = host
        self._client = client
        self._datapath = datapath
        self._file = file
        self._interval = interval
        self._held: Mapping[str, view.Held] = {}
        self._epoch = -1
        self._refused: Mapping[str, str] = {}
        self._trouble: Optional[str] = 'no controller was asked yet'
        self._failures = 0
        self._unsaved: Optional[float] = None
        self._lock = threading.Lock()
        # What hints named since the last pull; None: ask about everything.
        self._hinted: Optional[set[str]] = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def load(self) -> None:
        """Bring the services on disk in force, before anything else."""
        saved = self._file.load()
        if saved is None:
            LOG.info('There are no services on disk.')
            return
        try:
            self._apply(saved.epoch, saved.held)
        except exceptions.KuryrCiliumException as error:
            LOG.error('The services on disk are not in force: %s', error)

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name='services',
                                        daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is in force stays in force."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=15)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def trouble(self) -> Optional[str]:
        """What keeps the services from being current; None if nothing."""
        return self._trouble

    def current(self) -> Mapping[str, model.Service]:
        """The services of the last pull by id, refused ones too."""
        return _services(self._held)

    def refused(self) -> Mapping[str, str]:
        """Id of a service -> why it is not in force."""
        return self._refused

    def hint(self, epoch: int, changed: Mapping[str, Optional[str]]) -> None:
        """Something may have changed: {key: digest, None if removed}."""
        if epoch < self._epoch:
            return
        found = {key for key, digest in changed.items()
                 if key.startswith(('service:', 'node:'))}
        found = {key for key in found if changed[key] != (
            self._held[key].digest if key in self._held else None)}
        if epoch > self._epoch:
            with self._lock:
                self._hinted = None
        elif found:
            with self._lock:
                if self._hinted is not None:
                    self._hinted |= found
        else:
            return
        self._wake.set()

    def _run(self):
        due = 0.0
        while not self._stop.is_set():
            self._wake.clear()
            with self._lock:
                keys, self._hinted = self._hinted, set()
            if time.monotonic() >= due:
                keys = None
            try:
                if keys is None or keys:
                    self._pull(keys)
                    if keys is None:
                        due = time.monotonic() + self._interval * (
                            random.uniform(0.8, 1.2))
                self._save_if_due()
                delay = due - time.monotonic()
                if self._unsaved is not None:
                    delay = min(delay, SAVE_DELAY)
            except exceptions.KuryrCiliumException as error:
                delay = self._failed(str(error))
            except Exception:
                # NOTE: the thread must outlive every fault of an answer.
                LOG.exception('The services could not be renewed.')
                delay = self._failed('internal error, see the log of the '
                                     'agent')
            if self._trouble:
                with self._lock:
                    self._hinted = None
            self._wake.wait(max(0.0, delay))
        self._save()

    def _pull(self, keys):
        held = self._held if keys is None else {
            key: self._held[key] for key in keys if key in self._held}
        answer = self._client.services(
            self._host, {key: item.digest for key, item in held.items()},
            keys)
        if not answer.synced:
            raise exceptions.RPCFailed(
                method='services', topic='', reason='the controller that '
                'answered has not listed every service yet')
        if answer.epoch < self._epoch:
            raise exceptions.RPCFailed(
                method='services', topic='', reason='the controller that '
                'answered is of an earlier epoch, it has lost touch')
        if (answer.changed or answer.removed or self._trouble
                or answer.epoch != self._epoch):
            self._apply(answer.epoch, view.merge(
                self._held, answer.changed, answer.digests, answer.removed))
            self._unsaved = self._unsaved or time.monotonic()
        if self._trouble:
            LOG.info('The services are current: %d.', len(self.current()))
        self._trouble = None
        self._failures = 0

    def _apply(self, epoch, held):
        """Bring what is held in force; then it is what this node has."""
        nodes = {item.value.name: item.value for item in held.values()
                 if isinstance(item.value, model.Node)}
        with metrics.SERVICES_APPLY_SECONDS.time():
            refused = self._datapath.serve(
                _services(held),
                nodes.get(self._host) or model.Node(self._host),
                frozenset(address for node in nodes.values()
                          for address in node.addresses))
        for name, why in refused.items():
            if self._refused.get(name) != why:
                LOG.error('Service %(name)s is refused: %(why)s',
                          {'name': name, 'why': why})
        self._held, self._epoch = held, epoch
        self._refused = dict(refused)
        for what, count in plan.counts(_services(held).values()).items():
            metrics.SERVICE_OBJECTS.labels(what).set(count)
        metrics.SERVICES_REFUSED.set(len(refused))

    def _failed(self, trouble):
        if trouble != self._trouble:
            LOG.warning('The services are not current: %s',
                        trouble.rstrip('.'))
        self._trouble = trouble
        delay = min(BACKOFF[0] * 2 ** self._failures, BACKOFF[1])
        self._failures = min(self._failures + 1, 16)
        return delay * random.uniform(0.8, 1.2)

    def _save_if_due(self):
        if (self._unsaved is not None and
                time.monotonic() - self._unsaved >= SAVE_DELAY):
            self._save()

    def _save(self):
        if self._unsaved is None:
            return
        try:
            self._file.save(self._epoch, self._held)
        except exceptions.StoreError as error:
            LOG.error('%s. After a reboot older services would be in force '
                      'until a controller answers.', error)
        self._unsaved = None


def _services(held):
    return {item.value.id: item.value for item in held.values()
            if isinstance(item.value, model.Service)}
