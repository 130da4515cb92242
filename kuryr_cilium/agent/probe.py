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

"""Whether what the agent depends on answers."""

import json
import socket
from typing import Optional

_REQUEST = json.dumps({'method': 'list_dbs', 'params': [], 'id': 0}).encode()


def ovsdb(remote: str, timeout: float = 1.0) -> Optional[str]:
    """Ask OVSDB for its databases (RFC 7047, section 4.1.1).

    :param remote: as unix:PATH or tcp:HOST:PORT.
    :returns: None if the Open_vSwitch database is there, else what is
        wrong and what to do.
    """
    try:
        with _connect(remote, timeout) as connection:
            connection.sendall(_REQUEST)
            databases = _answer(connection).get('result')
    except (OSError, ValueError, AttributeError) as error:
        return ('OVSDB at %s does not answer (%s): is ovsdb-server running, '
                'and is [binding] ovsdb_connection right?' % (remote, error))
    if 'Open_vSwitch' not in (databases or ()):
        return 'OVSDB at %s has no database Open_vSwitch' % remote
    return None


def _connect(remote, timeout):
    kind, _, rest = remote.partition(':')
    if kind == 'tcp':
        host, _, port = rest.rpartition(':')
        return socket.create_connection((host.strip('[]'), int(port)),
                                        timeout)
    if kind != 'unix':
        raise ValueError('only unix: and tcp: can be asked')
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(rest)
    except OSError:
        connection.close()
        raise
    return connection


def _answer(connection):
    data = b''
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            raise ValueError('it closed the connection')
        data += chunk
        try:
            return json.loads(data)
        except ValueError:
            if len(data) > 1 << 16:
                raise
