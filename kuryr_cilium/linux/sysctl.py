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

"""Settings under /proc/sys/net, of an interface as a rule.

/proc/sys/net shows the network namespace of the thread that opens it, so
within :func:`kuryr_cilium.linux.netns.run` these are the pod's.
"""

import os
from typing import Mapping
from typing import Optional

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink

_ALL = '/proc/sys'
_IPV6 = '/proc/sys/net/ipv6/conf'


def ipv6_available() -> bool:
    """Whether this kernel was started with IPv6."""
    return os.path.isdir(_IPV6)


def write_ipv6(device: str, settings: Mapping[str, int]) -> None:
    """Set IPv6 settings of a link; nothing on a kernel without IPv6.

    :param settings: value by name, as in net.ipv6.conf.
    :raises: exceptions.LinkError
    """
    if not ipv6_available():
        return
    for name, value in settings.items():
        try:
            with open(_path(device, name), 'w') as file:
                file.write(str(value))
        except OSError as error:
            raise exceptions.LinkError(
                what='set net.ipv6.conf.%s.%s' % (device, name),
                reason=error.strerror) from error


def read_ipv6(device: str, name: str) -> Optional[int]:
    """An IPv6 setting of a link; None if there is no such thing."""
    try:
        with open(_path(device, name)) as file:
            return int(file.read())
    except OSError:
        return None


def read(name: str) -> list[int]:
    """The numbers of a setting; none if there is no such thing.

    :param name: with slashes ('net/ipv4/ip_forward'), as names of links may
        have dots.
    """
    try:
        with open(os.path.join(_ALL, name)) as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _path(device, name):
    return os.path.join(_IPV6, netlink.check_name(device), name)
