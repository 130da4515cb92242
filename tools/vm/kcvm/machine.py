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

"""The VM itself: virtiofsd and QEMU for the time of one command."""

import contextlib
import pathlib
import subprocess
import sys
import tempfile

from kclab import settings
from kclab import ui
from kcvm import guest

#: Exit statuses of our own; otherwise it is the command's.
TIMED_OUT, NOT_STARTED = 124, 125


def run(where, args):
    """Run a command in a VM.

    :param args: what was given at the command line.
    :returns: its exit status.
    :raises: settings.LabError when the VM did not come so far.
    """
    with tempfile.TemporaryDirectory(dir=where.folder) as scratch:
        scratch = pathlib.Path(scratch)
        initramfs = scratch / 'initramfs'
        initramfs.write_bytes(guest.initramfs(where, args.argv))
        with _host(where, scratch) as socket:
            done = _boot(where, args, scratch, initramfs, socket)
        if done is None:
            print(f'vm: not done within {args.timeout:g} s', file=sys.stderr)
            return TIMED_OUT
        status = (scratch / 'status').read_text().strip()
        if not status:
            raise settings.LabError('the VM ended early: \n%s' % (
                scratch / 'console').read_text(errors='replace')[-4000:])
        return int(status)


@contextlib.contextmanager
def _host(where, scratch):
    """virtiofsd with this machine's root; the socket that it listens on."""
    socket, log = scratch / 'host', scratch / 'virtiofsd'
    with open(log, 'w') as output:
        daemon = subprocess.Popen(
            where.program(
                'usr/libexec/virtiofsd', '--shared-dir=/',
                f'--socket-path={socket}', '--cache=always', '--sandbox=none',
                '--no-announce-submounts'),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def alive():
        if daemon.poll() is not None:
            raise settings.LabError('virtiofsd: ' + log.read_text()[-2000:])

    try:
        ui.wait_for(socket.exists, 10, 'virtiofsd', alive)
        yield socket
    finally:
        daemon.kill()
        daemon.wait()


def _boot(where, args, scratch, initramfs, socket):
    """QEMU's exit status; None after the timeout."""
    share = where.root / 'usr' / 'share'
    machine = subprocess.Popen(where.program(
        'usr/bin/qemu-system-x86_64', '-L', share / 'qemu', '-L',
        share / 'seabios', '-nodefaults', '-no-user-config', '-no-reboot',
        '-display', 'none', '-accel', args.accel, '-cpu', 'max',
        '-smp', args.cpus, '-m', args.memory,
        # virtiofsd reads and writes the VM's memory.
        '-object', f'memory-backend-memfd,id=memory,size={args.memory},'
        'share=on', '-machine', 'q35,memory-backend=memory',
        '-kernel', where.vmlinuz, '-initrd', initramfs,
        '-append', 'console=ttyS0 panic=-1 quiet mitigations=off '
        'tsc=reliable random.trust_cpu=on',
        '-chardev', f'socket,id=host,path={socket}',
        '-device', 'vhost-user-fs-pci,chardev=host,tag=host,queue-size=1024',
        '-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci',
        # Output comes by a port: a serial console is slow and a terminal.
        # Its input never ends, for the port would be closed with it.
        '-chardev', 'stdio,id=output,signal=off',
        '-device', f'virtserialport,chardev=output,name={guest.OUTPUT}',
        '-chardev', f'file,id=status,path={scratch / "status"}',
        '-device', f'virtserialport,chardev=status,name={guest.STATUS}',
        '-serial', f'file:{scratch / "console"}'),
        stdin=subprocess.PIPE)
    try:
        return machine.wait(args.timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        machine.kill()
        machine.wait()
