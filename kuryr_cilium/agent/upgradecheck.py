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

"""Checks whether a host has what the agent needs.

Run them before an agent is installed or upgraded on a node:
``kuryr-cilium-status upgrade check``.
"""

import ctypes
import pathlib
import shutil

from oslo_upgradecheck import upgradecheck

from kuryr_cilium.agent import probe
from kuryr_cilium.agent import store
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions

BTF = pathlib.Path('/sys/kernel/btf/vmlinux')
MOUNTS = pathlib.Path('/proc/self/mountinfo')

_OK = upgradecheck.Code.SUCCESS
_WARNING = upgradecheck.Code.WARNING
_FAILURE = upgradecheck.Code.FAILURE


class Checks(upgradecheck.UpgradeCommands):
    """The checks, on this host.

    :param conf: a cfg.ConfigOpts with the agent's options.
    """

    def __init__(self, conf):
        super().__init__()
        self._conf = conf

    def check_kernel(self):
        """Type information, and links for tc programs (Linux 6.6)."""
        try:
            types = BTF.read_bytes()
        except OSError as error:
            return _result(_FAILURE, '%s: use a kernel with '
                           'CONFIG_DEBUG_INFO_BTF' % error)
        if b'\0tcx_link\0' not in types:
            return _result(_FAILURE, 'the kernel has no tcx: use Linux 6.6 '
                           'or later')
        return _result(_OK)

    def check_bpf_file_system(self):
        """Programs and maps have to outlive the agent."""
        folder = pathlib.Path(self._conf.datapath.pin_dir)
        kind = file_system(folder, MOUNTS.read_text())
        if kind != 'bpf':
            return _result(_FAILURE, '%s is not in a BPF file system but in '
                           '%s: mount -t bpf bpf /sys/fs/bpf' % (folder, kind))
        return _result(_OK)

    def check_libbpf(self):
        """The library that loads the programs."""
        try:
            library = ctypes.CDLL('libbpf.so.1')
        except OSError as error:
            return _result(_FAILURE, '%s: install libbpf1' % error)
        major, minor = (library.libbpf_major_version(),
                        library.libbpf_minor_version())
        if (major, minor) < (1, 1):
            return _result(_FAILURE, 'libbpf %d.%d is too old, 1.1 is '
                           'needed' % (major, minor))
        return _result(_OK)

    def check_programs(self):
        """Compiled programs, or what compiles them at the first start."""
        settings = self._conf.datapath
        if settings.object_file:
            if not pathlib.Path(settings.object_file).is_file():
                return _result(_FAILURE, '[datapath] object_file: there is '
                               'no %s' % settings.object_file)
            return _result(_OK)
        package = pathlib.Path(__file__).parent.parent / 'datapath'
        folders = (package, pathlib.Path(settings.cache_dir))
        if any(any(folder.glob('**/*.bpf.o')) for folder in folders):
            return _result(_OK)
        if not shutil.which(settings.clang):
            return _result(_FAILURE, 'the programs are not compiled (tox -e '
                           'bpf) and there is no %s' % settings.clang)
        return _result(_OK, 'they will be compiled at the first start')

    def check_ovsdb(self):
        """The switch that ports are plugged into."""
        trouble = probe.ovsdb(self._conf.binding.ovsdb_connection, 5.0)
        return _result(_FAILURE if trouble else _OK, trouble)

    def check_state(self):
        """Records and view of an earlier release can be read."""
        folder = pathlib.Path(self._conf.agent.state_dir)
        if not folder.is_dir():
            return _result(_OK, 'there is no %s yet' % folder)
        unreadable = []
        for file in sorted((folder / 'endpoints').glob('*.json')):
            unreadable += _unreadable(file, store.parse)
        view = folder / 'view.json'
        if view.exists():
            unreadable += _unreadable(view, viewfile.parse)
        if unreadable:
            return _result(_WARNING, 'the agent would set aside: ' +
                           '; '.join(unreadable))
        return _result(_OK)

    _upgrade_checks = (
        ('Kernel', check_kernel),
        ('BPF file system', check_bpf_file_system),
        ('libbpf', check_libbpf),
        ('BPF programs', check_programs),
        ('Open vSwitch', check_ovsdb),
        ('State of an earlier release', check_state),
    )


def file_system(path: pathlib.Path, mountinfo: str) -> str:
    """Type of the file system that a path is or would be in.

    Source: proc_pid_mountinfo(5).
    """
    depth, kind = -1, 'none'
    for row in mountinfo.splitlines():
        fields = row.split()
        point = pathlib.PurePosixPath(fields[4])
        if point == path or point in path.parents:
            # NOTE: of two at one point the later one is on top.
            if len(point.parts) >= depth:
                depth = len(point.parts)
                kind = fields[fields.index('-') + 1]
    return kind


def _unreadable(file, parse):
    try:
        parse(file.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError,
            exceptions.KuryrCiliumException) as error:
        return ['%s (%s)' % (file, error)]
    return []


def _result(code, details=None):
    return upgradecheck.Result(code, details)
