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

"""Files that are whole or not there, also after a crash of the machine."""

import errno
import os
import pathlib

from kuryr_cilium import exceptions


def write(path: pathlib.Path, data: bytes) -> None:
    """Replace a file: written beside it, fsynced, renamed, folder fsynced.

    :raises: exceptions.StoreError if the disk does not take it.
    """
    temporary = path.with_name(f'.{path.name}.new')
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
            0o600)
        with os.fdopen(descriptor, 'wb') as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise exceptions.StoreError(path=path, reason=error) from error


def remove(path: pathlib.Path) -> None:
    """Remove a file for good; nothing happens if it is not there.

    :raises: exceptions.StoreError
    """
    try:
        os.unlink(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise exceptions.StoreError(path=path, reason=error) from error


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Rename a file that can't be used, so that it can be looked at.

    The last one set aside of the same name is kept.

    :raises: exceptions.StoreError
    """
    aside = path.with_name(path.name + '.corrupt')
    try:
        os.rename(path, aside)
        sync_folder(path.parent)
    except OSError as error:
        raise exceptions.StoreError(path=path, reason=error) from error
    return aside


def make_folder(path: pathlib.Path) -> None:
    """Make a folder that only root may enter.

    :raises: exceptions.StoreError
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise exceptions.StoreError(path=path, reason=error) from error


def sync_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
