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

"""Follows all objects of a kind: list, then watch, for ever.

A reflector's thread lists the objects page by page, then watches from the
list's resourceVersion and tells its handler what is added, modified and
deleted. When the API server has forgotten that version (410 Gone) it lists
again and finds out by itself what vanished. Whatever goes wrong is counted,
logged when it begins and when it ends, and tried again after a delay that
grows; nothing of it reaches the handler.

A kind that a cluster may have or not (its CustomResourceDefinition) is
*optional*: as long as the server does not know it there are no objects, and
the reflector asks again from time to time. Only what discovery says makes a
kind absent: a list that is not found for any other reason is a failure, and
takes nothing back.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, the
sections on efficient detection of changes, bookmarks and chunked lists.
"""

import random
import threading
import time

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff

LOG = logging.getLogger(__name__)

ADDED = 'ADDED'
MODIFIED = 'MODIFIED'
DELETED = 'DELETED'

#: Seconds after which the server ends a watch, give or take a fifth.
WATCH_SECONDS = 300
#: Seconds of silence after which a watch is given up. A server sends a
#: bookmark every one or two minutes.
SILENCE_SECONDS = 150
#: Seconds between two looks for an optional kind that is absent, give or take
#: a fifth.
ABSENT_SECONDS = 10
#: Seconds that a watch has to run until the next failure is a first one.
_LASTED = 2.0

_ERRORS = prometheus_client.Counter(
    'kuryr_cilium_kubernetes_reflector_errors',
    'Lists and watches that failed.', ['resource', 'error'])
_HANDLER_ERRORS = prometheus_client.Counter(
    'kuryr_cilium_kubernetes_reflector_handler_errors',
    'Objects that could not be handled (a fault of kuryr-cilium).',
    ['resource'])
_LISTS = prometheus_client.Counter(
    'kuryr_cilium_kubernetes_reflector_lists',
    'Complete lists of all objects.', ['resource'])
_OBJECTS = prometheus_client.Gauge(
    'kuryr_cilium_kubernetes_reflector_objects',
    'Objects that are followed.', ['resource'])
_ABSENT = prometheus_client.Gauge(
    'kuryr_cilium_kubernetes_reflector_absent',
    'Whether the server does not have this kind (in our version).',
    ['resource'])
_CONNECTED = prometheus_client.Gauge(
    'kuryr_cilium_kubernetes_reflector_connected',
    'Whether the watch is running.', ['resource'])


class Reflector:
    """Follows the objects of one kind.

    :param client: a client.Client; connections of its own are made of it.
    :param resource: a resources.Resource.
    :param handler: callable (change, object), called from this reflector's
        thread only. change is ADDED, MODIFIED or DELETED; the object of a
        deletion may have nothing but name, namespace and uid in its
        metadata. Objects of lists have no kind and apiVersion.
    :param namespace: the one to look into; None for all.
    :param field_selector: as 'spec.nodeName=node-1'.
    :param label_selector: as 'a=b,c!=d'.
    :param on_synced: called once, when the first list was handled.
    :param optional: whether the server may not have the kind.
    """

    def __init__(self, client, resource, handler, namespace=None,
                 field_selector=None, label_selector=None, on_synced=None,
                 watch_seconds=WATCH_SECONDS,
                 silence_seconds=SILENCE_SECONDS, optional=False,
                 absent_seconds=ABSENT_SECONDS):
        self.resource = resource
        self.synced = threading.Event()
        self._client = client.clone()
        self._path = resource.path(namespace)
        self._handler = handler
        self._on_synced = on_synced
        self._selectors = {}
        if field_selector:
            self._selectors['fieldSelector'] = field_selector
        if label_selector:
            self._selectors['labelSelector'] = label_selector
        self._watch_seconds = watch_seconds
        self._silence_seconds = silence_seconds
        self._optional = optional
        self._absent_seconds = absent_seconds
        #: Why the kind is absent, as it was logged last.
        self._absence = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name='reflector-' + resource.plural,
            daemon=True)
        #: (namespace, name) -> (uid, resourceVersion) of what was delivered.
        self._known = {}
        self._version = None
        self._backoff = backoff.Backoff(0.5, 15)
        self._failure = 'not connected yet'
        self._failed_at = time.monotonic()
        self._works_since = None
        self._reported = False

    def start(self):
        """Start following."""
        self._thread.start()

    def stop(self, timeout=5):
        """Stop at once, whatever is going on.

        :param timeout: seconds to wait for the thread; a handler that is
            running is not broken off.
        """
        self._stop.set()
        self._client.close()
        if (self._thread.is_alive() and
                self._thread is not threading.current_thread()):
            self._thread.join(timeout)
        _CONNECTED.labels(self.resource.plural).set(0)

    def alive(self):
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def check(self):
        """None if the objects are known and followed, else why not."""
        failure = self._failure
        if failure is not None:
            return '%s: %s' % (self.resource.plural, failure)
        if not self.synced.is_set():
            return '%s are not listed yet' % self.resource.plural
        return None

    def current(self, grace):
        """Whether what was delivered is what the API has.

        :param grace: seconds that a broken connection is overlooked.
        """
        return self.synced.is_set() and (
            self._failure is None or
            time.monotonic() - self._failed_at < grace)

    def _run(self):
        while not self._stop.is_set():
            self._works_since = None
            try:
                if self._version is None:
                    self._list()
                self._watch()
                # A server that ends every watch at once is not to be asked
                # without a pause.
                delay = 0 if self._lasted() else self._backoff.next()
            except exceptions.KubernetesGone as error:
                LOG.debug('%s: %s', self.resource.plural, error)
                _ERRORS.labels(self.resource.plural, 'KubernetesGone').inc()
                self._version = None
                delay = self._backoff.next()
            except exceptions.KubernetesNotFound as error:
                delay = self._not_found(error)
            except exceptions.KuryrCiliumException as error:
                delay = self._failed(error)
            except Exception as error:
                LOG.exception('Following %s failed', self.resource.plural)
                self._version = None
                delay = self._failed(error)
            self._stop.wait(delay)

    def _not_found(self, error):
        """The kind may be absent; returns a delay."""
        if not self._optional:
            return self._failed(error)
        self._version = None
        try:
            absence = self._look_for_kind()
            if absence is None:
                return self._failed(error)
            self._absent(absence)
        except exceptions.KuryrCiliumException as failure:
            return self._failed(failure)
        except Exception as failure:
            LOG.exception('Looking for %s failed', self.resource.plural)
            return self._failed(failure)
        return self._absent_seconds * random.uniform(0.8, 1.2)

    def _look_for_kind(self):
        """Why the server does not have the kind; None if it does have it."""
        wanted = self.resource.api_version
        try:
            group = self._client.get(self.resource.group_path)
        except exceptions.KubernetesNotFound:
            return ''
        served = [item['groupVersion'] for item in group['versions']]
        having = []
        for version in served:
            try:
                kinds = self._client.get('/apis/' + version)['resources']
            except exceptions.KubernetesNotFound:
                continue
            if any(kind['name'] == self.resource.plural for kind in kinds):
                having.append(version)
        if wanted in having:
            return None
        return ', '.join(sorted(having))

    def _absent(self, served):
        """There are no objects of the kind.

        :param served: versions in which the server does have it.
        """
        if self._absence != served:
            self._absence = served
            if served:
                LOG.error(
                    '%s are not enforced: the cluster has them as %s, '
                    'kuryr-cilium reads %s. Install the definition of this '
                    'version (deploy/crds).', self.resource.plural, served,
                    self.resource.api_version)
            else:
                LOG.info('The cluster has no %s in %s; looking for them '
                         'from time to time', self.resource.plural,
                         self.resource.api_version)
        for key in list(self._known):
            self._vanished(key)
        _OBJECTS.labels(self.resource.plural).set(0)
        _ABSENT.labels(self.resource.plural).set(1)
        _CONNECTED.labels(self.resource.plural).set(0)
        self._failure = None
        self._reported = False
        self._backoff.reset()
        self._has_synced()

    def _has_synced(self):
        if not self.synced.is_set():
            self.synced.set()
            if self._on_synced is not None:
                self._on_synced()

    def _lasted(self):
        """Whether the watch that ended had worked for a while."""
        if (self._works_since is None or
                time.monotonic() - self._works_since < _LASTED):
            return False
        self._backoff.reset()
        return True

    def _failed(self, error):
        """Note that the API can't be followed; returns a delay."""
        if self._stop.is_set():
            return 0
        self._lasted()
        _ERRORS.labels(self.resource.plural, type(error).__name__).inc()
        _CONNECTED.labels(self.resource.plural).set(0)
        if self._failure is None:
            self._failed_at = time.monotonic()
        if not self._reported:
            LOG.warning('%s can not be followed, trying again: %s',
                        self.resource.plural, error)
            self._reported = True
        self._failure = str(error)
        delay = self._backoff.next()
        asked = (error.kwargs.get('retry_after') if
                 isinstance(error, exceptions.KubernetesError) else None)
        return max(delay, min(asked or 0, 60))

    def _works(self):
        """Note that the API is followed."""
        self._works_since = time.monotonic()
        if self._failure is not None:
            LOG.info('Watching %s', self.resource.plural)
        self._failure = None
        self._reported = False
        _CONNECTED.labels(self.resource.plural).set(1)

    def _list(self):
        _LISTS.labels(self.resource.plural).inc()
        try:
            version = self._list_pages()
        except exceptions.KubernetesGone:
            # The pages took too long. One page with all can't expire.
            version = self._list_pages(limit=0)
        if version is None:
            return
        self._version = version
        self._absence = None
        _ABSENT.labels(self.resource.plural).set(0)
        self._has_synced()

    def _list_pages(self, limit=None):
        """Deliver what is there; returns the version, None if stopped."""
        seen = set()
        version = None
        for page in self._client.pages(self._path, self._selectors, limit):
            for obj in page.get('items') or ():
                if self._stop.is_set():
                    return None
                seen.add(self._updated(obj))
            version = page['metadata']['resourceVersion']
        for key in self._known.keys() - seen:
            self._vanished(key)
        _OBJECTS.labels(self.resource.plural).set(len(self._known))
        return version

    def _watch(self):
        params = dict(self._selectors)
        params['resourceVersion'] = self._version
        params['allowWatchBookmarks'] = 'true'
        params['timeoutSeconds'] = int(
            self._watch_seconds * random.uniform(0.8, 1.2))
        watch = self._client.watch(self._path, params, self._silence_seconds)
        for change, obj in watch:
            if self._stop.is_set():
                watch.close()
                return
            if change is None:
                self._works()
                continue
            if change == DELETED:
                self._deleted(obj)
            elif change in (ADDED, MODIFIED):
                self._updated(obj)
            self._version = obj['metadata']['resourceVersion']
            self._backoff.reset()
            _OBJECTS.labels(self.resource.plural).set(len(self._known))

    def _updated(self, obj):
        """Deliver an object as it is now; returns its key."""
        meta = obj['metadata']
        key = (meta.get('namespace'), meta['name'])
        seen = (meta['uid'], meta['resourceVersion'])
        known = self._known.get(key)
        if known == seen:
            return key
        if known is not None and known[0] != meta['uid']:
            # Deleted and made again under the same name, unseen.
            self._vanished(key)
            known = None
        if self._deliver(ADDED if known is None else MODIFIED, obj):
            self._known[key] = seen
        else:
            # The next list delivers it again.
            self._known[key] = (meta['uid'], None)
        return key

    def _deleted(self, obj):
        meta = obj['metadata']
        key = (meta.get('namespace'), meta['name'])
        if self._known.pop(key, None) is not None:
            self._deliver(DELETED, obj)

    def _vanished(self, key):
        """Deliver the deletion of what is not there any more."""
        namespace, name = key
        meta = {'name': name, 'uid': self._known.pop(key)[0]}
        if namespace is not None:
            meta['namespace'] = namespace
        self._deliver(DELETED, {'metadata': meta})

    def _deliver(self, change, obj):
        """Call the handler; returns whether it went well."""
        # Who set which field: half of the size of a small object.
        obj['metadata'].pop('managedFields', None)
        try:
            self._handler(change, obj)
        except Exception:
            _HANDLER_ERRORS.labels(self.resource.plural).inc()
            LOG.exception('%s of %s %s/%s could not be handled', change,
                          self.resource.plural,
                          obj['metadata'].get('namespace'),
                          obj['metadata'].get('name'))
            return False
        return True
