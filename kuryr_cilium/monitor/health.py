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

"""The HTTP server of a process for metrics, liveness and readiness.

``/healthz`` says whether the process itself works and ``/readyz`` whether
what it depends on does: a Neutron that is down makes a process not ready and
never makes it restart.
"""

import http
import http.server
import socket
import socketserver
import threading

from oslo_log import log as logging
import prometheus_client

LOG = logging.getLogger(__name__)

#: Seconds that a client may take for its request.
CLIENT_TIMEOUT = 10


def parse_address(text):
    """Split ``host:port``; a host with colons stands in brackets.

    :returns: (host, port); host is '' for every address.
    :raises: ValueError if it is none.
    """
    host, colon, port = text.rpartition(':')
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError('%r is not an address as 127.0.0.1:9802' % text)
    if host.startswith('[') and host.endswith(']'):
        return host[1:-1], int(port)
    if ':' in host:
        raise ValueError('%r: an IPv6 address stands in brackets' % text)
    return host, int(port)


class HealthServer:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz``.

    :param address: ``host:port``; port 0 takes a free one.
    :param checks: what readiness depends on: {name: callable}, each
        returning None if all is well, else what is wrong. They must not
        block.
    :param live: callable returning None if the process works, else what
        does not.
    :param registry: prometheus_client registry of the metrics.
    """

    def __init__(self, address, checks, live,
                 registry=prometheus_client.REGISTRY):
        self._bind = parse_address(address)
        self._checks = dict(checks)
        self._live = live
        self._registry = registry
        self._server = None
        self._thread = None

    @property
    def port(self):
        """The port that is listened on, once started."""
        return self._server.server_address[1]

    def start(self):
        """Listen and serve in a thread.

        :raises: OSError if the address can't be had.
        """
        self._server = _Server(self._bind, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name='health',
            daemon=True)
        self._thread.start()

    def stop(self):
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def problems(self):
        """What is not ready: {name: text}."""
        found = {}
        for name, check in self._checks.items():
            text = _ask(check)
            if text is not None:
                found[name] = text
        return found

    def answer(self, path):
        """The answer to a request: (status, content type, body)."""
        if path == '/metrics':
            return (http.HTTPStatus.OK, prometheus_client.CONTENT_TYPE_LATEST,
                    prometheus_client.generate_latest(self._registry))
        if path == '/healthz':
            text = _ask(self._live)
            return _text([] if text is None else [text])
        if path == '/readyz':
            return _text(['%s: %s' % item for item in
                          sorted(self.problems().items())])
        return (http.HTTPStatus.NOT_FOUND, 'text/plain',
                b'There are /metrics, /healthz and /readyz.\n')


def _ask(check):
    """What a check says; one that fails says so."""
    try:
        return check()
    except Exception as error:
        LOG.exception('A health check failed')
        return 'the check failed: %s' % error


def _text(problems):
    status = (http.HTTPStatus.SERVICE_UNAVAILABLE if problems
              else http.HTTPStatus.OK)
    body = '\n'.join(problems or ['ok']) + '\n'
    return status, 'text/plain; charset=utf-8', body.encode()


class _Server(socketserver.ThreadingTCPServer):
    # NOTE: not http.server.HTTPServer, which looks its own name up in the
    # DNS when it starts and stalls where there is none.
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, bind, health):
        self.health = health
        if ':' in bind[0]:
            self.address_family = socket.AF_INET6
        super().__init__(bind, _Handler)

    def handle_error(self, request, client_address):
        LOG.debug('The health request of %s broke off', client_address,
                  exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT

    def do_GET(self):
        status, kind, body = self.server.health.answer(
            self.path.partition('?')[0])
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        LOG.debug('health: ' + format, *args)
