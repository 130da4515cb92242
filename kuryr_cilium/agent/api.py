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

"""The local API: HTTP with JSON over a Unix socket that only root may use.

It is for the operator's CLI on this node. ``/v1/events`` answers one JSON
object a line, and with ``follow=1`` goes on as events come.
"""

import dataclasses
import http
import http.server
import json
import pathlib
import socketserver
import threading
import urllib.parse
from typing import Callable, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import sockets
from kuryr_cilium import exceptions
from kuryr_cilium.monitor import events

LOG = logging.getLogger(__name__)


class APIServer:
    """Serves the socket.

    :param path: of the socket.
    :param answers: path of a URL -> callable without arguments that returns
        what is sent as JSON.
    :param questions: likewise, of callables that are given the fields of the
        query; they raise exceptions.QueryInvalid.
    """

    def __init__(self, path: str,
                 answers: Mapping[str, Callable[[], object]],
                 ring: events.Ring,
                 questions: Mapping[str, Callable[[Mapping[str, str]],
                                                  object]] = {}):
        self._path = pathlib.Path(path)
        self.answers = {path: lambda query, answer=answer: answer()
                        for path, answer in answers.items()}
        self.answers.update(questions)
        self.ring = ring
        self._server: Optional[_Server] = None
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Open the socket.

        :raises: OSError, exceptions.StoreError if it can't be had.
        """
        self._server = _Server(sockets.listen(self._path), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name='api',
            daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._path.unlink(missing_ok=True)
            self._server = None

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener, api):
        self.api = api
        super().__init__('', _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def handle_error(self, request, client_address):
        LOG.debug('A request of the local API broke off', exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 10
    server_version = 'kuryr-cilium-agent'

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[-1] for name, values in
                 urllib.parse.parse_qs(url.query).items()}
        if url.path == '/v1/events':
            self._events(query)
            return
        answer = self.server.api.answers.get(url.path)
        if answer is None:
            self._send(http.HTTPStatus.NOT_FOUND, {
                'error': 'there is no %s' % url.path,
                'paths': sorted([*self.server.api.answers, '/v1/events'])})
            return
        try:
            body = answer(query)
        except exceptions.QueryInvalid as error:
            self._send(http.HTTPStatus.BAD_REQUEST, {'error': str(error)})
            return
        except Exception as error:
            LOG.exception('%s could not be answered', url.path)
            self._send(http.HTTPStatus.INTERNAL_SERVER_ERROR,
                       {'error': '%s: %s' % (type(error).__name__, error)})
            return
        self._send(http.HTTPStatus.OK, body)

    def _send(self, status, body):
        data = json.dumps(body).encode() + b'\n'
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, query):
        """Stream events: JSON lines, the connection's end is their end."""
        try:
            since = int(query.get('since', 0))
        except ValueError:
            self._send(http.HTTPStatus.BAD_REQUEST,
                       {'error': 'since is not a number'})
            return
        verdict = query.get('verdict')
        ring = self.server.api.ring
        self.send_response(http.HTTPStatus.OK)
        self.send_header('Content-Type', 'application/x-ndjson')
        self.send_header('Connection', 'close')
        self.end_headers()
        follow = query.get('follow') in ('1', 'true')
        for event in ring.follow(since) if follow else ring.since(since):
            if event is None:
                # An empty line finds out whether somebody still listens.
                self.wfile.write(b'\n')
            elif verdict in (None, event.verdict):
                self.wfile.write(json.dumps(
                    dataclasses.asdict(event)).encode() + b'\n')
            self.wfile.flush()

    def address_string(self):
        return 'local'

    def log_message(self, format, *args):
        LOG.debug('api: ' + format, *args)
