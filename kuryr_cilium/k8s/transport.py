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

"""Connections to the API server that another thread can cut.

A read that waits for the next event of a watch is woken by nothing but its
socket: closing the file descriptor does not do it, shutting the connection
down does.
"""

import socket
import threading
import weakref

import requests
from requests import adapters
import urllib3
from urllib3 import connection
from urllib3 import connectionpool

#: A peer that vanished without a word is noticed within half a minute.
_SOCKET_OPTIONS = connection.HTTPConnection.default_socket_options + [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30000),
]


class Sockets:
    """The open sockets of one transport."""

    def __init__(self):
        self._lock = threading.Lock()
        self._open = weakref.WeakSet()
        self.cut = False

    def add(self, sock):
        """Note a socket that was connected.

        :raises: OSError if the transport was cut in between.
        """
        with self._lock:
            self._open.add(sock)
            if self.cut:
                _shutdown(sock)
                raise ConnectionAbortedError('the connection was cut')

    def discard(self, sock):
        """Forget a socket."""
        with self._lock:
            self._open.discard(sock)

    def shutdown(self):
        """Wake whatever reads or writes; nothing connects after this."""
        with self._lock:
            self.cut = True
            for sock in self._open:
                _shutdown(sock)


def _shutdown(sock):
    try:
        # NOTE: not SSLSocket.shutdown(), which takes the TLS state away
        # from under the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        # Not connected any more: there is nothing to wake.
        return


class Transport:
    """A requests.Session to one server.

    :param access: an access.Access.
    :param token: an access.Token.
    :param user_agent: what the server's audit log shows.
    :param connections: how many are kept open.
    :raises: exceptions.KubernetesAccessInvalid if certificates can't be
        read.
    """

    def __init__(self, access, token, user_agent, connections=1):
        self._sockets = Sockets()
        self._session = requests.Session()
        # NOTE: the API server is never reached through the proxies of the
        # environment, and ~/.netrc holds nothing of it.
        self._session.trust_env = False
        self._session.headers['User-Agent'] = user_agent
        self._session.auth = _Bearer(token)
        self._verify = not access.insecure
        adapter = _Adapter(access, self._sockets, connections)
        self._session.mount('https://', adapter)
        self._session.mount('http://', adapter)

    @property
    def closed(self):
        """Whether close() was called."""
        return self._sockets.cut

    def request(self, method, url, **kwargs):
        """As requests.Session.request()."""
        return self._session.request(method, url, verify=self._verify,
                                     allow_redirects=False, **kwargs)

    def close(self):
        """Cut every connection at once; may be called from any thread."""
        self._sockets.shutdown()

    def release(self):
        """Free what the session holds; only from the thread that uses it."""
        self._session.close()


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token):
        self._token = token

    def __call__(self, request):
        token = self._token.get()
        if token:
            request.headers['Authorization'] = 'Bearer ' + token
        return request


class _Adapter(adapters.HTTPAdapter):
    def __init__(self, access, sockets, connections):
        self._access = access
        self._sockets = sockets
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, connections, maxsize, block=False,
                         **pool_kwargs):
        pool_kwargs['socket_options'] = _SOCKET_OPTIONS
        if self._access.server.startswith('https:'):
            pool_kwargs['ssl_context'] = self._access.ssl_context()
            if self._access.server_name:
                pool_kwargs['server_hostname'] = self._access.server_name
        self.poolmanager = urllib3.PoolManager(
            num_pools=connections, maxsize=maxsize, block=block,
            **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._sockets)

    def cert_verify(self, conn, url, verify, cert):
        # NOTE: the TLS context knows the authorities; what is overridden
        # here would add the public ones to it.
        conn.cert_reqs = 'CERT_REQUIRED' if verify else 'CERT_NONE'


def _pool_classes(sockets):
    """Pools whose connections note their sockets."""

    class Noting:
        def _new_conn(self):
            sock = super()._new_conn()
            # NOTE: the TLS handshake takes the file descriptor away from
            # this object. A duplicate can be shut down all the same.
            self._twin = sock.dup()
            try:
                sockets.add(self._twin)
            except OSError:
                sock.close()
                raise
            return sock

        def connect(self):
            self._twin = None
            try:
                super().connect()
                sockets.add(self.sock)
            finally:
                if self._twin is not None:
                    sockets.discard(self._twin)
                    self._twin.close()

    class HTTPConnection(Noting, connection.HTTPConnection):
        pass

    class HTTPSConnection(Noting, connection.HTTPSConnection):
        pass

    class HTTPPool(connectionpool.HTTPConnectionPool):
        ConnectionCls = HTTPConnection

    class HTTPSPool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = HTTPSConnection

    return {'http': HTTPPool, 'https': HTTPSPool}
