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

"""Processes: started in namespaces, remembered, and ended by what we know.

A process is remembered by its pid, its start time and the boot it belongs
to, so that a number used again for something else is never taken for ours.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import threading
import time

from kclab import settings

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
MACHINE = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
JOINED = ('ipc', 'uts', 'net', 'pid', 'mnt')

_spawning = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)
_boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()


def _call(function, *args):
    if function(*args):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def stat(pid):
    """(state, session, start time in ticks) of a process; None when gone."""
    try:
        text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(')')[2].split()
    return fields[0], int(fields[3]), int(fields[19])


class Record:
    """A process that was started, as remembered in a file."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def read(self):
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None

    def write(self, pid):
        now = stat(pid)
        settings.write(self.path, json.dumps({
            'pid': pid, 'start': now[2] if now else 0, 'boot': _boot,
            'since': time.time(), 'served': False}))

    def served(self):
        """Note that all that follows the start has been done too."""
        settings.write(self.path, json.dumps(self.read() | {'served': True}))

    @property
    def pid(self):
        """Process id while the process lives, else None."""
        data = self.read()
        if not data or data['boot'] != _boot:
            return None
        now = stat(data['pid'])
        if now is None or now[0] in 'ZX' or now[2] != data['start']:
            return None
        return data['pid']

    def session(self):
        """Pids of the process's session, the process itself left out."""
        data = self.read()
        if not data or data['boot'] != _boot:
            return []
        found = []
        for entry in os.listdir('/proc'):
            if entry.isdigit() and int(entry) != data['pid']:
                now = stat(entry)
                if (now and now[1] == data['pid'] and now[0] not in 'ZX'
                        and now[2] >= data['start']):
                    found.append(int(entry))
        return found

    def signal(self, number):
        pid = self.pid
        if pid is None:
            return
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self.pid == pid:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)

    def forget(self):
        self.path.unlink(missing_ok=True)


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def in_netns(path, function, *args, **kwargs):
    """Call a function in a thread that is in another network namespace."""
    outcome = {}

    def run():
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _call(_libc.setns, handle, 0)
            finally:
                os.close(handle)
            outcome['value'] = function(*args, **kwargs)
        except Exception as exc:
            outcome['error'] = exc

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if 'error' in outcome:
        raise outcome['error']
    return outcome['value']


def spawn(record, argv, env, log, cwd='/', netns=None, inside=None, new=0):
    """Start a program as a session of its own that outlives us.

    It is remembered before it runs: should we be killed in between, it ends.

    :param record: the Record to remember it in.
    :param log: file that its output is appended to.
    :param netns: path of a network namespace to enter.
    :param inside: pid whose namespaces, of every kind, to enter.
    :param new: CLONE_NEW* of the namespaces to make for it.
    """
    argv = [str(a) for a in argv]
    env = {k: str(v) for k, v in env.items()}
    pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
    # One at a time: a child must not hold the pipe ends of another.
    with _spawning, contextlib.ExitStack() as stack:
        def own(handle):
            stack.callback(os.close, handle)
            return handle

        handles = [own(os.open(netns, os.O_RDONLY))] if netns else []
        handles += [own(os.open(f'/proc/{inside}/ns/{kind}', os.O_RDONLY))
                    for kind in (JOINED if inside else ())]
        output = own(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                             0o644))
        reader, writer = os.pipe()
        go_reader, go_writer = os.pipe()
        own(go_reader)
        child = os.fork()
        if child == 0:
            os.close(go_writer)
            _child(argv, env, cwd, handles, new, output, writer, go_reader)
        os.close(writer)
        with open(reader) as answers, open(go_writer, 'w') as go:
            os.waitpid(child, 0)
            pid = answers.readline().strip()
            if pid:
                record.write(int(pid))
                go.write('go')
                go.flush()
            error = answers.read().strip()
    if error or not pid:
        record.forget()
        raise settings.LabError(f'{argv[0]} did not start: {error}')


def _child(argv, env, cwd, handles, new, output, writer, go):
    """Never returns. Says "PID\n", then why the start failed if it did."""
    try:
        for handle in handles:
            _call(_libc.setns, handle, 0)
        if new:
            _call(_libc.unshare, new)
        pid = os.fork()
        if pid:
            os.write(writer, f'{pid}\n'.encode())
            os._exit(0)
        os.setsid()
        if not os.read(go, 1):
            os._exit(127)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)
    except BaseException as exc:
        os.write(writer, f'\n{exc}'.encode())
    os._exit(127)


def tail(path, lines=12):
    """Last lines of a log."""
    try:
        with open(path, 'rb') as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16384))
            text = log.read().decode(errors='replace')
    except FileNotFoundError:
        return ''
    return '\n'.join(text.splitlines()[-lines:])
