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

"""The policy view of this node: pulled, brought in force, kept on disk.

One thread does all three, so the datapath has one writer and views come in
order. Messages are hints that wake it; what it pulls is the truth. An answer
is taken whole or not at all, and only from a controller that has listed
everything: a partial view could open what a policy it lacks closes.
"""

import random
import threading
import time
from typing import Callable, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import view
from kuryr_cilium.agent import viewfile
from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from kuryr_cilium import memory
from kuryr_cilium.monitor import metrics
from kuryr_cilium.policy import model

LOG = logging.getLogger(__name__)

#: Seconds between two tries while no controller answers: first and last.
BACKOFF = (0.5, 10.0)
#: Seconds between two pulls while an ADD waits for its endpoint.
ASK_AGAIN = 2.0
#: Seconds without a change before the view is saved: one that came meanwhile
#: would wait for the disk.
SAVE_QUIET = 0.05
#: Seconds that the view on disk may lag while changes keep coming.
SAVE_DELAY = 1.0


class Views:
    """The node's view. Safe for threads.

    :param host: name of this node.
    :param client: an rpc.client.ControllerClient.
    :param interval: seconds between two pulls without a hint.
    :param on_applied: called in the writer thread after each applied view.
    :param on_epoch: called in the writer thread when the controllers have a
        new leader, which knows nothing of this node yet.
    """

    def __init__(self, host: str, client, datapath: driver.Driver,
                 file: viewfile.ViewFile, interval: float = 60.0,
                 on_applied: Callable[[], object] = lambda: None,
                 on_epoch: Callable[[], object] = lambda: None):
        self._host = host
        self._client = client
        self._datapath = datapath
        self._file = file
        self._interval = interval
        self._on_applied = on_applied
        self._on_epoch = on_epoch
        self._held: Mapping[str, view.Held] = {}
        self._assembler = view.Assembler()
        self._view: Optional[model.View] = None
        self._epoch = -1
        self._denied: Mapping[str, str] = {}
        self._confirmed: Optional[float] = None
        self._trouble = 'no controller was asked yet'
        self._refused: Optional[str] = None
        self._incomplete = False
        self._unsaved: Optional[float] = None
        self._failures = 0
        self._applied = threading.Condition()
        self._abandoned: set[str] = set()
        # From before a controller is asked until what it said is held.
        self._pulling = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        metrics.VIEW_AGE.set_function(self.age)
        self._started = time.monotonic()

    def load(self) -> None:
        """Bring the last view from disk in force, before anything else."""
        saved = self._file.load()
        if saved is None:
            LOG.info('There is no view on disk.')
            return
        try:
            self._apply(saved.epoch, saved.held)
        except exceptions.KuryrCiliumException as error:
            LOG.error('The view on disk is not in force: %s', error)
            self._trouble = str(error)
            return
        LOG.info('The view on disk is in force: epoch %(epoch)d, '
                 '%(endpoints)d endpoints.', {
                     'epoch': saved.epoch,
                     'endpoints': len(self._view.endpoints)})

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, name='views', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is in force stays in force."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=15)
        metrics.VIEW_AGE.set_function(lambda: 0)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def current(self) -> Optional[model.View]:
        """The view in force, None if there is none yet."""
        return self._view

    @property
    def denied(self) -> Mapping[str, str]:
        """Pod UID -> why its endpoint denies everything (a limit)."""
        return self._denied

    def age(self) -> float:
        """Seconds since a controller confirmed the view (or the start)."""
        return time.monotonic() - (self._confirmed or self._started)

    def confirmed(self) -> bool:
        """Whether a controller confirmed the view since the start."""
        return self._confirmed is not None

    def trouble(self) -> Optional[str]:
        """What keeps the view from being current; None if nothing does."""
        return self._trouble or None

    def refused(self) -> Optional[str]:
        """Why the datapath refused the last view; None if it did not."""
        return self._refused

    def hint(self, epoch: int, changed: Mapping[str, Optional[str]]) -> None:
        """Something may have changed: {key: digest, None if removed}.

        A selector, or a part of one, that this node doesn't hold is not its
        concern: one that is to be held comes with the ruleset that names it,
        and a new part with the head of its selector. While an answer is on its
        way into force nobody knows what this node will hold then: what a hint
        says may be the same as before it, and different from it.
        """
        if epoch < self._epoch:
            return
        if epoch > self._epoch or self._pulling:
            self._wake.set()
            return
        for key, digest in changed.items():
            held = self._held.get(key)
            if held is None and (digest is None or key.startswith(
                    ('selector:', 'members:', 'service:', 'node:'))):
                continue
            if held is None or held.digest != digest:
                self._wake.set()
                return

    def pull_soon(self) -> None:
        """Compare with the controller now, not at the end of the interval."""
        self._wake.set()

    def wait_endpoint(self, uid: str, vif_id: str, deadline: float) -> None:
        """Wait until a view with an endpoint is in force.

        A view of before this process's start does not do: its policy may
        be of before the last reboot.

        :param deadline: time.monotonic() at which to give up.
        :raises: exceptions.EndpointNotInView with what to look at,
            exceptions.Abandoned after abandon().
        """
        with self._applied:
            while not self._in_force(uid, vif_id):
                left = deadline - time.monotonic()
                if vif_id in self._abandoned:
                    raise exceptions.Abandoned(what='port ' + vif_id)
                if left <= 0:
                    raise exceptions.EndpointNotInView(
                        reason=self._missing(uid, vif_id))
                self._wake.set()
                self._applied.wait(min(left, ASK_AGAIN))

    def abandon(self, vif_id: str) -> None:
        """Let those who wait for a port's endpoint give up, now and later.

        Until readmit(): who is about to wait must not be missed.
        """
        with self._applied:
            self._abandoned.add(vif_id)
            self._applied.notify_all()

    def readmit(self, vif_id: str) -> None:
        """Undo abandon()."""
        with self._applied:
            self._abandoned.discard(vif_id)

    def _in_force(self, uid, vif_id):
        if self._confirmed is None or self._view is None:
            return False
        endpoint = self._view.endpoints.get(uid)
        return endpoint is not None and endpoint.vif_id == vif_id

    def _missing(self, uid, vif_id):
        if self._confirmed is None or self._trouble:
            return ('The policy of the pod is not known: %s. Is '
                    'kuryr-cilium-controller running, and RabbitMQ '
                    'reachable from this node ([DEFAULT] transport_url)?'
                    % self._trouble.rstrip('.'))
        endpoint = self._view.endpoints.get(uid)
        if endpoint is None:
            return ('The controller\'s view of node %s has no endpoint of '
                    'pod UID %s. Is [agent] host the name of the node in '
                    'Kubernetes? Does the log of kuryr-cilium-controller '
                    'name the pod?' % (self._host, uid))
        return ('The controller\'s view has port %s for pod UID %s, its '
                'annotation %s: the annotation was changed, the next try '
                'takes the new one.' % (endpoint.vif_id, uid, vif_id))

    def _run(self):
        while not self._stop.is_set():
            self._wake.clear()
            try:
                delay = self._pull()
                self._save_if_due()
            except Exception:
                # NOTE: the writer must outlive every fault of an answer.
                LOG.exception('The policy view could not be renewed.')
                self._trouble = 'internal error, see the log of the agent'
                metrics.SYNCS.labels('invalid').inc()
                delay = self._backoff()
            finally:
                self._pulling = False
            self._wake.wait(delay)
        self._save()

    def _pull(self):
        """Compare with a controller; returns seconds until the next time."""
        base = {} if self._incomplete else self._held
        self._pulling = True
        try:
            answer = self._client.sync_all(
                self._host, {key: item.digest for key, item in base.items()})
        except exceptions.RPCFailed as error:
            return self._failed('no-answer', str(error))
        except exceptions.InvalidWireObject as error:
            return self._failed('invalid', str(error))
        if not answer.synced:
            return self._failed(
                'unsynced', 'the controller that answered has not listed '
                'every policy, namespace and pod yet')
        if answer.epoch < self._epoch:
            return self._failed('old-epoch', (
                'the controller that answered is of epoch %d, this node has '
                'a view of epoch %d: a replica that lost touch with the API '
                'server, or the Lease of the controllers was deleted (then '
                'stop this agent, remove view.json in [agent] state_dir, '
                'and start it)' % (answer.epoch, self._epoch)))
        different = bool(answer.changed or answer.removed or
                         self._view is None or self._incomplete or
                         answer.epoch != self._epoch)
        if different:
            before = self._epoch
            try:
                self._apply(answer.epoch, view.merge(
                    base, answer.changed, answer.digests, answer.removed))
            except exceptions.KuryrCiliumException as error:
                self._refused = str(error)
                return self._failed(
                    'not-applied', 'a changed view could not be brought in '
                    'force: %s' % error)
            self._unsaved = self._unsaved or time.monotonic()
        self._pulling = False
        first = self._confirmed is None
        self._confirm()
        if first:
            memory.settle()
        metrics.SYNCS.labels('changed' if different else 'same').inc()
        if different:
            self._on_applied()
            if answer.epoch != before:
                self._on_epoch()
        if self._incomplete:
            self._trouble = ('the controller\'s view lacks objects it '
                             'names; what depends on them denies')
            return self._backoff()
        self._failures = 0
        return self._interval * random.uniform(0.8, 1.2)

    def _confirm(self):
        if self._trouble and not self._incomplete:
            LOG.info('The policy view is current.')
        with self._applied:
            self._confirmed = time.monotonic()
            self._trouble = ''
            self._applied.notify_all()

    def _failed(self, result, trouble):
        if trouble != self._trouble:
            LOG.warning('The policy view is not current: %s',
                        trouble.rstrip('.'))
        self._trouble = trouble
        metrics.SYNCS.labels(result).inc()
        return self._backoff()

    def _backoff(self):
        delay = min(BACKOFF[0] * 2 ** self._failures, BACKOFF[1])
        self._failures = min(self._failures + 1, 16)
        return delay * random.uniform(0.8, 1.2)

    def _apply(self, epoch, held):
        """Bring what is held in force; then it is what this node has."""
        assembled = self._assembler.assemble(epoch, held)
        with metrics.VIEW_APPLY_SECONDS.time():
            applied = self._datapath.apply(assembled.view)
        for problem in assembled.problems:
            LOG.error('In the policy view: %s', problem)
        for uid, why in applied.denied.items():
            if self._denied.get(uid) != why:
                LOG.error('Endpoint of pod UID %(uid)s denies everything: '
                          '%(why)s', {'uid': uid, 'why': why})
        with self._applied:
            self._held = held
            self._epoch = epoch
            self._view = assembled.view
            self._denied = dict(applied.denied)
            self._incomplete = bool(assembled.problems)
            self._refused = None
        metrics.VIEW_EPOCH.set(epoch)
        metrics.ENDPOINTS_DENIED.set(len(applied.denied))
        for kind in ('endpoints', 'rulesets', 'selectors'):
            metrics.VIEW_OBJECTS.labels(kind).set(
                len(getattr(assembled.view, kind)))

    def _save_if_due(self):
        """Save, but not while changes come and the disk lags little."""
        if self._unsaved is None:
            return
        if (self._wake.wait(SAVE_QUIET) and
                time.monotonic() - self._unsaved < SAVE_DELAY):
            return
        self._save()

    def _save(self):
        if self._unsaved is None:
            return
        try:
            self._file.save(self._epoch, self._held)
        except exceptions.StoreError as error:
            LOG.error('%s. After a restart or a reboot an older view would '
                      'be in force until a controller answers.', error)
            return
        self._unsaved = None
