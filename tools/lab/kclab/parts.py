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

"""A part of the lab: one long-running program, and how to treat it."""

import dataclasses
import http.client
import os
import signal
import socket
import ssl
import subprocess
import typing

from kclab import procs
from kclab import settings
from kclab import ui

# The directory of a namespace that `ip netns` names.
NETNS = '/run/netns'
CP_NETNS = f'{NETNS}/{settings.CP}'


def _nothing():
    return None


@dataclasses.dataclass
class Part:
    """One program of the control plane, or of a node.

    :param command: gives the argument list.
    :param node: the node it runs in; None is the control plane.
    :param ready: a probe that is true once the program serves.
    :param before: called before each start.
    :param after: called once it is ready after each start.
    :param whole: its other processes end with it. False for what must
        leave processes behind, such as the shims of containerd.
    """

    lab: settings.Settings
    name: str
    command: typing.Callable
    node: settings.Node | None = None
    ready: typing.Callable = lambda: True
    before: typing.Callable = _nothing
    after: typing.Callable = _nothing
    env: dict = dataclasses.field(default_factory=dict)
    cwd: str = '/'
    timeout: float = 120
    whole: bool = False

    @property
    def log(self):
        return self.lab.log / f'{self.name.replace("/", ".")}.log'

    @property
    def record(self):
        return procs.Record(
            self.lab.run / f'{self.name.replace("/", ".")}.json')

    @property
    def pid(self):
        return self.record.pid

    def check(self):
        """Raise when the program is no longer there."""
        if self.pid is None:
            raise settings.LabError(
                f'{self.name} has died. The end of {self.log}:\n'
                + procs.tail(self.log))

    def start(self, env=None):
        """Start unless it runs; return when it serves.

        :param env: more environment variables for this run of it.
        :returns: whether it was started by this call.
        """
        running = self.pid is not None
        if running and self.record.read()['served']:
            return False
        if not running:
            self._spawn(env or {})
        ui.wait_for(self.ready, self.timeout, f'{self.name} to serve',
                    check=self.check)
        self.after()
        self.record.served()
        return True

    def _spawn(self, env):
        self._end_session()
        self.before()
        machine = node_pid(self.lab, self.node) if self.node else None
        procs.spawn(
            self.record, self.command(),
            environment(self.lab) | self.env | env, self.log, cwd=self.cwd,
            inside=machine, netns=None if machine else CP_NETNS)

    def stop(self, kill=False, timeout=20):
        """End it: by SIGTERM, then by SIGKILL, or by SIGKILL at once."""
        record = self.record
        if not kill:
            record.signal(signal.SIGTERM)
            try:
                ui.wait_for(lambda: record.pid is None, timeout, self.name)
            except settings.LabError:
                ui.say(f'{self.name} ignores SIGTERM: killed')
        record.signal(signal.SIGKILL)
        ui.wait_for(lambda: record.pid is None, 10, f'{self.name} to end')
        self._end_session()

    def _end_session(self):
        if self.whole:
            def gone():
                left = self.record.session()
                procs.kill(left)
                return not left
            ui.wait_for(gone, 10, f'processes of {self.name} to end')


def environment(lab):
    """What every program of the lab gets; nothing of the caller's."""
    return {'PATH': f'{lab.bin}:{settings.PATH}', 'HOME': '/root',
            'LANG': 'C.UTF-8', 'PYTHONDONTWRITEBYTECODE': '1'}


def node_record(lab, node):
    return procs.Record(lab.run / f'{node.name}.json')


def node_pid(lab, node):
    """Pid of a node's first process; raises when the node is off."""
    pid = node_record(lab, node).pid
    if pid is None:
        raise settings.LabError(f'{node.name} is not running')
    return pid


def entering(lab, node=None):
    """Arguments that run a command in a node, or beside the control plane."""
    if node is None:
        return ['nsenter', f'--net={CP_NETNS}']
    return ['nsenter', f'--target={node_pid(lab, node)}', '--mount', '--uts',
            '--ipc', '--net', '--pid', '--root', '--wdns=/']


def run(lab, argv, node=None, check=True, text=None, timeout=120, env=None):
    """Run a command in a node or beside the control plane.

    :param text: what it reads from its standard input.
    :returns: its standard output.
    :raises LabError: when it fails, with what it wrote.
    """
    done = subprocess.run(
        entering(lab, node) + [str(a) for a in argv], input=text, text=True,
        capture_output=True, timeout=timeout, cwd='/',
        env=environment(lab) | (env or {}))
    if check and done.returncode:
        raise settings.LabError(
            f'{" ".join(str(a) for a in argv)}: '
            f'{(done.stderr or done.stdout).strip()[-2000:]}')
    return done.stdout


def feed(lab, argv, source, node=None):
    """Run a command that reads an open file."""
    done = subprocess.run(entering(lab, node) + argv, stdin=source,
                          capture_output=True, cwd='/',
                          env=environment(lab))
    if done.returncode:
        raise settings.LabError(
            f'{" ".join(argv)}: {done.stderr.decode(errors="replace")}')


def _within(node, function):
    path = f'{NETNS}/{node.netns}' if node else CP_NETNS
    return procs.in_netns(path, function)


def tcp_answers(host, port, node=None, say=b'', hear=0):
    """A probe: the port accepts, and answers `say` with `hear` bytes."""
    def probe():
        with socket.create_connection((host, port), timeout=2) as link:
            link.sendall(say)
            return not hear or len(link.recv(hear)) == hear
    return lambda: _within(node, probe)


def http_answers(host, port, path, node=None, secure=False, status=200):
    """A probe: GET path answers with that status."""
    def probe():
        if secure:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            link = http.client.HTTPSConnection(host, port, timeout=5,
                                               context=context)
        else:
            link = http.client.HTTPConnection(host, port, timeout=5)
        try:
            link.request('GET', path)
            return link.getresponse().status == status
        except http.client.HTTPException as exc:
            raise OSError(str(exc)) from exc
        finally:
            link.close()
    return lambda: _within(node, probe)


def unix_answers(path):
    """A probe: something listens on a unix socket."""
    def probe():
        # Reached by a handle on its folder: the whole path may be longer
        # than the 108 bytes of a socket's address.
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(2)
                link.connect(f'/proc/self/fd/{folder}/'
                             f'{os.path.basename(path)}')
            return True
        finally:
            os.close(folder)
    return probe
