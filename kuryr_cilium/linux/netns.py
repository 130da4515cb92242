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

"""Work in another network namespace, without a fork.

A thread enters the namespace and ends with it: no other thread ever leaves
the host's. (pyroute2's own ``netns=`` forks; os-vif must never be called in
such a thread.)
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import threading
from typing import Any
from typing import Callable
from typing import Iterator

from kuryr_cilium import exceptions

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xb703
_SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A file descriptor of a network namespace.

    :raises: exceptions.NetnsGone if the path doesn't lead to one (a bind
        mount leaves an empty file when it goes).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise exceptions.NetnsGone(path=path, reason=error.strerror) from error
    try:
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = None
        if kind != _CLONE_NEWNET:
            raise exceptions.NetnsGone(path=path,
                                       reason='not a network namespace')
        yield fd
    finally:
        os.close(fd)


def exists(path: str) -> bool:
    """Whether a path leads to a network namespace."""
    try:
        with opened(path):
            return True
    except exceptions.NetnsGone:
        return False


def run(path: str, function: Callable, *args) -> Any:
    """Call a function in a network namespace.

    :returns: what it returns.
    :raises: what it raises; exceptions.NetnsGone.
    """
    outcome = {}

    def work(fd):
        try:
            if _libc.setns(fd, _CLONE_NEWNET) != 0:
                raise exceptions.NetnsGone(
                    path=path, reason=os.strerror(ctypes.get_errno()))
            outcome['value'] = function(*args)
        except BaseException as error:
            outcome['error'] = error

    with opened(path) as fd:
        thread = threading.Thread(target=work, args=(fd,), name='netns',
                                  daemon=True)
        thread.start()
        thread.join()
    if 'error' in outcome:
        raise outcome['error']
    return outcome['value']


def cookie() -> int:
    """The kernel's number of the calling thread's network namespace.

    It is never another one's (SO_NETNS_COOKIE, socket(7)).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(found, 'little')
