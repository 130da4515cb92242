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

"""Requests to Neutron: one connection, retries, errors of one kind.

openstacksdk finds the endpoint and authenticates; what goes over it is JSON
as Neutron's API reference has it. Methods may be called from any thread.
"""

import threading
import urllib.parse

from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import loading as ks_loading
from openstack import connection
from openstack import exceptions as sdk_exceptions
from oslo_log import log as logging
import tenacity

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

_ATTEMPTS = 3
_PAGE = 1000


class Client:
    """A connection to Neutron, made when it is first used."""

    def __init__(self, conf, wait=None):
        """Initialise a client.

        :param wait: tenacity's wait between two attempts.
        """
        self._conf = conf
        self._lock = threading.Lock()
        self._proxy = None
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=wait or tenacity.wait_exponential_jitter(0.5, 5),
            retry=tenacity.retry_if_exception_type(
                exceptions.NeutronUnavailable),
            before_sleep=lambda state: LOG.warning(
                '%s', state.outcome.exception()), reraise=True)

    def get(self, path, **params):
        """The body of what is at a path, as /ports/ID."""
        return self._repeat('GET', path, params=params)

    def post(self, path, body):
        """Create something.

        Not repeated by itself: an answer that was lost may have been good.
        """
        return self._once('POST', path, json=body)

    def put(self, path, body):
        """Change something."""
        return self._repeat('PUT', path, json=body)

    def delete(self, path):
        """Delete something, which may be gone already."""
        try:
            self._repeat('DELETE', path)
        except exceptions.NeutronNotFound:
            LOG.debug('%s is gone already', path)

    def list(self, collection, **params):
        """Every object of a collection, page by page.

        :param collection: as 'ports' or 'security-groups'.
        :param params: filters; 'fields' names what is wanted.
        """
        path, found = '/' + collection, []
        name = collection.replace('-', '_')
        params = dict(params, limit=_PAGE)
        while True:
            body = self.get(path, **params)
            found += body[name]
            after = [link['href'] for link in body.get(name + '_links', ())
                     if link['rel'] == 'next']
            if not after:
                return found
            # NOTE: the link's host may be Neutron's idea of itself.
            params = urllib.parse.parse_qs(
                urllib.parse.urlsplit(after[0]).query)

    def retrying(self, function):
        """Call a function again where Neutron wasn't available."""
        return self._retrying.copy()(function)

    def _repeat(self, method, path, **arguments):
        return self.retrying(lambda: self._once(method, path, **arguments))

    def _once(self, method, path, **arguments):
        try:
            response = self._connected().request(
                path, method, raise_exc=False, **arguments)
        except (ks_exceptions.ClientException,
                sdk_exceptions.SDKException) as error:
            raise exceptions.NeutronUnavailable(
                method=method, path=path,
                reason=str(error) or type(error).__name__) from error
        if response.status_code < 300:
            return response.json() if response.content else None
        raise _error(method, path, response)

    def _connected(self):
        proxy = self._proxy
        if proxy is None:
            with self._lock:
                if self._proxy is None:
                    self._proxy = self._connect()
                proxy = self._proxy
        return proxy

    def _connect(self):
        auth = ks_loading.load_auth_from_conf_options(self._conf, 'neutron')
        session = ks_loading.load_session_from_conf_options(
            self._conf, 'neutron', auth=auth)
        return connection.Connection(
            session=session, oslo_conf=self._conf,
            service_types=['network']).network


def _error(method, path, response):
    """The exception for an answer that says no."""
    kind, reason = None, response.reason
    try:
        error = response.json()['NeutronError']
        kind, reason = error['type'], error['message']
    except (ValueError, KeyError, TypeError):
        LOG.debug('%s %s: %.500s', method, path, response.text)
    status = response.status_code
    if status >= 500 or status == 429:
        cls = exceptions.NeutronUnavailable
        reason = '%s %s' % (status, reason)
    else:
        cls = {404: exceptions.NeutronNotFound,
               409: exceptions.NeutronConflict}.get(status,
                                                    exceptions.NeutronError)
    return cls(method=method, path=path, status=status, reason=reason,
               type=kind)
