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

"""The command `vm`."""

import argparse
import fcntl
import os
import signal
import subprocess
import sys

from kclab import settings
from kcvm import machine
from kcvm import packages


def parser():
    top = argparse.ArgumentParser(
        prog='vm', description='Run a command on a Debian kernel that has '
        'Open vSwitch, in QEMU, over a copy-on-write view of this machine. '
        'As root. It is emulated, some ten times slower than here.')
    commands = top.add_subparsers(dest='command', required=True,
                                  metavar='COMMAND')
    help = 'fetch QEMU and the kernel into the cache folder'
    commands.add_parser('build', help=help, description=help)
    help = ('run a command in the VM; its output and exit status are '
            "returned. It runs in this folder, with this command's "
            'environment, as root; what it writes is gone afterwards')
    run = commands.add_parser('run', help=help, description=help)
    run.add_argument('--timeout', type=float, default=1800, metavar='SECONDS',
                     help='power off after so long, exit status %d (default: '
                     '%%(default)g)' % machine.TIMED_OUT)
    run.add_argument('--memory', default='4G', metavar='SIZE',
                     help='of the VM; what the command writes is held there '
                     'too (default: %(default)s)')
    run.add_argument('--cpus', type=int, default=os.cpu_count(), metavar='N',
                     help="default: this machine's (%(default)s)")
    run.add_argument('--accel', default='tcg,thread=multi', metavar='ACCEL',
                     help="QEMU's accelerator (default: %(default)s); kvm is "
                     'faster where it works')
    run.add_argument('argv', nargs='+', metavar='-- CMD')
    return top


def build(where):
    """Fetch what isn't there, one process at a time."""
    where.folder.mkdir(parents=True, exist_ok=True)
    with open(where.folder / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages.build(where)


def main():
    args = parser().parse_args()
    where = packages.Folders(settings.Settings())
    # QEMU ends with this command.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if os.geteuid() != 0:
            raise settings.LabError('run me as root: the VM sees what I see')
        build(where)
        if args.command == 'run':
            return machine.run(where, args)
    except (settings.LabError, OSError, subprocess.SubprocessError) as error:
        print(f'vm: {error}', file=sys.stderr)
        return machine.NOT_STARTED
    except KeyboardInterrupt:
        return 130
    return 0
