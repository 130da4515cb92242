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

"""The agent's local API as a client sees it."""

import http.client
import json
import socket
from typing import Iterator
import urllib.parse

from kuryr_cilium import exceptions

#: Seconds for an answer. Events that are followed may take any time.
TIMEOUT = 10.0


class _Connection(http.client.HTTPConnection):

    def __init__(self, path, timeout):
        super().__init__('localhost', timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentClient:
    """Asks the agent of this node.

    :param path: of its api.sock.
    """

    def __init__(self, path: str, timeout: float = TIMEOUT):
        self._path = path
        self._timeout = timeout

    def get(self, path: str, **query):
        """What the API answers at a path.

        :param query: what the URL asks for, by name.
        :raises: exceptions.AgentUnreachable, exceptions.AgentRefused
        """
        if query:
            path += '?' + urllib.parse.urlencode(query)
        connection, response = self._request(path, self._timeout)
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def events(self, follow: bool = False, since: int = 0,
               verdict: str | None = None) -> Iterator[dict]:
        """Flow events; with follow for as long as the agent runs.

        :param since: number of the last event that is not wanted.
        :param verdict: 'allow' or 'drop', None for both.
        :raises: exceptions.AgentUnreachable, exceptions.AgentRefused
        """
        query = {'since': since}
        if follow:
            query['follow'] = 1
        if verdict:
            query['verdict'] = verdict
        connection, response = self._request(
            '/v1/events?' + urllib.parse.urlencode(query),
            None if follow else self._timeout)
        try:
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _request(self, path, timeout):
        connection = _Connection(self._path, timeout)
        try:
            connection.request('GET', path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise exceptions.AgentRefused(
                    path=path, status=response.status,
                    reason=response.read().decode(errors='replace').strip())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        except exceptions.AgentRefused:
            connection.close()
            raise
        return connection, response

    def _unreachable(self, error):
        return exceptions.AgentUnreachable(path=self._path, reason=error)
