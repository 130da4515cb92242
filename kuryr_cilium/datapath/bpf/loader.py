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

"""From the source of the programs to programs in the kernel.

Maps are pinned under their names, so that what they hold outlives the
process; a map that is pinned already is used again. Their names end in the
version of their layout: maps without one belong to one load of the programs
alone. Programs live as long as a link that has them.
"""

import errno
import glob
import hashlib
import os
import re
import subprocess
from typing import Mapping

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

#: The oldest kernel with tcx links.
KERNEL = (6, 6)

OBJECT = 'kuryr_cilium.bpf.o'

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SOURCES = os.path.join(_PACKAGE, 'src')
_COMPILE_TIMEOUT = 120
_PINNED = re.compile(r'_v\d+$')


class Loaded:
    """Programs and maps that were loaded; a context manager.

    :ivar maps: file descriptors by name, the layout's version included.
    :ivar programs: file descriptors by name.
    """

    def __init__(self, source: libbpf.Object):
        self._object = source
        self.maps: Mapping[str, int] = source.map_fds()
        self.programs: Mapping[str, int] = source.program_fds()

    def __enter__(self) -> 'Loaded':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Close every file descriptor; what is pinned or linked stays."""
        self._object.close()


def check_kernel() -> None:
    """Check that programs can be attached here.

    :raises: exceptions.DatapathError
    """
    release = os.uname().release
    found = re.match(r'(\d+)\.(\d+)', release)
    if found and tuple(map(int, found.groups())) < KERNEL:
        raise exceptions.DatapathError(
            reason='kernel %s has no tcx links: Linux %d.%d or newer is '
                   'needed' % (release, *KERNEL))


def object_path(object_file: str, cache_dir: str, clang: str) -> str:
    """Where the compiled programs are; they are compiled if need be.

    :param object_file: as configured; '' to look for it.
    :param cache_dir: where an object that was compiled here is kept.
    :param clang: the compiler.
    :raises: exceptions.DatapathError
    """
    if object_file:
        return object_file
    beside = os.path.join(_PACKAGE, OBJECT)
    if os.path.exists(beside):
        return beside
    name, extension = OBJECT.split('.', 1)
    cached = os.path.join(cache_dir, '%s-%s.%s' % (name, _digest(), extension))
    if not os.path.exists(cached):
        LOG.info('Compiling the eBPF programs into %s', cached)
        compile_object(cached, clang)
    return cached


def compile_object(output: str, clang: str = 'clang') -> None:
    """Compile the programs; the output appears when it is complete.

    :raises: exceptions.DatapathError with what the compiler said.
    """
    try:
        os.makedirs(os.path.dirname(output) or '.', exist_ok=True)
        done = subprocess.run(
            ['sh', os.path.join(_SOURCES, 'build.sh'), output],
            env=dict(os.environ, CLANG=clang), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_COMPILE_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise exceptions.DatapathError(
            reason='the eBPF programs can\'t be compiled: %s' % error)
    if done.returncode:
        raise exceptions.DatapathError(
            reason='the eBPF programs can\'t be compiled: %s Install clang '
                   'and libbpf\'s headers, or set [datapath] object_file to '
                   'programs that were compiled elsewhere.'
                   % done.stderr[-2000:])


def load(object_file: str, pin_dir: str) -> Loaded:
    """Load the programs with the maps that are pinned, and pin the others.

    :param pin_dir: a folder of a BPF file system; it is made.
    :raises: exceptions.DatapathError
    """
    _make_folder(pin_dir)
    source = libbpf.Object(object_file)
    try:
        missing = [name for name in source.map_names()
                   if _PINNED.search(name) and
                   not _reuse(source, name, os.path.join(pin_dir, name))]
        source.load()
        loaded = Loaded(source)
        for name in missing:
            _pin(loaded.maps[name], os.path.join(pin_dir, name))
    except BaseException:
        source.close()
        raise
    return loaded


def _reuse(source, name, path):
    try:
        fd = libbpf.obj_get(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise _bpffs_error(path, error)
    try:
        pinned, wanted = libbpf.map_info(fd), source.map_info(name)
        if pinned[:3] != wanted[:3]:
            raise exceptions.DatapathError(
                reason='%s is another map than these programs use: drain the '
                       'node, stop the agent, remove the folder and start '
                       'the agent again' % path)
        source.reuse(name, fd)
    finally:
        os.close(fd)
    return True


def _pin(fd, path):
    try:
        libbpf.obj_pin(fd, path)
    except OSError as error:
        raise _bpffs_error(path, error)


def _make_folder(path):
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise _bpffs_error(path, error)


def _bpffs_error(path, error):
    return exceptions.DatapathError(
        reason='%s can\'t be used: %s. [datapath] pin_dir has to be a folder '
               'of a BPF file system ("mount -t bpf bpf /sys/fs/bpf"), and '
               'the agent has to be root' % (path, error.strerror))


def _digest():
    digest = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join(_SOURCES, '*'))):
        with open(path, 'rb') as stream:
            digest.update(os.path.basename(path).encode() + b'\0')
            digest.update(stream.read())
    return digest.hexdigest()[:16]
