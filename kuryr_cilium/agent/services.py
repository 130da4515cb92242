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

from kuryr_cilium.agent import healthports
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
    :param ports: is told what is in force; None if there is nobody to tell.
    """

    def __init__(self, host: str, client, datapath: driver.Driver,
                 file: viewfile.ViewFile, interval: float = 60.0,
                 ports: Optional[healthports.HealthPorts] = None):
        self._host = host
        self._client = client
        self._datapath = datapath
        self._file = file
        self._interval = interval
        self._ports = ports
        self._held: Mapping[str, view.Held] = {}
        # What is held, by id and by name. Replaced, never changed.
        self._found: Mapping[str, model.Service] = {}
        self._nodes: Mapping[str, model.Node] = {}
        self._counts = plan.counts(())
        self._epoch = -1
        self._refused: Mapping[str, str] = {}
        self._conflicts: Mapping[str, str] = {}
        self._trouble: Optional[str] = 'no controller was asked yet'
        self._failures = 0
        self._unsaved = threading.Event()
        self._lock = threading.Lock()
        # What hints named since the last pull; None: ask about everything.
        self._hinted: Optional[set[str]] = None
        # From before a controller is asked until what it said is held.
        self._pulling = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def load(self) -> None:
        """Bring the services on disk in force, before anything else."""
        saved = self._file.load()
        if saved is None:
            LOG.info('There are no services on disk.')
            return
        try:
            self._apply(saved.epoch, saved.held,
                        {*self._held, *saved.held})
        except exceptions.KuryrCiliumException as error:
            LOG.error('The services on disk are not in force: %s', error)

    def start(self) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._run, 'services'),
                                 (self._keep, 'services-file'))]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what is in force stays in force."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=15)
        self._save()

    def is_alive(self) -> bool:
        return bool(self._threads) and all(
            thread.is_alive() for thread in self._threads)

    def trouble(self) -> Optional[str]:
        """What keeps the services from being current; None if nothing."""
        return self._trouble

    def current(self) -> Mapping[str, model.Service]:
        """The services of the last pull by id, refused ones too."""
        return self._found

    def refused(self) -> Mapping[str, str]:
        """Id of a service -> why it is not in force."""
        return self._refused

    def hint(self, epoch: int, changed: Mapping[str, Optional[str]]) -> None:
        """Something may have changed: {key: digest, None if removed}.

        While an answer is on its way into force nobody knows what this node
        will hold then: what a hint says may be the same as before it, and
        different from it.
        """
        if epoch < self._epoch:
            return
        found = {key for key, digest in changed.items()
                 if key.startswith(('service:', 'node:'))}
        if not self._pulling:
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
                delay = due - time.monotonic()
            except exceptions.KuryrCiliumException as error:
                delay = self._failed(str(error))
            except Exception:
                # NOTE: the thread must outlive every fault of an answer.
                LOG.exception('The services could not be renewed.')
                delay = self._failed('internal error, see the log of the '
                                     'agent')
            finally:
                self._pulling = False
            if self._trouble:
                with self._lock:
                    self._hinted = None
            self._wake.wait(max(0.0, delay))

    def _pull(self, keys):
        self._pulling = True
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
            self._apply(
                answer.epoch, view.merge(
                    self._held, answer.changed, answer.digests,
                    answer.removed), {*answer.changed, *answer.removed})
            self._unsaved.set()
        if self._trouble:
            LOG.info('The services are current: %d.', len(self.current()))
        self._trouble = None
        self._failures = 0

    def _apply(self, epoch, held, changed):
        """Bring what is held in force; then it is what this node has.

        :param changed: keys of what is not as it was held before: the rest
            is not looked at again, since most changes are of one service.
        """
        found, nodes = dict(self._found), dict(self._nodes)
        counts = self._counts.copy()
        for key in changed:
            kind, _, name = key.partition(':')
            if kind == 'service':
                counts.subtract(plan.counts(filter(None, (found.get(name),))))
            named = found if kind == 'service' else nodes
            if key in held:
                named[name] = held[key].value
            else:
                named.pop(name, None)
            if kind == 'service':
                counts.update(plan.counts(filter(None, (found.get(name),))))
        try:
            with metrics.SERVICES_APPLY_SECONDS.time():
                refused = self._datapath.serve(
                    found, nodes.get(self._host) or model.Node(self._host),
                    frozenset(address for node in nodes.values()
                              for address in node.addresses))
        except Exception:
            if self._ports is not None:
                self._ports.fail()
            raise
        if self._ports is not None:
            self._ports.update(found, refused)
        with self._lock:
            self._held, self._epoch = held, epoch
        self._found, self._nodes, self._counts = found, nodes, counts
        self._tell(refused, self._datapath.conflicts())
        for what, count in counts.items():
            metrics.SERVICE_OBJECTS.labels(what).set(count)

    def _tell(self, refused, conflicts):
        """Of services that are not in force as a whole, if it is news."""
        for name, why in refused.items():
            if self._refused.get(name) != why:
                LOG.error('Service %(name)s is refused: %(why)s',
                          {'name': name, 'why': why})
        for name, why in conflicts.items():
            if self._conflicts.get(name) != why:
                LOG.warning('Service %(name)s is in force without an '
                            'address: %(why)s', {'name': name, 'why': why})
        self._refused, self._conflicts = dict(refused), dict(conflicts)
        metrics.SERVICES_REFUSED.set(len(refused))
        metrics.SERVICES_CONFLICTS.set(len(conflicts))

    def _failed(self, trouble):
        if trouble != self._trouble:
            LOG.warning('The services are not current: %s',
                        trouble.rstrip('.'))
        self._trouble = trouble
        delay = min(BACKOFF[0] * 2 ** self._failures, BACKOFF[1])
        self._failures = min(self._failures + 1, 16)
        return delay * random.uniform(0.8, 1.2)

    def _keep(self):
        """Save what has changed: in a thread, changes do not wait for it."""
        while not self._stop.wait(SAVE_DELAY):
            self._save()

    def _save(self):
        if not self._unsaved.is_set():
            return
        self._unsaved.clear()
        with self._lock:
            epoch, held = self._epoch, self._held
        try:
            self._file.save(epoch, held)
        except exceptions.StoreError as error:
            LOG.error('%s. After a reboot older services would be in force '
                      'until a controller answers.', error)
