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

"""A CNI request as the client hands it over, and what it is answered. Pure.

Source: the CNI specification 1.1, sections "Parameters", "Section 2:
Execution Protocol", "Section 5: Result Types".

The client sends the CNI_* variables, each as ``NAME=VALUE`` and a zero byte,
one more zero byte, then its standard input. It is answered its exit code, a
line feed and what it has to print.
"""

import dataclasses
import ipaddress
import json
import re
from typing import Any, Mapping, Optional

from kuryr_cilium import exceptions

SUPPORTED = ('0.4.0', '1.0.0', '1.1.0')
COMMANDS = ('ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION')

#: Commands that came with 1.1.0.
_SINCE_1_1 = ('GC', 'STATUS')
_OF_ONE_INTERFACE = ('ADD', 'DEL', 'CHECK')
_CONTAINER = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.\-]*')
_INTERFACE = re.compile(r'[^\s/:]{1,15}')
_MAX_SIZE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    :ivar args: CNI_ARGS, split.
    :ivar config: the network configuration.
    """

    command: str
    version: str
    container_id: str
    ifname: str
    netns: str
    args: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        return self.args.get('K8S_POD_NAMESPACE', '')

    @property
    def name(self) -> str:
        return self.args.get('K8S_POD_NAME', '')

    @property
    def uid(self) -> str:
        """UID of the pod, of a static pod its config hash; '' if unknown."""
        return self.args.get('K8S_POD_UID', '')

    @property
    def what(self) -> str:
        """What it is about, for people."""
        if self.name:
            return f'{self.namespace}/{self.name}'
        return self.container_id[:12] or self.config.get('name', '')

    def timeout(self, default: float) -> float:
        """Seconds for an ADD: less than what the client waits."""
        client = self.config.get('timeout')
        if isinstance(client, (int, float)) and client > 0:
            return min(default, max(client - 2.0, client / 2))
        return default


def parse(data: bytes) -> Request:
    """Read a request.

    :raises: exceptions.CNIError of the code that applies.
    """
    if len(data) > _MAX_SIZE:
        raise exceptions.CNIInputUnreadable(
            reason='it is longer than %d bytes' % _MAX_SIZE)
    environment, body = _split(data)
    command = environment.get('CNI_COMMAND', '')
    if command not in COMMANDS:
        raise exceptions.CNIEnvironmentInvalid(
            reason='CNI_COMMAND is %r, not one of %s' % (
                command, ', '.join(COMMANDS)))
    config = _config(body)
    version = config.get('cniVersion', '0.1.0')
    if version not in SUPPORTED and command != 'VERSION':
        raise exceptions.CNIVersionUnsupported(
            version=version, supported=', '.join(SUPPORTED))
    if command in _SINCE_1_1 and version != '1.1.0':
        raise exceptions.CNIConfigInvalid(
            reason='%s needs cniVersion 1.1.0, it is %s' % (command, version))
    request = Request(
        command, version, environment.get('CNI_CONTAINERID', ''),
        environment.get('CNI_IFNAME', ''), environment.get('CNI_NETNS', ''),
        _args(environment.get('CNI_ARGS', '')), config)
    if command in _OF_ONE_INTERFACE:
        _check_interface(request)
    return request


def _split(data):
    environment, position = {}, 0
    while True:
        end = data.find(b'\0', position)
        if end < 0:
            raise exceptions.CNIInputUnreadable(
                reason='it ends within the environment')
        if end == position:
            return environment, data[end + 1:]
        name, equals, value = data[position:end].decode(
            errors='surrogateescape').partition('=')
        if not equals:
            raise exceptions.CNIInputUnreadable(
                reason='%.40r is not NAME=VALUE' % name)
        environment[name] = value
        position = end + 1


def _config(body):
    if not body.strip():
        raise exceptions.CNIConfigInvalid(
            reason='there is none on the standard input')
    try:
        config = json.loads(body)
    except ValueError as error:
        raise exceptions.CNIConfigInvalid(
            reason='it is not JSON: %s' % error) from error
    if not isinstance(config, dict):
        raise exceptions.CNIConfigInvalid(reason='it is not a JSON object')
    return config


def _args(text):
    args = {}
    for pair in filter(None, text.split(';')):
        name, equals, value = pair.partition('=')
        if not equals:
            raise exceptions.CNIEnvironmentInvalid(
                reason='CNI_ARGS has %r, which is not NAME=VALUE' % pair)
        args[name] = value
    return args


def _check_interface(request):
    if not _CONTAINER.fullmatch(request.container_id):
        raise exceptions.CNIEnvironmentInvalid(
            reason='CNI_CONTAINERID is %r' % request.container_id)
    if (not _INTERFACE.fullmatch(request.ifname) or
            request.ifname in ('.', '..')):
        raise exceptions.CNIEnvironmentInvalid(
            reason='CNI_IFNAME is %r' % request.ifname)
    if request.command == 'DEL':
        return
    if not request.netns:
        raise exceptions.CNIEnvironmentInvalid(reason='CNI_NETNS is missing')
    if request.command == 'ADD' and not (request.namespace and request.name):
        raise exceptions.CNIEnvironmentInvalid(
            reason='CNI_ARGS names no pod (K8S_POD_NAMESPACE, K8S_POD_NAME): '
                   'kuryr-cilium plugs pods of Kubernetes only')


def valid_attachments(config: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(container id, interface) of all that a GC must leave alone.

    :raises: exceptions.CNIConfigInvalid if the key is missing: an empty
        list removes everything and has to be said.
    """
    listed = config.get('cni.dev/valid-attachments')
    if not isinstance(listed, list):
        raise exceptions.CNIConfigInvalid(
            reason='a GC needs the list cni.dev/valid-attachments')
    try:
        return {(entry['containerID'], entry['ifname']) for entry in listed}
    except (KeyError, TypeError) as error:
        raise exceptions.CNIConfigInvalid(
            reason='an entry of cni.dev/valid-attachments is not '
                   '{"containerID", "ifname"}') from error


def success(layout, netns: str, version: str) -> dict:
    """The result of an ADD.

    :param layout: an agent.pod.Layout.
    """
    host = {'name': layout.host_link}
    inner = {'name': layout.ifname, 'mac': layout.mac, 'sandbox': netns}
    if version == '1.1.0' and layout.mtu:
        inner['mtu'] = layout.mtu
    ips = []
    for address, prefix, gateway in layout.addresses:
        entry = {'address': f'{address}/{prefix}', 'interface': 1}
        if gateway is not None:
            entry['gateway'] = str(gateway)
        if version == '0.4.0':
            entry['version'] = str(ipaddress.ip_address(
                str(address)).version)
        ips.append(entry)
    routes = []
    for destination, gateway in layout.routes:
        routes.append({'dst': str(destination)} if gateway is None else
                      {'dst': str(destination), 'gw': str(gateway)})
    return {'cniVersion': version, 'interfaces': [host, inner], 'ips': ips,
            'routes': routes, 'dns': {}}


def versions(version: str) -> dict:
    """The answer to VERSION."""
    return {'cniVersion': version, 'supportedVersions': list(SUPPORTED)}


def failure(version: str, code: int, message: str, details: str) -> dict:
    """The answer to a request that failed."""
    return {'cniVersion': version if version in SUPPORTED else SUPPORTED[-1],
            'code': code, 'msg': message, 'details': details}


def encode(exit_code: int, answer: Optional[Mapping]) -> bytes:
    """What goes back to the client."""
    text = '' if answer is None else json.dumps(answer, indent=2) + '\n'
    return f'{exit_code}\n{text}'.encode()
