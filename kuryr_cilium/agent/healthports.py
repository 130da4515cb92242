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

"""Where load balancers ask whether this node has backends of a service.

Each service of type LoadBalancer with ``externalTrafficPolicy: Local`` has a
port of its own for it, on all addresses of every node
(``healthCheckNodePort``). The answer is as kube-proxy's: 200 if there are
ready backends on the node, else 503, and how many there are.

Sources: Kubernetes documentation, "Preserving the client source IP";
kube-proxy, ``pkg/proxy/healthcheck``.
"""

import http
import http.server
import json
import selectors
import socket
import socketserver
import threading
from typing import Mapping, NamedTuple, Optional

from oslo_log import log as logging

from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model

LOG = logging.getLogger(__name__)

#: Seconds until a port that could not be had is tried again.
RETRY = 5.0
#: Seconds that a client may take for its request.
CLIENT_TIMEOUT = 10
#: So many clients may ask at a time, more are sent away.
CLIENTS = 64

_ADDRESSES = {4: ('0.0.0.0', socket.AF_INET), 6: ('::', socket.AF_INET6)}


class Key(NamedTuple):
    """One port that is listened on.

    :ivar service: id of the service.
    :ivar version: 4 or 6.
    """

    service: str
    port: int
    version: int


class HealthPorts:
    """Serves the health check ports of services. Safe for threads.

    :param host: name of this node.
    """

    def __init__(self, host: str):
        self._host = host
        # Replaced, never changed.
        self._wanted: Mapping[Key, int] = {}
        self._healthy = False
        self._problems: Mapping[Key, str] = {}
        self._servers: dict[Key, _Server] = {}
        self._slots = threading.BoundedSemaphore(CLIENTS)
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._waking: Optional[socket.socket] = None

    def start(self) -> None:
        self._stop.clear()
        woken, self._waking = socket.socketpair()
        self._waking.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, args=(woken,), name='health-ports', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all ports: balancers are to ask other nodes."""
        if self._thread is not None:
            self._stop.set()
            self._wake()
            self._thread.join(timeout=15)
            self._waking.close()
            self._waking = None

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def update(self, services: Mapping[str, model.Service],
               refused: Mapping[str, str]) -> None:
        """These services are in force.

        :param refused: those that are not, by their ids: whatever backends
            they have, this node does not lead to them.
        """
        wanted = {}
        for name, service in services.items():
            if service.health_port:
                for version in {*map(frontends.family, service.addresses)}:
                    wanted[Key(name, service.health_port, version)] = (
                        0 if name in refused
                        else self._count(service, version))
        opens = wanted.keys() != self._wanted.keys()
        self._wanted, self._healthy = wanted, True
        if opens:
            self._wake()

    def fail(self) -> None:
        """What is in force is not what it should be: send nobody here."""
        self._healthy = False

    def problems(self) -> dict[str, str]:
        """Id of a service -> why its port is not listened on."""
        return {key.service: why for key, why in self._problems.items()}

    def answer(self, key: Key) -> tuple[int, int, bytes]:
        """What is said on a port: (status, number of backends, body)."""
        healthy, count = self._healthy, self._wanted.get(key, 0)
        namespace, _, name = key.service.partition('/')
        body = json.dumps({
            'service': {'namespace': namespace, 'name': name},
            'localEndpoints': count, 'serviceProxyHealthy': healthy},
            indent='\t')
        return (http.HTTPStatus.OK if healthy and count
                else http.HTTPStatus.SERVICE_UNAVAILABLE), count, body.encode()

    def _count(self, service, version):
        """How many ready backends of a service this node has."""
        return len({
            backend.address for port in service.ports
            for backend in port.backends
            if backend.node == self._host and not backend.draining
            and frontends.family(backend.address) == version})

    def _wake(self):
        waking = self._waking
        if waking is not None:
            try:
                waking.send(b'x')
            except BlockingIOError:
                # It has not yet seen that it was woken before.
                pass

    def _run(self, woken):
        with woken, selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            while not self._stop.is_set():
                self._open_and_close(selector)
                for found, _ in selector.select(
                        RETRY if self._problems else None):
                    if found.fileobj is woken:
                        woken.recv(4096)
                    else:
                        found.fileobj.handle_request()
            for key in list(self._servers):
                self._close(selector, key)

    def _open_and_close(self, selector):
        wanted = self._wanted
        for key in self._servers.keys() - wanted.keys():
            self._close(selector, key)
        problems = {}
        for key in wanted.keys() - self._servers.keys():
            try:
                server = _Server(key, self, self._slots)
            except OSError as error:
                problems[key] = 'health check port %d of IPv%d: %s' % (
                    key.port, key.version, error.strerror)
                if self._problems.get(key) != problems[key]:
                    LOG.error(
                        'Service %(service)s: %(why)s. Load balancers do not '
                        'send to this node until the port can be had; see '
                        'what has it (ss -ltnp).',
                        {'service': key.service, 'why': problems[key]})
                continue
            selector.register(server, selectors.EVENT_READ)
            self._servers[key] = server
            LOG.info('Service %(service)s: health check port %(port)d of '
                     'IPv%(version)d is open.', key._asdict())
        self._problems = problems

    def _close(self, selector, key):
        server = self._servers.pop(key)
        selector.unregister(server)
        server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    # NOTE: not http.server.HTTPServer, which looks its own name up in the
    # DNS when it starts and stalls where there is none.
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 16
    #: handle_request() is called when there is one.
    timeout = 0

    def __init__(self, key, ports, slots):
        self.key = key
        self.ports = ports
        self._slots = slots
        address, self.address_family = _ADDRESSES[key.version]
        super().__init__((address, key.port), _Handler)

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # What a client gives up before it is accepted is not waited for.
        self.socket.setblocking(False)
        super().server_bind()

    def get_request(self):
        request, address = super().get_request()
        request.setblocking(True)
        return request, address

    def process_request(self, request, client_address):
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request, client_address):
        LOG.debug('The health check of %s broke off', client_address,
                  exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT

    def do_GET(self):
        status, count, body = self.server.ports.answer(self.server.key)
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('X-Content-Type-Options', 'nosniff')
        self.send_header('X-Load-Balancing-Endpoint-Weight', str(count))
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format, *args):
        LOG.debug('health check: ' + format, *args)
