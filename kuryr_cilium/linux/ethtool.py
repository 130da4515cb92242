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

"""Offloads of a link, by the ethtool ioctl (linux/ethtool.h)."""

import ctypes
import enum
import fcntl
import socket
import struct

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink

_SIOCETHTOOL = 0x8946


class Offload(enum.Enum):
    """(command that reads, command that writes)."""

    TX_CHECKSUM = (0x16, 0x17)
    TSO = (0x1e, 0x1f)
    GSO = (0x23, 0x24)


def disable(device: str, *offloads: Offload) -> None:
    """Switch offloads of a link off.

    :raises: exceptions.LinkError
    """
    for offload in offloads:
        _command(device, offload.value[1], 0)


def enabled(device: str, offload: Offload) -> bool:
    """Whether an offload of a link is on."""
    return bool(_command(device, offload.value[0], 0))


def _command(device, command, value):
    # struct ethtool_value behind struct ifreq's ifr_data
    data = ctypes.create_string_buffer(struct.pack('II', command, value))
    request = struct.pack('16sP16x', netlink.check_name(device).encode(),
                          ctypes.addressof(data))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
    except OSError as error:
        raise exceptions.LinkError(
            what='set offload %#x of %s' % (command, device),
            reason=error.strerror) from error
    return struct.unpack_from('II', data)[1]
