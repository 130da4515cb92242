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

"""The lab (``tools/lab``) as tests drive it."""

import json
import os
import pathlib
import shutil
import subprocess

from kuryr_cilium.cli import client
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium import exceptions
from tests import base

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = ROOT / 'tools' / 'lab' / 'lab'
IMAGE = 'localhost/agnhost:1'

#: The environment of programs. NOTE: while a test runs, HOME is another.
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if not key.lower().endswith('_proxy')}

#: Links of pods that the agent makes, by the beginning of their names.
LINKS = ('kc', 'kq', 'tap')
#: Maps that hold nothing when a node has no pod.
MAPS = ('kc_if_v1', 'kc_local_v1', 'kc_endpoint_v1', 'kc_ct_v1',
        'kc_ct_new_v1', 'kc_rs_peer_v1', 'kc_rs_port_v1', 'kc_rs_group_v1')


class LabError(Exception):
    """A command of the lab failed."""


def run(*argv, stdin=None, timeout=120, check=True, env=None):
    """Run a program; what it prints is returned."""
    done = subprocess.run(
        [str(item) for item in argv], input=stdin, capture_output=True,
        text=True, timeout=timeout, env={**ENVIRONMENT, **(env or {})})
    if check and done.returncode:
        raise LabError('%s: exit code %d\n%s%s' % (
            ' '.join(str(item) for item in argv), done.returncode,
            done.stdout[-2000:], done.stderr[-2000:]))
    return done.stdout


class Lab:
    """The lab that is up."""

    def __init__(self):
        self.refresh()

    def refresh(self):
        """Ask anew what runs, as after a reboot."""
        self.facts = json.loads(run(COMMAND, 'status', '-o', 'json',
                                    check=False) or '{"up": false}')

    def check(self):
        """Raise if the lab is not as the tests need it."""
        if not self.facts['up']:
            raise LabError('The lab is not up: run tools/lab/lab up')
        if self.facts['bare']:
            raise LabError('The lab is up without the product: run '
                           'tools/lab/lab down; tools/lab/lab up')
        bad = [name for name, part in self.facts['parts'].items()
               if part['state'] != 'running'] + [
            name for name, node in self.facts['nodes'].items()
            if not node['ready']]
        if bad:
            raise LabError('Of the lab %s does not run: tools/lab/lab up '
                           'repairs it' % ', '.join(bad))
        if len(self.facts['nodes']) < 2:
            raise LabError('The tests need two nodes: run '
                           'tools/lab/lab up --nodes 2')

    @property
    def nodes(self):
        return sorted(self.facts['nodes'])

    @property
    def state(self):
        return pathlib.Path(self.facts['state'])

    def neutron_facts(self):
        return json.loads((self.state / 'neutron.json').read_text())

    def part(self, action, name, *options):
        """``start``, ``stop`` or ``restart`` a part, or ``reboot`` a node."""
        run(COMMAND, action, name, *options)
        if name in self.facts['nodes']:
            self.refresh()

    def kubectl(self, *argv, stdin=None, check=True, timeout=120):
        program = shutil.which('kubectl', path='%s/bin' % self.facts['cache'])
        command = [program] if program else [COMMAND, 'kubectl']
        return run('nsenter', '--net=/run/netns/' + self.facts['netns'],
                   *command, *argv, stdin=stdin, check=check,
                   timeout=timeout,
                   env={'KUBECONFIG': self.facts['kubeconfig']})

    def apply(self, *objects):
        self.kubectl('apply', '-f', '-', stdin=json.dumps(
            {'apiVersion': 'v1', 'kind': 'List', 'items': list(objects)}))

    def get(self, *argv):
        """What ``kubectl get`` says, as objects."""
        return json.loads(self.kubectl('get', *argv, '-o', 'json'))

    def on_node(self, node, *argv, check=True, env=None):
        """Run a command in a node."""
        pid = self.facts['nodes'][node]['pid']
        return run('nsenter', '--target=%d' % pid, '--mount', '--uts',
                   '--ipc', '--net', '--pid', '--root', '--wdns=/',
                   'env', *['%s=%s' % item for item in (env or {}).items()],
                   *argv, check=check)

    def root(self, node):
        """The file system of a node, as a path here."""
        return pathlib.Path(self.facts['nodes'][node]['root'])

    def netns(self, node=None):
        """Path of a node's network namespace; of the control plane's."""
        name = self.facts['nodes'][node]['netns'] if node else (
            self.facts['netns'])
        return '/run/netns/' + name

    def agent(self, node):
        """A client of a node's agent."""
        return client.AgentClient(
            str(self.root(node) / 'run/kuryr-cilium/api.sock'))

    def agent_status(self, node):
        """What a node's agent says of itself; {} if nobody answers."""
        try:
            return self.agent(node).get('/v1/status')
        except exceptions.KuryrCiliumException:
            return {}

    def agent_ready(self, node):
        return self.agent_status(node).get('ready', False)

    def agent_pid(self, node):
        """Pid in its node of the process that works."""
        return self.agent_status(node).get('pid')

    def wait_agent(self, node):
        base.wait_until(lambda: self.agent_ready(node), 60,
                        lambda: 'the agent of %s is ready; its log:\n%s' % (
                            node, self.log(node + '/agent')))

    def log(self, part, lines=30):
        path = self.facts['parts'][part]['log']
        return run('tail', '-n', lines, path)

    def switch(self, node):
        """What a node's Open vSwitch says of its links and tunnels."""
        return ''.join(
            self.on_node(node, *command, check=False) for command in (
                ('ovs-vsctl', '-f', 'csv', '--columns=name,ofport,error',
                 'list', 'Interface'),
                ('ovs-appctl', 'tnl/neigh/show'),
                ('ovs-appctl', 'tnl/ports/show', '-v'),
                ('ovs-appctl', 'ovs/route/show'),
                ('ovs-appctl', 'dpctl/show', '-s')))

    def neutron(self, method, path, body=None):
        """One request to Neutron."""
        argv = ['curl', '--noproxy', '*', '-sS', '-X', method,
                '%s/v2.0/%s' % (self.facts['neutron'], path)]
        if body is not None:
            argv += ['-H', 'Content-Type: application/json', '-d',
                     json.dumps(body)]
        text = run('nsenter', '--net=' + self.netns(), *argv)
        return json.loads(text) if text else None

    def ports(self, node=None):
        """Neutron's ports of pods, by id; of a node's pods only."""
        found = self.neutron('GET', 'ports?device_owner=compute:kuryr')
        return {port['id']: port for port in found['ports']
                if node in (None, port['binding:host_id'])}

    def records(self, node):
        """What a node's agent has on disk, by UID of the pod."""
        folder = self.root(node) / 'var/lib/kuryr-cilium/endpoints'
        records = [json.loads(path.read_text())
                   for path in folder.glob('*.json')]
        return {record['uid']: record for record in records}

    def leftovers(self, node):
        """What pods leave on a node, if they leave something."""
        return {
            'records': sorted(self.records(node)),
            'links': sorted(name for name in self._links(node)
                            if name.startswith(LINKS)),
            'ovs': sorted(name for name in self.on_node(
                node, 'ovs-vsctl', 'list-ports', 'br-int').split()
                if name.startswith(LINKS)),
            'maps': {name: count for name in MAPS
                     if (count := self._entries(node, name))},
        }

    def _links(self, node):
        links = run('ip', '-n', self.facts['nodes'][node]['netns'], '-j',
                    'link')
        return [link['ifname'] for link in json.loads(links)]

    def _entries(self, node, name):
        fd = libbpf.obj_get(str(
            self.root(node) / 'sys/fs/bpf/kuryr-cilium' / name))
        try:
            return sum(1 for _item in libbpf.map_items(fd))
        finally:
            os.close(fd)
