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

"""Links: which program judges at which hook of which device.

The links of an interface are pinned in a folder named by its VIF, so that
they hold while no process does. A link whose device is gone judges nothing
and is only in the way.
"""

import contextlib
import os
import socket
from typing import Mapping, NamedTuple

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)


class Hook(NamedTuple):
    """A hook of one of an interface's two host devices."""

    program: str
    device: str
    attach_type: int


HOOKS = (
    Hook('from_pod', 'kc', libbpf.TCX_INGRESS),
    Hook('from_host', 'kc', libbpf.TCX_EGRESS),
    Hook('to_pod', 'kq', libbpf.TCX_INGRESS),
)


class Devices(NamedTuple):
    """Interface indices; 0: there is no such device."""

    kc: int
    kq: int


def devices(kc: str, kq: str) -> Devices:
    """Look names up in the calling thread's network namespace."""
    return Devices(_index(kc), _index(kq))


class Links:
    """The pinned links of all interfaces.

    :param folder: in a BPF file system.
    :param programs: file descriptors by name.
    :param hooks: of an interface, by the fields of kind.
    :param kind: what the devices of an interface are given as.
    """

    def __init__(self, folder: str, programs: Mapping[str, int],
                 hooks: tuple[Hook, ...] = HOOKS,
                 kind: type[NamedTuple] = Devices):
        self._folder = folder
        self._programs = programs
        self._hooks = hooks
        self._kind = kind
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def known(self) -> set[str]:
        """VIF ids that have a folder of links, whole or not."""
        return set(os.listdir(self._folder))

    def attach(self, vif_id: str, found: NamedTuple) -> None:
        """Have both devices judged, before any other program on them.

        :raises: exceptions.DatapathError
        """
        os.makedirs(self._path(vif_id), mode=0o700, exist_ok=True)
        for hook in self._hooks:
            path = self._path(vif_id, hook)
            index = getattr(found, hook.device)
            if self._take_over(path, hook, index):
                continue
            try:
                with libbpf.closing(libbpf.link_create(
                        self._programs[hook.program], index,
                        hook.attach_type)) as link:
                    libbpf.obj_pin(link, path)
            except OSError as error:
                raise exceptions.DatapathError(
                    reason=f'{hook.program} could not be attached to '
                           f'interface {index}: {error.strerror}')

    def whole(self, vif_id: str, found: NamedTuple) -> bool:
        """Whether all hooks of these very devices are taken."""
        return all(index and self._device(path) == index
                   for path, index in (
                       (self._path(vif_id, hook), getattr(found, hook.device))
                       for hook in self._hooks))

    def devices(self, vif_id: str) -> NamedTuple:
        """The devices that an interface's links are on."""
        by_device = {hook.device: self._device(self._path(vif_id, hook))
                     for hook in self._hooks}
        return self._kind(**by_device)

    def update(self) -> None:
        """Give all links the present programs, each without a gap."""
        for vif_id in self.known():
            for hook in self._hooks:
                path = self._path(vif_id, hook)
                with libbpf.pinned(path) as link:
                    if link is None or not libbpf.link_info(link).ifindex:
                        continue
                    try:
                        libbpf.link_update(link, self._programs[hook.program])
                    except OSError as error:
                        # The device went away meanwhile.
                        LOG.warning('Link %s keeps its program: %s', path,
                                    error.strerror)

    def detach(self, vif_id: str) -> None:
        """Remove the links; what their devices carry is judged no more."""
        for hook in self._hooks:
            path = self._path(vif_id, hook)
            with libbpf.pinned(path) as link:
                if link is not None:
                    os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._path(vif_id))

    def _take_over(self, path, hook, index):
        """Use the link of an earlier attempt if it is on this device."""
        with libbpf.pinned(path) as link:
            if link is None:
                return False
            if libbpf.link_info(link).ifindex == index:
                libbpf.link_update(link, self._programs[hook.program])
                return True
        os.unlink(path)
        return False

    def _device(self, path):
        with libbpf.pinned(path) as link:
            return 0 if link is None else libbpf.link_info(link).ifindex

    def _path(self, vif_id, hook=None):
        # NOTE: a BPF file system has no dots in its names.
        path = os.path.join(self._folder, vif_id.replace('.', '_'))
        return path if hook is None else os.path.join(path, hook.program)


def _index(name):
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
