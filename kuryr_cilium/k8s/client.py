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

"""A client of the Kubernetes API on requests.

Objects are dictionaries as the API has them: decoding them into classes
costs ten times the time and four times the memory.
"""

import json
import threading
import weakref

from oslo_log import log as logging
import requests
import urllib3

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access as k8s_access
from kuryr_cilium.k8s import transport

LOG = logging.getLogger(__name__)

MERGE_PATCH = 'application/merge-patch+json'

#: Everything a request can fail with below HTTP.
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

_ERRORS = {
    401: exceptions.KubernetesUnauthorized,
    403: exceptions.KubernetesForbidden,
    404: exceptions.KubernetesNotFound,
    409: exceptions.KubernetesConflict,
    410: exceptions.KubernetesGone,
    422: exceptions.KubernetesInvalid,
    429: exceptions.KubernetesBusy,
    500: exceptions.KubernetesUnavailable,
    502: exceptions.KubernetesUnavailable,
    503: exceptions.KubernetesUnavailable,
    504: exceptions.KubernetesUnavailable,
}


class Client:
    """The verbs of the API. Threads may share one.

    :param access: an access.Access.
    :param timeout: seconds to wait for an answer, and for a connection half
        of them.
    :param page_size: objects a page of a list.
    :param component: name of the process, for the server's audit log.
    """

    def __init__(self, access, timeout=10, page_size=500,
                 component='kuryr-cilium'):
        self._access = access
        self._timeout = timeout
        self._page_size = page_size
        self._component = component
        self._token = k8s_access.Token(access)
        self._lock = threading.Lock()
        self._closed = False
        self._transport = None
        self._watches = weakref.WeakSet()

    @classmethod
    def from_conf(cls, conf, component):
        """The client that the configuration describes.

        :raises: exceptions.KubernetesAccessInvalid.
        """
        return cls(k8s_access.from_conf(conf), conf.kubernetes.timeout,
                   conf.kubernetes.page_size, component)

    def clone(self):
        """A client of the same server with connections of its own."""
        return Client(self._access, self._timeout, self._page_size,
                      self._component)

    def get(self, path, params=None, timeout=None):
        """Read an object.

        :param timeout: seconds, if not the client's.
        """
        return self._call('GET', path, params=params, timeout=timeout)

    def create(self, path, body, timeout=None):
        """Create an object; path is that of the list."""
        return self._call('POST', path, body, timeout=timeout)

    def put(self, path, body, timeout=None):
        """Replace an object.

        :raises: exceptions.KubernetesConflict if its resourceVersion is not
            the one in body.
        """
        return self._call('PUT', path, body, timeout=timeout)

    def merge_patch(self, path, body, timeout=None):
        """Change fields of an object (RFC 7386).

        With ``metadata.uid`` in body only that very object is changed.

        :raises: exceptions.KubernetesInvalid if another one has its name
            now, exceptions.KubernetesNotFound if none has.
        """
        return self._call('PATCH', path, body, content_type=MERGE_PATCH,
                          timeout=timeout)

    def delete(self, path, body=None, timeout=None):
        """Delete an object."""
        return self._call('DELETE', path, body, timeout=timeout)

    def pages(self, path, params=None, limit=None):
        """List objects page by page.

        :param limit: objects a page, if not the client's page_size; 0 for
            one page with all of them.
        :returns: an iterator of lists as the API has them.
        :raises: exceptions.KubernetesGone if the pages went on for so long
            that the server has forgotten what the first one showed.
        """
        params = dict(params or {})
        limit = self._page_size if limit is None else limit
        if limit:
            params['limit'] = limit
        while True:
            page = self._call('GET', path, params=params)
            yield page
            token = page['metadata'].get('continue')
            if not token:
                return
            params['continue'] = token

    def watch(self, path, params, read_timeout):
        """Follow the changes of objects.

        :param params: resourceVersion, selectors, timeoutSeconds ...
        :param read_timeout: seconds without a word after which the
            connection is given up.
        :returns: a Watch.
        """
        wire = transport.Transport(self._access, self._token,
                                   self._component)
        params = dict(params, watch='true')
        watch = Watch(wire, self._access.server + path, params,
                      (self._timeout / 2, read_timeout))
        with self._lock:
            self._watches.add(watch)
            if self._closed:
                watch.close()
        return watch

    def close(self):
        """Cut all requests and watches at once; from any thread."""
        with self._lock:
            self._closed = True
            if self._transport is not None:
                self._transport.close()
            for watch in self._watches:
                watch.close()

    def _wire(self):
        # NOTE: made late, so that a client can be had before certificates
        # are in place and that what fails is a request.
        with self._lock:
            if self._transport is None:
                self._transport = transport.Transport(
                    self._access, self._token, self._component,
                    connections=8)
                if self._closed:
                    self._transport.close()
            return self._transport

    def _call(self, method, path, body=None, params=None, timeout=None,
              content_type='application/json'):
        timeout = timeout or self._timeout
        headers = {'Accept': 'application/json'}
        data = None
        if body is not None:
            data = json.dumps(body, separators=(',', ':')).encode()
            headers['Content-Type'] = content_type
        try:
            answer = self._wire().request(
                method, self._access.server + path, params=params, data=data,
                headers=headers, timeout=(timeout / 2, timeout))
            if answer.status_code >= 300:
                raise _refusal(method, path, answer.status_code,
                               answer.content)
            decoded = json.loads(answer.content)
        except _BROKEN as error:
            raise _broken(method, path, error) from error
        except ValueError as error:
            raise exceptions.KubernetesUnavailable(
                method=method, path=path, status='',
                reason='the answer is not JSON: %s' % error) from error
        if not isinstance(decoded, dict):
            raise exceptions.KubernetesUnavailable(
                method=method, path=path, status='',
                reason='the answer is not an object')
        return decoded


class Watch:
    """A running watch: iterate once, in one thread; close() from any."""

    def __init__(self, wire, url, params, timeout):
        self._wire = wire
        self._url = url
        self._params = params
        self._timeout = timeout

    def close(self):
        """End the iteration at once."""
        self._wire.close()

    def __iter__(self):
        """Yield (type, object) until the server or close() ends it.

        The first pair is (None, None), when the server has accepted.

        :raises: exceptions.KubernetesError: as for a request; KubernetesGone
            also if the server says so in between.
        """
        try:
            with self._wire.request(
                    'GET', self._url, params=self._params, stream=True,
                    headers={'Accept': 'application/json',
                             'Accept-Encoding': 'identity'},
                    timeout=self._timeout) as answer:
                if answer.status_code >= 300:
                    raise _refusal('WATCH', self._url, answer.status_code,
                                   answer.content)
                yield None, None
                for line in _lines(answer.iter_content(chunk_size=None)):
                    yield self._event(line)
        except _BROKEN as error:
            if not self._wire.closed:
                raise _broken('WATCH', self._url, error) from error
        finally:
            self._wire.release()

    def _event(self, line):
        try:
            event = json.loads(line)
            kind, obj = event['type'], event['object']
        except (ValueError, KeyError, TypeError) as error:
            raise exceptions.KubernetesUnavailable(
                method='WATCH', path=self._url, status='',
                reason='an event can not be read: %s' % error) from error
        if kind == 'ERROR':
            raise _error('WATCH', self._url, obj.get('code') or 500, obj)
        return kind, obj


def _lines(chunks):
    """Lines of a stream of bytes."""
    pending = []
    for chunk in chunks:
        parts = chunk.split(b'\n')
        pending.append(parts[0])
        for part in parts[1:]:
            line = b''.join(pending)
            if line:
                yield line
            pending = [part]


def _refusal(method, path, status, content):
    """The exception for an answer that is an error."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {'message': content[:200].decode(errors='replace').strip()}
    return _error(method, path, status, body)


def _error(method, path, status, body):
    kind = _ERRORS.get(status, exceptions.KubernetesError)
    details = body.get('details')
    retry = details.get('retryAfterSeconds') if isinstance(
        details, dict) else None
    return kind(method=method, path=path, status=status, retry_after=retry,
                reason=body.get('message') or body.get('reason') or '')


def _broken(method, path, error):
    return exceptions.KubernetesUnavailable(
        method=method, path=path, status='', reason='no answer: %s' % error)
