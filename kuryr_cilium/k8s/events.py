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

"""Kubernetes Events: what ``kubectl describe`` shows below an object.

An Event that repeats is counted up on the server; an object that has too
many of them is left alone for a while. Recording never blocks and never
fails: what can't be written is counted and dropped.

Source: core/v1 Event; how repetitions are counted follows Kubernetes'
client-go/tools/record.
"""

import collections
import datetime
import queue
import threading
import time
import uuid

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff
from kuryr_cilium.k8s import resources

LOG = logging.getLogger(__name__)

NORMAL = 'Normal'
WARNING = 'Warning'

#: Events of one object in a row, and seconds until it may have one more.
BURST = 25
REFILL_SECONDS = 30
#: Events that wait to be written, and objects and Events that are known.
_QUEUE = 1000
_KNOWN = 4096
_ATTEMPTS = 5
_MESSAGE_LENGTH = 1024

_DROPPED = prometheus_client.Counter(
    'kuryr_cilium_kubernetes_events_dropped',
    'Events that were not written.', ['why'])


def reference(resource, obj):
    """What names an object in an Event.

    :param resource: a resources.Resource: objects of lists don't say what
        they are.
    """
    meta = obj['metadata']
    found = {'apiVersion': resource.api_version, 'kind': resource.kind,
             'name': meta['name'], 'uid': meta['uid']}
    if meta.get('namespace'):
        found['namespace'] = meta['namespace']
    return found


class Recorder:
    """Writes Events from a thread of its own.

    :param client: a client.Client; connections of its own are made of it.
    :param component: name of the process, shown as the source.
    :param host: where it runs.
    """

    def __init__(self, client, component, host):
        self._client = client.clone()
        self._component = component
        self._host = host
        self._queue = queue.Queue(_QUEUE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='events',
                                        daemon=True)
        self._written = _Recent(_KNOWN)
        self._buckets = _Recent(_KNOWN)

    def start(self):
        """Begin to write."""
        self._thread.start()

    def stop(self, timeout=5):
        """Stop at once; what was not written is dropped."""
        self._stop.set()
        self._client.close()
        if self._thread.is_alive():
            self._queue_put(None)
            self._thread.join(timeout)

    def alive(self):
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def event(self, involved, kind, reason, message):
        """Record an Event.

        :param involved: a reference() to the object.
        :param kind: NORMAL or WARNING.
        :param reason: one word in CamelCase, for machines.
        :param message: for people: what is wrong and what to do.
        """
        if len(message) > _MESSAGE_LENGTH:
            message = message[:_MESSAGE_LENGTH - 3] + '...'
        self._queue_put((involved, kind, reason, message))

    def _queue_put(self, item):
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            _DROPPED.labels('queue full').inc()

    def _run(self):
        while not self._stop.is_set():
            item = self._queue.get()
            if item is None:
                continue
            try:
                self._record(*item)
            except Exception:
                _DROPPED.labels('error').inc()
                LOG.exception('The event %s could not be written', item)

    def _record(self, involved, kind, reason, message):
        if not self._allowed(involved['uid']):
            _DROPPED.labels('rate').inc()
            return
        delays = backoff.Backoff(1, 10)
        while not self._stop.is_set():
            try:
                self._write(involved, kind, reason, message)
                return
            except exceptions.KuryrCiliumException as error:
                delay = delays.next()
                if (delays.failures >= _ATTEMPTS or not isinstance(
                        error, (exceptions.KubernetesUnavailable,
                                exceptions.KubernetesBusy))):
                    _DROPPED.labels('refused').inc()
                    LOG.warning('Event %s of %s %s/%s was not written: %s',
                                reason, involved['kind'],
                                involved.get('namespace'), involved['name'],
                                error)
                    return
            self._stop.wait(delay)

    def _allowed(self, uid):
        """Whether an object may have one more Event now."""
        now = time.monotonic()
        tokens, at = self._buckets.get(uid) or (BURST, now)
        tokens = min(BURST, tokens + (now - at) / REFILL_SECONDS)
        allowed = tokens >= 1
        self._buckets.put(uid, (tokens - 1 if allowed else tokens, now))
        return allowed

    def _write(self, involved, kind, reason, message):
        namespace = involved.get('namespace', 'default')
        now = datetime.datetime.now(datetime.timezone.utc).strftime(
            '%Y-%m-%dT%H:%M:%SZ')
        key = (involved['uid'], kind, reason, message)
        name, count = self._written.get(key) or (None, 0)
        if name is not None:
            try:
                self._client.merge_patch(
                    resources.EVENTS.path(namespace, name),
                    {'count': count + 1, 'lastTimestamp': now})
                self._written.put(key, (name, count + 1))
                return
            except exceptions.KubernetesNotFound:
                # The server keeps Events for an hour.
                LOG.debug('The event %s has expired', name)
        name = '%s.%s' % (involved['name'][:220], uuid.uuid4().hex[:16])
        self._client.create(resources.EVENTS.path(namespace), {
            'apiVersion': resources.EVENTS.api_version,
            'kind': resources.EVENTS.kind,
            'metadata': {'name': name, 'namespace': namespace},
            'involvedObject': involved, 'type': kind, 'reason': reason,
            'message': message, 'count': 1,
            'firstTimestamp': now, 'lastTimestamp': now,
            'source': {'component': self._component, 'host': self._host},
            'reportingComponent': self._component,
            'reportingInstance': self._host})
        self._written.put(key, (name, 1))


class _Recent:
    """A dictionary that forgets what was not used for longest."""

    def __init__(self, size):
        self._size = size
        self._items = collections.OrderedDict()

    def get(self, key):
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key, value):
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._size:
            self._items.popitem(last=False)
