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

"""Sockets and locks of the agent in its run folder: only root may use them."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import time

from kuryr_cilium.agent import durable
from kuryr_cilium import exceptions

_RETRY = 0.1


def listen(path: pathlib.Path) -> socket.socket:
    """A socket that only root may connect to, in a folder of its own.

    What an earlier process left there is replaced.

    :raises: OSError, exceptions.StoreError
    """
    durable.make_folder(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # NOTE: bound under another name until only root may write to it; a
        # umask would hold for every thread.
        hidden = path.with_name('.' + path.name)
        with contextlib.suppress(FileNotFoundError):
            hidden.unlink()
        listener.bind(str(hidden))
        os.chmod(hidden, 0o600)
        listener.listen(128)
        os.rename(hidden, path)
    except OSError:
        listener.close()
        raise
    return listener


class InstanceLock:
    """Held by the one agent that works on a state folder.

    :param path: of the lock file.
    """

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self._descriptor = None

    def acquire(self, timeout: float) -> None:
        """Take the lock; an agent that is stopping is waited for.

        :raises: exceptions.AlreadyRunning, exceptions.StoreError
        """
        durable.make_folder(self._path.parent)
        descriptor = os.open(self._path,
                             os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    os.close(descriptor)
                    raise
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 32, 0).decode() or '?'
                    os.close(descriptor)
                    raise exceptions.AlreadyRunning(
                        path=self._path, pid=holder) from error
            time.sleep(_RETRY)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
