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

"""The CNI server: answers what kuryr-cilium-cni hands over.

Requests of one interface are worked on one after the other, those of
different pods side by side. A DEL doesn't wait for an ADD of the same
interface that waits for something: it lets it give up. A DEL needs nothing
beyond this node.
"""

import contextlib
import pathlib
import socket
import threading
import time
from typing import Callable, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import cni_message
from kuryr_cilium.agent import plug
from kuryr_cilium.agent import sockets
from kuryr_cilium import exceptions
from kuryr_cilium.monitor import metrics
from kuryr_cilium import vif as kc_vif

LOG = logging.getLogger(__name__)

#: The name of the interface that a pod's default VIF becomes.
DEFAULT_INTERFACE = 'eth0'
#: Seconds that a client may take to send its request or take its answer.
CLIENT_TIMEOUT = 5.0
#: Seconds for a request other than ADD.
OTHER_TIMEOUT = 50.0
#: Connections that may be open at once; more wait in the backlog.
MAX_CONNECTIONS = 512


class _Flight:
    """An interface that is being worked on."""

    def __init__(self):
        self.lock = threading.Lock()
        self.users = 0
        self.cancelled = threading.Event()
        self.vif_id: Optional[str] = None


class CNIServer:
    """Serves the socket. Start it when records were swept.

    :param path: of the socket.
    :param plugger: an agent.plug.Plugger.
    :param pods: an agent.pods.Pods.
    :param views: an agent.sync.Views.
    :param store: an agent.store.Store.
    :param released: called with the record of each port unplugged.
    :param status: raises an exceptions.CNIError if no ADD can be served.
    """

    def __init__(self, path: str, plugger, pods, views, store,
                 released: Callable, status: Callable[[], None],
                 add_timeout: float = 40.0, max_adds: int = 32,
                 max_requests: int = 16):
        self._path = pathlib.Path(path)
        self._plugger = plugger
        self._pods = pods
        self._views = views
        self._store = store
        self._released = released
        self._status = status
        self._add_timeout = add_timeout
        self._adds = threading.Semaphore(max_adds)
        self._others = threading.Semaphore(max_requests)
        self._connections = threading.Semaphore(MAX_CONNECTIONS)
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._socket: Optional[socket.socket] = None
        self._thread: Optional[threading.Thread] = None
        self._commands = {
            'ADD': self._add, 'DEL': self._del, 'CHECK': self._check,
            'GC': self._gc, 'STATUS': self._ask_status,
            'VERSION': lambda request, deadline:
                cni_message.versions(request.version)}

    def start(self) -> None:
        """Open the socket.

        :raises: OSError, exceptions.StoreError if it can't be had.
        """
        self._stopping.clear()
        self._socket = sockets.listen(self._path)
        self._thread = threading.Thread(
            target=self._accept, name='cni', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket; ADDs that wait are given up.

        What is being plugged right now is left to its record.
        """
        self._stopping.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            keys = list(self._flights)
        for key in keys:
            self._cancel(key)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def busy(self) -> set[tuple[str, str]]:
        """(container id, interface) of what is being worked on."""
        with self._lock:
            return set(self._flights)

    def _accept(self):
        while not self._stopping.is_set():
            self._connections.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                self._connections.release()
                if self._stopping.is_set():
                    return
                LOG.error('The CNI socket does not accept: %s', error)
                self._stopping.wait(1.0)
                continue
            threading.Thread(
                target=self._serve, args=(connection, time.monotonic()),
                name='cni-request', daemon=True).start()

    def _serve(self, connection, started):
        try:
            with connection:
                connection.settimeout(CLIENT_TIMEOUT)
                try:
                    data = _read(connection)
                except OSError as error:
                    LOG.warning('A CNI request broke off: %s', error)
                    return
                answer = self.answer(data, started)
                try:
                    connection.sendall(answer)
                except OSError as error:
                    LOG.warning('The CNI client left before its answer: %s',
                                error)
        finally:
            self._connections.release()

    def answer(self, data: bytes, started: float) -> bytes:
        """The answer to a request.

        :param started: time.monotonic() at which it came.
        """
        request = None
        command, version, what, code = 'unknown', '', '', 0
        try:
            request = cni_message.parse(data)
            command, version = request.command, request.version
            what = request.what
            result = self._within_limits(request, started)
            return cni_message.encode(0, result)
        except exceptions.KuryrCiliumException as error:
            code, message = getattr(error, 'code', 100), str(error)
            LOG.warning('%(command)s of %(what)s failed: %(message)s', {
                'command': command, 'what': what, 'message': message})
        except Exception as error:
            LOG.exception('%(command)s of %(what)s failed.', {
                'command': command, 'what': what})
            code, message = 100, (
                'Internal error, see the log of kuryr-cilium-agent on this '
                'node: %s: %s' % (type(error).__name__, error))
        finally:
            metrics.CNI_REQUESTS.labels(command, str(code)).inc()
            metrics.CNI_SECONDS.labels(command).observe(
                time.monotonic() - started)
        return cni_message.encode(1, cni_message.failure(
            version, code, message, f'{command} of {what}'))

    def _within_limits(self, request, started):
        if request.command == 'ADD':
            limit = self._adds
            deadline = started + request.timeout(self._add_timeout)
        else:
            limit, deadline = self._others, started + OTHER_TIMEOUT
        if not limit.acquire(timeout=max(0, deadline - time.monotonic())):
            raise exceptions.TryAgainLater(
                reason='Too many requests are being worked on; [cni] '
                       'max_adds and max_requests say how many may be.')
        try:
            return self._commands[request.command](request, deadline)
        finally:
            limit.release()

    def _add(self, request, deadline):
        started = time.monotonic()
        if request.ifname != DEFAULT_INTERFACE:
            raise exceptions.CNIEnvironmentInvalid(
                reason='CNI_IFNAME is %s: only the pod\'s default interface, '
                       '%s, can be plugged' % (request.ifname,
                                               DEFAULT_INTERFACE))
        key = (request.container_id, request.ifname)
        with self._flight(key, deadline) as flight:
            if self._stopping.is_set():
                raise exceptions.TryAgainLater(reason='The agent is stopping')
            pod = self._pods.wait_annotation(
                request.namespace, request.name, request.uid, deadline,
                flight.cancelled)
            vif = kc_vif.loads(pod.annotation).default_vif
            flight.vif_id = vif.id
            if flight.cancelled.is_set():
                raise exceptions.Abandoned(what=request.what)
            layout = self._plugger.add(plug.Request(
                pod.uid, request.namespace, request.name,
                request.container_id, request.ifname, request.netns, vif),
                deadline)
        LOG.info('ADD of %(pod)s: port %(port)s, %(addresses)s, '
                 '%(ms).0f ms.', {
                     'pod': request.what, 'port': vif.id,
                     'addresses': ', '.join(
                         str(entry[0]) for entry in layout.addresses),
                     'ms': 1000 * (time.monotonic() - started)})
        return cni_message.success(layout, request.netns, request.version)

    def _del(self, request, deadline):
        key = (request.container_id, request.ifname)
        self._cancel(key)
        self._remove(key, deadline)

    def _remove(self, key, deadline):
        with self._flight(key, deadline):
            record = self._plugger.delete(*key)
        if record is not None:
            self._released(record)

    def _check(self, request, deadline):
        key = (request.container_id, request.ifname)
        with self._flight(key, deadline):
            if self._store.find(*key) is None:
                raise exceptions.CNIContainerUnknown(
                    container=request.container_id, ifname=request.ifname)
            self._plugger.check(*key)

    def _gc(self, request, deadline):
        valid = cni_message.valid_attachments(request.config)
        failed = []
        for record in self._store.list():
            key = (record.container_id, record.ifname)
            if key in valid or key in self.busy():
                continue
            LOG.info('GC: %s is not in use any more.', record.pod)
            try:
                self._remove(key, deadline)
            except exceptions.KuryrCiliumException as error:
                failed.append(f'{record.pod}: {error}')
        if failed:
            raise exceptions.TryAgainLater(reason='; '.join(failed))

    def _ask_status(self, request, deadline):
        self._status()

    @contextlib.contextmanager
    def _flight(self, key, deadline):
        """The right to work on an interface."""
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.users += 1
        try:
            if not flight.lock.acquire(
                    timeout=max(0, deadline - time.monotonic())):
                raise exceptions.TryAgainLater(
                    reason='Another request of the same container has not '
                           'ended')
            try:
                flight.cancelled.clear()
                yield flight
            finally:
                vif_id, flight.vif_id = flight.vif_id, None
                if vif_id is not None:
                    self._views.readmit(vif_id)
                flight.lock.release()
        finally:
            with self._lock:
                flight.users -= 1
                if not flight.users:
                    self._flights.pop(key, None)

    def _cancel(self, key):
        """Let an ADD that waits for something give up."""
        with self._lock:
            flight = self._flights.get(key)
        if flight is None:
            return
        flight.cancelled.set()
        self._pods.wake()
        if flight.vif_id is not None:
            self._views.abandon(flight.vif_id)


def _read(connection):
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
        if sum(map(len, chunks)) > 2 << 20:
            raise OSError('it is too long')
    return b''.join(chunks)
