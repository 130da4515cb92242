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

"""The kernel's BPF calls, through libbpf; no policy here.

Bytes go in and bytes come out: layout.py gives them a meaning. What the
kernel refuses is an OSError with its errno. Interface indices are those of
the calling thread's network namespace.
"""

import contextlib
import errno
import os
from typing import Callable
from typing import Iterator
from typing import NamedTuple
from typing import Optional

from kuryr_cilium.datapath.bpf import libbpf_ffi
from kuryr_cilium import exceptions

ffi = libbpf_ffi.ffi
_lib = libbpf_ffi.lib

TCX_INGRESS = 46
TCX_EGRESS = 47

#: Flags of map updates.
ANY = 0
NOEXIST = 1

_F_BEFORE = 1 << 3
_LINK_TYPE_CGROUP = 3
_LINK_TYPE_TCX = 11
_PERCPU_TYPES = (5, 6, 10)
_BATCH = 4096
#: Not in errno: what a map says that has no such operation.
_ENOTSUPP = 524


class MapInfo(NamedTuple):
    """What the kernel knows of a map."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    name: str


class LinkInfo(NamedTuple):
    """What the kernel knows of a tcx link; ifindex 0: its device is gone."""

    ifindex: int
    attach_type: int
    program: int


class CgroupLinkInfo(NamedTuple):
    """What the kernel knows of a cgroup link; cgroup 0: it is gone."""

    cgroup: int
    attach_type: int
    program: int


class TestRun(NamedTuple):
    """What a program made of a packet; nanoseconds are of one run."""

    result: int
    data: bytes
    context: bytes
    nanoseconds: int


def _check(result, what=None):
    """A result that is not negative.

    :raises: OSError
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def num_cpus() -> int:
    """How many values a per-CPU map has for a key."""
    return _check(_lib.libbpf_num_possible_cpus())


# Pins

def obj_get(path: str) -> int:
    """A file descriptor of what is pinned at a path."""
    return _check(_lib.bpf_obj_get(os.fsencode(path)), path)


def obj_pin(fd: int, path: str) -> None:
    """Pin a map, program or link; the path must not exist."""
    _check(_lib.bpf_obj_pin(fd, os.fsencode(path)), path)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """A file descriptor that is closed in the end."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def pinned(path: str) -> Iterator[Optional[int]]:
    """What is pinned at a path; None if nothing is."""
    try:
        fd = obj_get(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        yield None
        return
    with closing(fd):
        yield fd


# Maps

def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    info = _info(fd, 'struct kc_map_info *')
    return MapInfo(info.type, info.key_size, info.value_size,
                   info.max_entries, ffi.string(info.name).decode())


def map_update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Write one entry.

    :raises: OSError: E2BIG or ENOSPC if the map is full, EEXIST.
    """
    _check(_lib.bpf_map_update_elem(fd, key, value, flags))


def map_lookup(fd: int, key: bytes) -> Optional[bytes]:
    """The value of a key; of a per-CPU map those of all CPUs in a row."""
    value = ffi.new('char[]', _value_size(map_info(fd)))
    result = _lib.bpf_map_lookup_elem(fd, key, value)
    if result == -errno.ENOENT:
        return None
    _check(result)
    return bytes(ffi.buffer(value))


def map_delete(fd: int, key: bytes) -> bool:
    """Delete one entry; False if there was none."""
    result = _lib.bpf_map_delete_elem(fd, key)
    if result == -errno.ENOENT:
        return False
    _check(result)
    return True


def map_update_batch(fd: int, keys: bytes, values: bytes,
                     count: int) -> None:
    """Write many entries: keys and values one after the other.

    :raises: OSError; some entries may be written then.
    """
    if not count:
        return
    done = ffi.new('uint32_t *', count)
    result = _lib.bpf_map_update_batch(fd, keys, values, done, _batch_opts())
    if result not in (-errno.EINVAL, -_ENOTSUPP):
        _check(result)
        return
    # NOTE: LPM tries have no batches before Linux 5.13.
    for key, value in zip(_split(keys, count), _split(values, count)):
        map_update(fd, key, value)


def map_delete_batch(fd: int, keys: bytes, count: int) -> int:
    """Delete many entries; how many there were."""
    size = len(keys) // count if count else 0
    deleted = first = 0
    while first < count:
        done = ffi.new('uint32_t *', count - first)
        result = _lib.bpf_map_delete_batch(fd, keys[first * size:], done,
                                           _batch_opts())
        if result in (-errno.EINVAL, -_ENOTSUPP):
            return deleted + sum(
                map_delete(fd, key)
                for key in _split(keys[first * size:], count - first))
        first += done[0]
        deleted += done[0]
        if result == -errno.ENOENT:
            first += 1
            continue
        _check(result)
    return deleted


def map_lookup_batch(fd: int, cookie: Optional[bytes] = None,
                     count: int = _BATCH) -> tuple[
                         list[bytes], list[bytes], Optional[bytes]]:
    """A part of a map's entries.

    :param cookie: None for the first part, then what came with the last.
    :returns: keys, values, and the cookie; None when there is no more.
    """
    info = map_info(fd)
    value_size = _value_size(info)
    out = ffi.new('char[]', max(info.key_size, 4))
    into = ffi.NULL if cookie is None else ffi.from_buffer(cookie)
    while True:
        keys = ffi.new('char[]', info.key_size * count)
        values = ffi.new('char[]', value_size * count)
        done = ffi.new('uint32_t *', count)
        result = _lib.bpf_map_lookup_batch(fd, into, out, keys, values, done,
                                           _batch_opts())
        if result != -errno.ENOSPC:
            break
        # One bucket of the hash has more entries.
        count *= 2
    if result != -errno.ENOENT:
        _check(result)
    found = done[0]
    return (_split(bytes(ffi.buffer(keys, found * info.key_size)), found),
            _split(bytes(ffi.buffer(values, found * value_size)), found),
            None if result else bytes(ffi.buffer(out)))


def map_items(fd: int) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a hash or a trie."""
    cookie = None
    while True:
        keys, values, cookie = map_lookup_batch(fd, cookie)
        yield from zip(keys, values)
        if cookie is None:
            return


# Links and programs

def link_create(program: int, ifindex: int, attach_type: int) -> int:
    """Attach a program to a device's tcx hook, before all others.

    :param attach_type: TCX_INGRESS or TCX_EGRESS.
    :returns: file descriptor of the link; unless it is pinned, the program
        is detached when it is closed.
    """
    opts = ffi.new('struct bpf_link_create_opts *', {
        'sz': ffi.sizeof('struct bpf_link_create_opts'), 'flags': _F_BEFORE})
    return _check(_lib.bpf_link_create(program, ifindex, attach_type, opts))


def link_create_cgroup(program: int, cgroup: int, attach_type: int) -> int:
    """Attach a program to a cgroup, beside those that are there.

    :param cgroup: file descriptor of its folder.
    :returns: as link_create.
    """
    return _check(_lib.bpf_link_create(program, cgroup, attach_type,
                                       ffi.NULL))


def link_update(link: int, program: int) -> None:
    """Replace a link's program at once, without a gap."""
    _check(_lib.bpf_link_update(link, program, ffi.NULL))


def link_info(link: int) -> LinkInfo:
    """Describe a tcx link.

    :raises: OSError: EINVAL if it is a link of another kind.
    """
    info = _info(link, 'struct kc_link_info *')
    if info.type != _LINK_TYPE_TCX:
        raise OSError(errno.EINVAL, 'not a tcx link')
    return LinkInfo(info.ifindex, info.attach_type, info.prog_id)


def cgroup_link_info(link: int) -> CgroupLinkInfo:
    """Describe a cgroup link; the cgroup's number is its folder's inode.

    :raises: OSError: EINVAL if it is a link of another kind.
    """
    info = _info(link, 'struct kc_cgroup_link_info *')
    if info.type != _LINK_TYPE_CGROUP:
        raise OSError(errno.EINVAL, 'not a cgroup link')
    return CgroupLinkInfo(info.cgroup_id, info.attach_type, info.prog_id)


def program_id(program: int) -> int:
    """The kernel's number of a program, as in LinkInfo."""
    return _info(program, 'struct kc_prog_info *').id


#: The packet comes as from a network card that has summed it up
#: (CHECKSUM_COMPLETE); EBADMSG if the program leaves another sum.
TEST_CHECKSUM_COMPLETE = 4


def test_run(program: int, data: bytes, repeat: int = 1,
             context: bytes = b'', flags: int = 0) -> TestRun:
    """Run a program on a packet (BPF_PROG_TEST_RUN).

    :param context: bytes of a struct __sk_buff.
    :param flags: 0 or TEST_CHECKSUM_COMPLETE.
    """
    room = ffi.new('char[]', len(data) + 256)
    data_in = ffi.from_buffer(data)
    context_out = ffi.new('char[]', max(len(context), 1))
    context_in = ffi.from_buffer(context)
    opts = ffi.new('struct bpf_test_run_opts *', {
        'sz': ffi.sizeof('struct bpf_test_run_opts'),
        'data_in': data_in, 'data_size_in': len(data),
        'data_out': room, 'data_size_out': len(room), 'repeat': repeat,
        'flags': flags})
    if context:
        opts.ctx_in, opts.ctx_size_in = context_in, len(context)
        opts.ctx_out, opts.ctx_size_out = context_out, len(context)
    _check(_lib.bpf_prog_test_run_opts(program, opts))
    return TestRun(opts.retval, bytes(ffi.buffer(room, opts.data_size_out)),
                   bytes(ffi.buffer(context_out, opts.ctx_size_out)),
                   opts.duration)


class RingBuffer:
    """The reading end of a ring buffer. Not for several threads at once.

    :param fd: of the map.
    :param callback: called with the bytes of each record.
    """

    def __init__(self, fd: int, callback: Callable[[bytes], None]):
        def sample(_, data, size):
            callback(bytes(ffi.buffer(data, size)))
            return 0

        self._sample = ffi.callback('ring_buffer_sample_fn', sample)
        self._ring = _lib.ring_buffer__new(fd, self._sample, ffi.NULL,
                                           ffi.NULL)
        if self._ring == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def poll(self, timeout_ms: int) -> int:
        """Wait for records and hand them on; how many there were."""
        result = _lib.ring_buffer__poll(self._ring, timeout_ms)
        return 0 if result == -errno.EINTR else _check(result)

    def close(self) -> None:
        if self._ring is not None:
            _lib.ring_buffer__free(self._ring)
            self._ring = None


class Object:
    """A compiled object: opened, given maps, loaded. A context manager.

    Its maps and programs live as long as it, or a pin, a link, or a file
    descriptor that was duplicated.

    :raises: exceptions.DatapathError if it can't be read.
    """

    def __init__(self, path: str, log_size: int = 0):
        self._logs: dict[str, object] = {}
        self._object = None
        with libbpf_ffi.Messages() as lines:
            found = _lib.bpf_object__open_file(os.fsencode(path), ffi.NULL)
            number = ffi.errno
        if found == ffi.NULL:
            raise exceptions.DatapathError(reason='%s can\'t be opened: %s' % (
                path, '; '.join(lines) or os.strerror(number)))
        self._path = path
        self._object = found
        if log_size:
            for name, program in self._programs().items():
                log = self._logs[name] = ffi.new('char[]', log_size)
                _lib.bpf_program__set_log_buf(program, log, log_size)
                _lib.bpf_program__set_log_level(program, 4)

    def __enter__(self) -> 'Object':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        if self._object is not None:
            _lib.bpf_object__close(self._object)
            self._object = None

    def map_names(self) -> list[str]:
        """Names of its maps, without what the compiler made."""
        return list(self._maps())

    def map_info(self, name: str) -> MapInfo:
        """What the object says of one of its maps."""
        found = self._maps()[name]
        return MapInfo(_lib.bpf_map__type(found),
                       _lib.bpf_map__key_size(found),
                       _lib.bpf_map__value_size(found),
                       _lib.bpf_map__max_entries(found), name)

    def reuse(self, name: str, fd: int) -> None:
        """Let a map that exists take the place of the object's own.

        :raises: OSError
        """
        _check(_lib.bpf_map__reuse_fd(self._maps()[name], fd), name)

    def resize(self, name: str, max_entries: int) -> None:
        """Make a map larger or smaller than the object says."""
        _check(_lib.bpf_map__set_max_entries(self._maps()[name], max_entries),
               name)

    def load(self) -> None:
        """Make the maps and load the programs.

        :raises: exceptions.DatapathError with what the verifier said.
        """
        with libbpf_ffi.Messages() as lines:
            result = _lib.bpf_object__load(self._object)
        if result:
            raise exceptions.DatapathError(
                reason='%s can\'t be loaded: %s. %s' % (
                    self._path, os.strerror(-result),
                    '\n'.join(lines)[-2000:]))

    def map_fds(self) -> dict[str, int]:
        """File descriptors by name; they are closed with the object."""
        return {name: _check(_lib.bpf_map__fd(found))
                for name, found in self._maps().items()}

    def program_fds(self) -> dict[str, int]:
        """File descriptors by name; they are closed with the object."""
        return {name: _check(_lib.bpf_program__fd(found))
                for name, found in self._programs().items()}

    def log(self, program: str) -> str:
        """What the verifier said of a program (log_size was given)."""
        return ffi.string(self._logs[program]).decode()

    def _maps(self):
        found = {}
        item = ffi.NULL
        while True:
            item = _lib.bpf_object__next_map(self._object, item)
            if item == ffi.NULL:
                return found
            if not _lib.bpf_map__is_internal(item):
                found[ffi.string(_lib.bpf_map__name(item)).decode()] = item

    def _programs(self):
        found = {}
        item = ffi.NULL
        while True:
            item = _lib.bpf_object__next_program(self._object, item)
            if item == ffi.NULL:
                return found
            found[ffi.string(_lib.bpf_program__name(item)).decode()] = item


def _info(fd, kind):
    info = ffi.new(kind)
    size = ffi.new('uint32_t *', ffi.sizeof(info[0]))
    _check(_lib.bpf_obj_get_info_by_fd(fd, info, size))
    return info


def _value_size(info):
    if info.type in _PERCPU_TYPES:
        return (info.value_size + 7) // 8 * 8 * num_cpus()
    return info.value_size


def _batch_opts():
    return ffi.new('struct bpf_map_batch_opts *', {
        'sz': ffi.sizeof('struct bpf_map_batch_opts')})


def _split(data, count):
    size = len(data) // count if count else 0
    return [data[i * size:(i + 1) * size] for i in range(count)]
