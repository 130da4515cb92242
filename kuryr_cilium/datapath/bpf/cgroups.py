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
"""Programs at the node's cgroup: services for what sockets ask.

The links are pinned, so that they hold while no agent does. The programs
leave alone what is not of a network namespace in kc_netns: several nodes may
share a kernel.
"""

import contextlib
import os
import pathlib
from typing import Mapping, Optional

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium import exceptions

#: Program -> where it is attached (enum bpf_attach_type). Those that name a
#: service again come before those that lead to its backends.
HOOKS = {
    'recvmsg4': 19,
    'recvmsg6': 20,
    'getpeername4': 29,
    'getpeername6': 30,
    'sock_release': 34,
    'connect4': 10,
    'connect6': 11,
    'sendmsg4': 14,
    'sendmsg6': 15,
}

#: Where this process sees what is mounted.
MOUNTS = pathlib.Path('/proc/self/mountinfo')


def find_root(mountinfo: str) -> Optional[str]:
    """Where the whole of the cgroup version 2 hierarchy is mounted.

    Source: proc_pid_mountinfo(5), cgroups(7).

    :param mountinfo: text of /proc/self/mountinfo.
    """
    for row in mountinfo.splitlines():
        fields = row.split()
        if (fields[3] == '/' and
                fields[fields.index('-') + 1] == 'cgroup2'):
            return fields[4]
    return None


def open_root(folder: str) -> int:
    """A file descriptor of the cgroup that all of the node's are in.

    :param folder: as configured; '' to look for it.
    :raises: exceptions.DatapathError
    """
    found = folder or find_root(MOUNTS.read_text())
    if found is None:
        raise _no_cgroup('no cgroup version 2 hierarchy is mounted')
    if not _has(found, 'cgroup.controllers'):
        raise _no_cgroup('%s is no cgroup of version 2' % found)
    # NOTE: in a cgroup namespace of its own a container takes its own cgroup
    # for the root; but only the node's has no type.
    if not folder and _has(found, 'cgroup.type'):
        raise _no_cgroup('%s is the cgroup of a container' % found)
    return os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Cgroups:
    """The pinned links of the programs at a cgroup.

    :param folder: in a BPF file system.
    :param programs: file descriptors by name.
    """

    def __init__(self, folder: str, programs: Mapping[str, int]):
        self._folder = folder
        self._programs = programs

    def attach(self, cgroup: int) -> None:
        """Attach the present programs; those that are there are replaced.

        :param cgroup: file descriptor of its folder.
        :raises: exceptions.DatapathError
        """
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        for program, attach_type in HOOKS.items():
            path = os.path.join(self._folder, program)
            try:
                if self._take_over(path, program, cgroup):
                    continue
                with libbpf.closing(libbpf.link_create_cgroup(
                        self._programs[program], cgroup,
                        attach_type)) as link:
                    libbpf.obj_pin(link, path)
            except OSError as error:
                raise _no_cgroup('%s could not be attached: %s' % (
                    program, error.strerror))

    def detach(self) -> None:
        """Leave the node's own sockets alone. Idempotent."""
        for program in reversed(HOOKS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._folder, program))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._folder)

    def _take_over(self, path, program, cgroup):
        """Use the link of an earlier process if it is at this cgroup."""
        with libbpf.pinned(path) as link:
            if link is None:
                return False
            if libbpf.cgroup_link_info(link).cgroup == os.fstat(cgroup).st_ino:
                libbpf.link_update(link, self._programs[program])
                return True
        os.unlink(path)
        return False


def _has(folder, name):
    return os.path.exists(os.path.join(folder, name))


def _no_cgroup(reason):
    return exceptions.DatapathError(
        reason='%s. For services of the node itself [services] cgroup_dir has '
               'to be the root of its cgroup version 2 hierarchy ("mount -t '
               'cgroup2 cgroup2 /sys/fs/cgroup/unified"; in a container the '
               'host\'s, mounted into it), or [services] replace_kube_proxy = '
               'false leaves them to kube-proxy' % reason)
