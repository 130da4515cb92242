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

"""What services cost, without the lab; as root.

Two pods of a node of its own (namespaces) with the real driver: requests on
one connection (rr) and with a connection each (crr), to a pod directly and by
one of so many services, in turn, led when it connects; and (link) by one with
affinity, whose packets are translated on the pod's link. The same load through
a router with the rules of a real kube-proxy. How soon a node knows of them:
services_agent.py. How connections spread: BPF_PROG_TEST_RUN.
"""

import collections
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import kubeproxy
from benchmarks import lab
from benchmarks import services_agent
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.lb import model as lb
from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import bench
from tests.functional.datapath import packets
from tests.functional.datapath import scene
from tests.functional.datapath import test_programs_services as programs

COUNTS = {'10': 10, '1k': 1000, '5k': 5000, '10k': 10000}
ROUNDS = 4
#: Ways take turns so often in a round, each for so many seconds: whatever
#: else the machine does meanwhile is met by all of them.
TURNS = 10
SECONDS = 0.15
PORT = 7000
KINDS = ('rr', 'crr')
#: Where client and server run. It is work that is compared, in time of the
#: CPU: what else runs there meanwhile does not matter then. Both on one: in a
#: virtual machine it is as much work as all of the rest to wake another.
CPU = 1
SPREAD, BACKENDS = 100000, 10


def run():
    """Figures and context of the benchmark."""
    figures = json.loads(subprocess.run(
        [sys.executable, '-m', 'benchmarks.services_agent'], check=True,
        stdout=subprocess.PIPE, text=True).stdout)
    figures['svc_spread'] = spread()
    figures.update(load())
    return figures, {'rounds': ROUNDS, 'seconds': SECONDS, 'turns': TURNS,
                     'updates': services_agent.UPDATES,
                     'connections': SPREAD}


def spread():
    """The largest part by which a backend is off from its even share."""
    counts = collections.Counter()
    with bench.Bench() as made:
        made.set_meta(layout.Meta.EVENT_RATE, 1)
        for index in range(BACKENDS):
            made.update('kc_backend', service_rows.BackendKey(1, index).pack(),
                        service_rows.Backend('10.9.1.%d' % index, 80, None,
                                             0).pack())
        for protocol in programs.PROTOCOLS:
            made.update('kc_svc', service_rows.SvcKey(
                0, programs.VIP[4], 80, protocol).pack(),
                service_rows.Svc(1, BACKENDS, 7, 0).pack())
        for number in range(SPREAD):
            done = libbpf.test_run(
                made.programs['from_pod'], packets.frame(
                    bench.A.mac, bench.ROUTER_MAC, programs.l4(
                        bench.A.v4, programs.VIP[4],
                        programs.PROTOCOLS[number % 2],
                        10000 + number // 2, 80)), context=bytes(192))
            counts[done.data[30:34]] += 1
    if sum(counts.values()) != SPREAD or len(counts) != BACKENDS:
        raise RuntimeError('connections went astray: %s' % counts)
    share = SPREAD / BACKENDS
    return max(abs(count - share) for count in counts.values()) / share


class Path:
    """A way from a client to a server.

    :param client: path of its network namespace.
    :param server: process id of the server.
    """

    def __init__(self, client, address, port, server):
        self._command = _load(client)
        self._to = address, str(port)
        # The clock of all its threads (clock_getcpuclockid(3)).
        self._clock = ~server << 3 | 2

    def ask(self, kind):
        """Transactions in a second of one CPU that does nothing else."""
        before = time.clock_gettime(self._clock)
        count, seconds = lab.command(*self._command, kind, *self._to,
                                     str(SECONDS), 'work').split()
        return int(count) / (float(seconds) + time.clock_gettime(self._clock)
                             - before)


def load():
    """Figures of the load."""
    # (number of services, way, kind) -> rates, one each turn.
    rates = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        pods = stack.enter_context(Pods())
        routers = {name: stack.enter_context(Router(name)).path
                   for name in ('plain', 'iptables', 'nftables')}
        for number in range(ROUNDS):
            for name, count in COUNTS.items():
                pods.serve(count)
                ways = [('direct', pods.direct), ('service', pods.through)]
                if name == '5k':
                    ways += [('link', pods.by_link), *routers.items()]
                for kind in KINDS:
                    for turn in range(TURNS):
                        for way, path in ways[::-1 if turn % 2 else 1]:
                            rates[name, way, kind].append(path.ask(kind))
            lab.say('round %d of %d', number + 1, ROUNDS)
    return _figures(rates)


def _figures(rates):
    def ratio(name, one, other, kind):
        """What one way has of the other's rate, as a rule."""
        return statistics.median(
            mine / its for mine, its in zip(rates[name, one, kind],
                                            rates[name, other, kind]))

    figures = {}
    for (name, way, kind), found in rates.items():
        if way in ('direct', 'service') or name == '5k':
            label = ('svc_%s' % name if way == 'service' else
                     'svc_%s_%s' % (name, way))
            figures['%s_%s_per_s' % (label, kind)] = statistics.median(found)
    for name in COUNTS:
        found = {kind: ratio(name, 'service', 'direct', kind)
                 for kind in KINDS}
        figures['svc_%s_ratio' % name] = min(found.values())
        for kind, value in found.items():
            figures['svc_%s_ratio_%s' % (name, kind)] = value
    for kind in KINDS:
        figures['svc_5k_link_ratio_' + kind] = ratio('5k', 'link', 'direct',
                                                     kind)
    for mode in ('iptables', 'nftables'):
        for kind in KINDS:
            figures['svc_5k_to_%s_%s' % (mode, kind)] = ratio(
                '5k', 'service', mode, kind)
        # Rules are asked when a connection begins.
        figures['svc_5k_to_' + mode] = figures['svc_5k_to_%s_crr' % mode]
        # What is left of it if both ways without services were equal.
        figures['svc_5k_to_%s_same_way' % mode] = (
            ratio('5k', 'service', 'direct', 'crr')
            / ratio('5k', mode, 'plain', 'crr'))
    return figures


def cluster(count, target):
    """So many services with three backends each.

    :param target: (address, port) of all backends of every tenth; the one
        after it has the same, and affinity.
    :returns: them by id, and the addresses of these and of those.
    """
    found = {}
    addresses, with_affinity = [], []
    for number, service in enumerate(services_agent.cluster(count)):
        if number % 10 in (5, 6):
            (with_affinity if number % 2 == 0 else addresses).append(
                service.addresses[0])
            service = dataclasses.replace(service, ports=(
                dataclasses.replace(service.ports[0], backends=(
                    lb.Backend(*target),)),),
                affinity=10800 if number % 2 == 0 else 0)
        found[service.id] = service
    return found, addresses, with_affinity


class Pods:
    """Client and server, pods of a node; a context manager."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._scene = stack.enter_context(scene.Scene())
            a, b = self._scene.pods
            self._scene.conf.clear_override('event_rate', 'datapath')
            self._driver = self._scene.driver()
            self._scene.attach(self._driver, a, b)
            self._driver.apply(scene.view([
                pod.endpoint(model.ALLOW_ALL, model.ALLOW_ALL, True)
                for pod in (a, b)]))
            for pod in (a, b):
                self._driver.activate(pod.attachment.vif_id)
            # Whatever router it takes, the programs know the way.
            scene.run('ip', '-n', a.name, 'route', 'add',
                      kubeproxy.SERVICE_CIDR, 'via', b.v4)
            self._server = stack.enter_context(_server(b.path))
            self._target = b.v4, PORT
            self.direct = Path(a.path, b.v4, PORT, self._server)
            self._client = a.path
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def serve(self, count):
        """Have so many services in force."""
        found, *addresses = cluster(count, self._target)
        refused = self._driver.serve(found, lb.Node('node'), frozenset())
        if refused:
            raise RuntimeError(str(refused))
        # The driver sweeps connections then, in this process.
        base.wait_until(_idle, 60, interval=0)
        self.through, self.by_link = (
            Path(self._client, ways[len(ways) // 2], 80, self._server)
            for ways in addresses)


class Router:
    """Client and server with a router between them; a context manager.

    :param mode: plain, iptables or nftables: with what rules.
    """

    ADDRESSES = {'c': '10.60.1.2', 's': '10.60.2.2'}

    def __init__(self, mode):
        self._mode = mode

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            names = {end: 'kcb%d-%s-%s' % (os.getpid(), self._mode, end)
                     for end in 'crs'}
            for name in names.values():
                scene.run('ip', 'netns', 'add', name)
                stack.callback(scene.run, 'ip', 'netns', 'del', name)
            for end, address in self.ADDRESSES.items():
                gateway = address[:-1] + '1'
                scene.run('ip', '-n', names['r'], 'link', 'add', end, 'type',
                          'veth', 'peer', 'name', 'eth0', 'netns', names[end])
                for name, device, own in ((names['r'], end, gateway),
                                          (names[end], 'eth0', address)):
                    scene.run('ip', '-n', name, 'addr', 'add', own + '/24',
                              'dev', device)
                    scene.run('ip', '-n', name, 'link', 'set', device, 'up')
                scene.run('ip', '-n', names[end], 'route', 'add', 'default',
                          'via', gateway)
            inside = ('nsenter', '--net=/run/netns/' + names['r'])
            scene.run(*inside, 'sysctl', '-qw', 'net.ipv4.ip_forward=1')
            address = self._rules(inside)
            server = stack.enter_context(_server('/run/netns/' + names['s']))
            self.path = Path('/run/netns/' + names['c'], address,
                             PORT if self._mode == 'plain' else 80, server)
            self.path.ask('rr')
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def _rules(self, inside):
        """Have rules written; the address that the client asks."""
        target = self.ADDRESSES['s']
        if self._mode == 'plain':
            return target
        found, addresses, _ = cluster(COUNTS['5k'], (target, PORT))
        lab.say('kube-proxy writes its rules (%s)', self._mode)
        with tempfile.NamedTemporaryFile('w') as stream:
            json.dump([(
                service.namespace, service.name, service.addresses[0],
                service.ports[0].port, [
                    (backend.address, backend.port)
                    for backend in service.ports[0].backends])
                for service in found.values()], stream)
            stream.flush()
            scene.run(*inside, 'ip', 'link', 'set', 'lo', 'up')
            order = json.loads(scene.run(
                *inside, sys.executable, '-m', 'benchmarks.kubeproxy',
                self._mode, self.ADDRESSES['c'][:-1] + '1', stream.name))
        # The one in the middle of the rules.
        wanted = [address for address in order if address in set(addresses)]
        return wanted[len(wanted) // 2]


@contextlib.contextmanager
def _server(path):
    """The server of the load in a network namespace; its process id."""
    process = subprocess.Popen(
        [*_load(path), 'server', str(PORT)],
        stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _idle():
    """Whether this process has nothing to do."""
    before = time.process_time()
    time.sleep(0.3)
    return time.process_time() - before < 0.01


def _load(path):
    """The command of the load in a network namespace."""
    return ['nsenter', '--net=' + path, 'taskset', '-c', str(CPU),
            lab.loadgen()]
