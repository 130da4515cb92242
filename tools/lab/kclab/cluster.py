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

"""The lab as a whole: up, down, and the parts one by one."""

import contextlib
import fcntl
import os
import shutil
import threading
import time

from kclab import build
from kclab import controlplane
from kclab import machine
from kclab import networks
from kclab import neutron
from kclab import nodeparts
from kclab import parts
from kclab import product
from kclab import rabbit
from kclab import settings
from kclab import ui


class Cluster:
    """All parts of one lab, in the order in which they are started."""

    def __init__(self, lab):
        self.lab = lab
        self.refresh()

    def refresh(self):
        """Make the parts anew, for what the lab now is."""
        lab, self.parts = self.lab, {}
        if lab.spec is None:
            return
        found = (controlplane.make_parts(lab) + neutron.make_parts(lab)
                 + rabbit.make_parts(lab))
        if not lab.spec['bare']:
            found += product.make_parts(lab)
        for node in lab.nodes:
            found += nodeparts.make_parts(lab, node)
            if not lab.spec['bare']:
                found += product.make_node_parts(lab, node)
        self.parts = {part.name: part for part in found}

    def find(self, name):
        """A part, or a node by its own name."""
        for node in self.lab.nodes:
            if node.name == name:
                return node
        if name not in self.parts:
            known = [n.name for n in self.lab.nodes] + list(self.parts)
            raise settings.LabError(
                f'no part {name!r}; there are {", ".join(known)}'
                if known else 'the lab is not up')
        return self.parts[name]

    @contextlib.contextmanager
    def lock(self):
        """One command at a time may change the lab."""
        path = self.lab.state / 'lock'
        while True:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            with open(path, 'w') as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    ui.say('another lab command is under way: waiting')
                    fcntl.flock(lock, fcntl.LOCK_EX)
                # `down` may have removed the folder in the meantime.
                if not os.path.exists(path) or not os.path.samestat(
                        os.fstat(lock.fileno()), os.stat(path)):
                    continue
                self.refresh()
                yield
                return

    def up(self, nodes=None, backend=None, bare=None, kube_bin=None,
           kube_proxy=None):
        """Bring up what is not up; all of it the first time."""
        if os.geteuid():
            raise settings.LabError('the lab needs root')
        spec = self._wanted(nodes, backend, bare, kube_proxy)
        spec['kube_folder'] = (os.path.abspath(kube_bin) if kube_bin
                               else spec.get('kube_folder'))
        spec['kube_bin'] = build.run(
            self.lab, spec['bare'], spec['kube_folder'], spec['kube_proxy'])
        self.lab.save_spec(spec)
        self.lab.log.mkdir(parents=True, exist_ok=True)
        self.refresh()
        with ui.step('certificates and networks of the host'):
            controlplane.make_credentials(self.lab)
            machine.make_control_network()
        Start(self).run()

    def _wanted(self, nodes, backend, bare, kube_proxy):
        spec = self.lab.spec
        if spec is None:
            for name in [settings.CP] + [n.netns for n in settings.ALL_NODES]:
                if machine.netns_exists(name):
                    raise settings.LabError(
                        f'the network namespace {name} is there, but no lab '
                        f'in {self.lab.state}: `down` removes what is left '
                        'of it')
            return {'nodes': nodes or 2, 'backend': backend or 'ovn',
                    'bare': bool(bare), 'kube_proxy': bool(kube_proxy),
                    'netns_mount': machine.is_mounted(parts.NETNS)}
        spec = {'kube_proxy': False} | spec
        for name, value in (('backend', backend), ('bare', bare),
                            ('kube_proxy', kube_proxy)):
            if value is not None and value != spec[name]:
                raise settings.LabError(
                    f'a lab with {name}={spec[name]} is up: `down` first')
        if nodes and nodes < spec['nodes']:
            raise settings.LabError(
                f'a lab of {spec["nodes"]} nodes is up: `down` first')
        return spec | {'nodes': nodes or spec['nodes']}

    def down(self):
        """Leave nothing: processes, namespaces, cgroups, files."""
        spec = self.lab.spec
        for node in self.lab.nodes:
            parts.node_record(self.lab, node).signal(9)
        for part in self.parts.values():
            if part.node is None:
                part.record.signal(9)
        machine.remove_all()
        product.remove_shared_memory()
        if spec and not spec['netns_mount']:
            machine.forget_netns_mount()
        if spec:
            shutil.rmtree(self.lab.state)
        else:
            (self.lab.state / 'lock').unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.lab.state.rmdir()

    def start_node(self, node):
        """Power a node on, with all that runs in it."""
        machine.power_on(self.lab, node)
        for part in self.parts.values():
            if part.node == node:
                part.start()
        ui.wait_for(lambda: self.ready(node), 120,
                    f'{node.name} to be Ready')

    def ready(self, node):
        """Whether the API server says so, from a report of this kubelet.

        What it says of a node that is away stays as it was for a while.
        """
        kubelet = self.parts[f'{node.name}/kubelet'].record.read()
        return (kubelet and controlplane.reported(self.lab, node.name)
                >= kubelet['since']
                and node.name in controlplane.ready_nodes(self.lab))


class Start:
    """One `up`: chains of parts side by side, each waiting for its needs."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.lab = cluster.lab
        self._served = {name: threading.Event() for name in cluster.parts}
        self._networks = threading.Event()
        self._accounts = threading.Event()
        self.bare = self.lab.spec['bare']
        self.backend = self.lab.spec['backend']

    def run(self):
        chains = [lambda n=node: self._node(n) for node in self.lab.nodes]
        chains += [self._kubernetes, self._neutron, self._rabbit]
        if not self.bare:
            chains.append(self._product)
        ui.together(*chains)
        with ui.step('the router answers'):
            ui.wait_for(lambda: networks.router_answers(self.lab), 120,
                        'the router to answer', check=self._check)
        if self.bare:
            nodeparts.make_bare_routes(self.lab.nodes)
        else:
            with ui.step('controller and agents ready'):
                ui.wait_for(lambda: product.serving(self.lab), 120,
                            'the controller and the agents to be ready',
                            check=self._check)
        with ui.step('nodes Ready'):
            ui.wait_for(
                lambda: all(self.cluster.ready(n) for n in self.lab.nodes),
                120, 'the nodes to be Ready', check=self._check)
        if not self.bare:
            with ui.step('DNS of the cluster'):
                ui.wait_for(lambda: product.dns_answers(self.lab), 120,
                            'CoreDNS to be ready', check=self._check)

    def _check(self):
        for part in self.cluster.parts.values():
            part.check()

    def _start(self, *names):
        for name in names:
            part = self.cluster.parts[name]
            died = part.record.read() and not part.pid
            begin = time.monotonic()
            if part.start():
                ui.took(name + (' (was dead)' if died else ''), begin)
            self._served[name].set()

    def _wait(self, event, what):
        ui.wait_for(event.is_set, 600, what)

    def _need(self, *names):
        for name in names:
            self._wait(self._served[name], name)

    def _kubernetes(self):
        self._start('etcd', 'kube-apiserver', 'kcm')
        if not self.bare:
            product.apply_manifests(self.lab)
            self._accounts.set()
        self._start('scheduler')

    def _neutron(self):
        if self.backend == 'ovn':
            ui.together(lambda: self._start('ovn-nb', 'ovn-sb', 'northd'),
                        lambda: self._start('mariadb'))
        else:
            self._start('mariadb')
            self._need('rabbitmq')
        self._start('neutron')
        if self.backend == 'ovs':
            self._start('neutron-rpc')
        with ui.step('networks, router'):
            facts = networks.make(self.lab)
        v4, v6 = sorted(facts['gateways'], key=lambda a: ':' in a)
        machine.ip(netns=settings.CP, batch=[
            f'route replace {settings.POD_CIDR} via {v4}',
            f'route replace {settings.POD_CIDR6} via {v6}'])
        self._networks.set()

    def _rabbit(self):
        self._start('epmd', 'rabbitmq')

    def _product(self):
        self._wait(self._accounts, 'service accounts')
        self._wait(self._networks, 'networks')
        self._need('rabbitmq')
        self._start('controller')

    def _node(self, node):
        booted = machine.power_on(self.lab, node)
        if booted:
            ui.say(f'{node.name} boots')
        ui.together(lambda: self._wiring(node.name),
                    lambda: self._runtime(node))
        if not self.bare:
            self._need('rabbitmq')
            self._start(f'{node.name}/agent')

    def _runtime(self, node):
        self._start(f'{node.name}/containerd')
        if self.bare:
            nodeparts.make_bare_network(self.lab, node)
        self._need('kube-apiserver')
        self._start(f'{node.name}/kubelet')
        if self.lab.kube_proxy:
            self._start(f'{node.name}/kube-proxy')
        if not self.bare:
            self._wait(self._accounts, 'service accounts')

    def _wiring(self, name):
        self._start(f'{name}/ovsdb', f'{name}/vswitchd')
        if self.backend == 'ovn':
            self._need('ovn-sb')
            self._start(f'{name}/ovn-controller')
            return
        self._need('neutron-rpc')
        self._start(*(n for n in (f'{name}/ovs-agent', f'{name}/l3-agent')
                      if n in self.cluster.parts))
