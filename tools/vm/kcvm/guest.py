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

"""What runs in the VM before the command does, and the initramfs of it."""

import os
import pathlib
import shlex
import shutil

from kclab import settings
from kcvm import packages

#: Names of the ports that lead out.
OUTPUT, STATUS = 'output', 'status'

_INIT = '''#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
for m in @MODULES@; do $b insmod /modules/$m; done
$b mkdir /host /copy /new
$b mount -t virtiofs -o ro host /host || $b poweroff -f
$b mount -t tmpfs -o size=100% tmpfs /copy
$b mkdir /copy/upper /copy/work
$b mount -t overlay -o \
lowerdir=/host,upperdir=/copy/upper,workdir=/copy/work overlay /new \
|| $b poweroff -f
for d in proc sys dev; do $b mount --move /$d /new/$d; done
$b mount -t tmpfs -o mode=755 tmpfs /new/run
$b mkdir /new/run/vm
$b cp /start /command /new/run/vm/
exec $b switch_root /new /bin/sh /run/vm/start
'''

_START = '''
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /run/netns /run/lock /dev/shm /dev/pts /lib/modules/@RELEASE@
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount --bind @MODULES@ /lib/modules/@RELEASE@
ip link set lo up
hostname vm
ulimit -n 65536
ulimit -l unlimited
port() {
    n=$(grep -lx "$1" /sys/class/virtio-ports/*/name)
    n=${n%/name}
    echo /dev/${n##*/}
}
/bin/bash /run/vm/command </dev/null >$(port @OUTPUT@) 2>&1
echo $? >$(port @STATUS@)
exec /bin/busybox poweroff -f
'''


def initramfs(where, argv):
    """The initramfs that runs a command as this process would."""
    busybox = shutil.which('busybox')
    if busybox is None:
        raise settings.LabError('install busybox-static')
    modules = packages.module(where, 'overlay')
    archive = _Archive()
    for folder in ('bin', 'modules', 'proc', 'sys', 'dev'):
        archive.add(folder, mode=0o40755)
    archive.add('bin/busybox', pathlib.Path(busybox).read_bytes())
    archive.add('init', _INIT.replace(
        '@MODULES@', ' '.join(name for name, _ in modules)).encode())
    archive.add('start', _fill(
        _START, release=where.release, modules=shlex.quote(str(
            where.modules)), output=OUTPUT, status=STATUS).encode())
    archive.add('command', _command(argv).encode())
    for name, data in modules:
        archive.add('modules/' + name, data)
    return archive.bytes()


def _fill(text, **values):
    for name, value in values.items():
        text = text.replace(f'@{name.upper()}@', value)
    return text


def _command(argv):
    exports = [f'export {name}={shlex.quote(value)}\n' for name, value
               in os.environ.items() if name.isidentifier()]
    return '%scd %s\nexec %s\n' % (''.join(exports), shlex.quote(os.getcwd()),
                                   shlex.join(argv))


class _Archive:
    """A cpio archive, format newc (the kernel's buffer-format.rst)."""

    def __init__(self):
        self._parts = []

    def add(self, name, data=b'', mode=0o100755):
        fields = (len(self._parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0,
                  0, len(name) + 1, 0)
        header = '070701' + ''.join('%08x' % field for field in fields)
        self._parts.append(_padded(header.encode() + name.encode() + b'\0')
                           + _padded(data))

    def bytes(self):
        self.add('TRAILER!!!', mode=0)
        return b''.join(self._parts)


def _padded(data):
    return data + bytes(-len(data) % 4)
