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

"""Leader election by a Lease.

Who holds the Lease leads until it fails to renew it. A candidate believes
nobody's clock: it takes a Lease over when it has seen it unchanged for the
Lease's duration by its own clock. A leader stops before the others may
begin: it counts from the moment at which it *sent* its last renewal, and
gives up earlier than the Lease's duration.

Each change of the leader raises leaseTransitions: the epoch. What an earlier
leader still says can be told by its lower epoch.

Source: coordination.k8s.io/v1 Lease; the timing is that of Kubernetes'
client-go/tools/leaderelection.
"""

import datetime
import threading
import time

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import resources

LOG = logging.getLogger(__name__)

_LEADING = prometheus_client.Gauge(
    'kuryr_cilium_leader', 'Whether this process leads.')
_EPOCH = prometheus_client.Gauge(
    'kuryr_cilium_leader_epoch', 'leaseTransitions as last seen.')


class Elector:
    """A candidate.

    :param client: a client.Client; connections of its own are made of it.
    :param namespace: of the Lease.
    :param name: of the Lease.
    :param identity: of this candidate; no two processes may share it.
    :param on_started: called with the epoch when this one begins to lead,
        from the elector's thread; it has to return soon.
    :param on_stopped: called when it leads no more; it has to return soon.
    :param duration: seconds that a Lease is valid without renewal.
    :param deadline: seconds after which a leader that could not renew gives
        up; less than duration.
    :param retry: seconds between two attempts.
    """

    def __init__(self, client, namespace, name, identity, on_started,
                 on_stopped, duration=15, deadline=10, retry=2):
        self.identity = identity
        self._client = client.clone()
        self._namespace = namespace
        self._name = name
        self._list_path = resources.LEASES.path(namespace)
        self._path = resources.LEASES.path(namespace, name)
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._duration = duration
        self._deadline = deadline
        self._retry = retry
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='leader',
                                        daemon=True)
        self._lease = None
        self._changed_at = None
        self._until = 0.0
        self._leading = False
        self._failure = 'not asked yet'
        self._epoch = 0

    def start(self):
        """Begin to be a candidate."""
        self._thread.start()

    def stop(self, timeout=5):
        """Stop at once; a Lease that is held is given back.

        :param timeout: seconds to wait for that.
        """
        self._stop.set()
        self._client.close()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def epoch(self):
        """leaseTransitions as last seen."""
        return self._epoch

    def leads(self):
        """Whether this candidate leads now.

        Asked right before whatever only a leader may do: it turns False
        with the time even if the elector's thread hangs.
        """
        return self._leading and time.monotonic() < self._until

    def alive(self):
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def check(self):
        """None if the Lease could be read lately, else why not."""
        return self._failure

    def _run(self):
        while not self._stop.is_set():
            if self._leading and not self.leads():
                self._demote('the lease could not be renewed')
            try:
                self._attempt()
                if self._failure is not None:
                    self._failure = None
                    LOG.info('Lease %s/%s is held by %s', self._namespace,
                             self._name, self._holder() or 'nobody')
            except exceptions.KubernetesConflict as error:
                # Another one was quicker; its Lease is read next time.
                LOG.debug('Lease: %s', error)
            except exceptions.KuryrCiliumException as error:
                self._failed(error)
            except Exception as error:
                LOG.exception('The election failed')
                self._failed(error)
            self._stop.wait(self._pause())
        if self._leading:
            self._demote('stopping')
            self._give_back()

    def _failed(self, error):
        if self._stop.is_set():
            return
        if self._failure is None:
            LOG.warning('Lease %s/%s: %s', self._namespace, self._name, error)
        self._failure = str(error)

    def _pause(self):
        """Seconds until the next attempt, or until this one leads no more."""
        if self._leading:
            return max(0.01, min(self._retry, self._until - time.monotonic()))
        return self._retry

    def _attempt(self):
        """Read the Lease; renew it or take it if that may be done."""
        if self.leads():
            # NOTE: written as it was last seen. If somebody changed it, the
            # server says so, and it is read at the next attempt.
            self._write(self._record(self._lease['spec'].get(
                'leaseTransitions') or 0, renewal=True))
            return
        lease = self._read()
        if lease is None:
            self._write(self._record(self._epoch + 1), create=True)
        elif self._may_take(lease['spec']):
            transitions = lease['spec'].get('leaseTransitions') or 0
            self._write(self._record(max(transitions, self._epoch) + 1))

    def _read(self):
        try:
            lease = self._client.get(self._path, timeout=self._timeout())
        except exceptions.KubernetesNotFound:
            self._lease = None
            return None
        lease.setdefault('spec', {})
        self._seen(lease)
        return lease

    def _seen(self, lease):
        """Note a Lease as the server has it."""
        if self._lease is None or lease['spec'] != self._lease['spec']:
            self._changed_at = time.monotonic()
        self._lease = lease
        self._epoch = lease['spec'].get('leaseTransitions') or 0
        _EPOCH.set(self._epoch)

    def _may_take(self, spec):
        # What this one holds without leading it gave up or never knew that
        # it got: nobody can have led since.
        if spec.get('holderIdentity') in (None, '', self.identity):
            return True
        seconds = spec.get('leaseDurationSeconds') or self._duration
        return time.monotonic() >= self._changed_at + seconds

    def _record(self, transitions, renewal=False):
        now = datetime.datetime.now(datetime.timezone.utc).strftime(
            '%Y-%m-%dT%H:%M:%S.%fZ')
        spec = {'holderIdentity': self.identity,
                'leaseDurationSeconds': self._duration,
                'leaseTransitions': transitions,
                'renewTime': now,
                'acquireTime': now}
        if renewal:
            spec['acquireTime'] = self._lease['spec'].get('acquireTime', now)
        return spec

    def _write(self, spec, create=False):
        """Write the Lease as its holder; lead if the server takes it."""
        sent = time.monotonic()
        meta = {'name': self._name, 'namespace': self._namespace}
        body = {'apiVersion': resources.LEASES.api_version,
                'kind': resources.LEASES.kind, 'metadata': meta, 'spec': spec}
        try:
            if create:
                lease = self._client.create(self._list_path, body,
                                            timeout=self._timeout())
            else:
                meta['resourceVersion'] = (
                    self._lease['metadata']['resourceVersion'])
                lease = self._client.put(self._path, body,
                                         timeout=self._timeout())
        except (exceptions.KubernetesConflict,
                exceptions.KubernetesNotFound):
            # Somebody else has written or deleted it.
            self._read()
            if self._leading and self._holder() != self.identity:
                self._demote('%s has taken the lease' % self._holder())
            raise
        self._seen(lease)
        self._until = sent + self._deadline
        if not self._leading:
            self._leading = True
            LOG.info('Leading, epoch %s', self._epoch)
            _LEADING.set(1)
            self._on_started(self._epoch)

    def _holder(self):
        return (self._lease or {}).get('spec', {}).get('holderIdentity')

    def _timeout(self):
        """Seconds to wait for an answer: no longer than this one leads."""
        if self._leading:
            return min(5, max(0.1, self._until - time.monotonic()))
        return 5

    def _demote(self, reason):
        self._leading = False
        self._until = 0.0
        (LOG.info if self._stop.is_set() else LOG.warning)(
            'Leading no more: %s', reason)
        _LEADING.set(0)
        self._on_stopped()

    def _give_back(self):
        """Let another candidate lead at once."""
        self._client = self._client.clone()
        try:
            lease = self._client.get(self._path, timeout=2)
            if lease['spec'].get('holderIdentity') == self.identity:
                lease['spec']['holderIdentity'] = ''
                self._client.put(self._path, lease, timeout=2)
        except exceptions.KuryrCiliumException as error:
            LOG.info('The lease was not given back, it will expire: %s',
                     error)
        finally:
            self._client.close()
