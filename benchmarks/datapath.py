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

"""What judging costs: against the same way without it, in one run.

Three pods, two of them on one node. Each kind of load runs in turn with the
programs of the datapath and no policy (plain), with them and a policy that
allows the load (policy), and with programs that only forward (forward).
Figures named NAME_ratio are policy / forward, medians of all rounds;
NAME_plain_ratio are plain / forward.

Client and server are on CPUs of their own, but where they wait for each other
on one node: there to wake another CPU would be most of what is measured, and
the scheduler would choose anew in each round whether to.
"""

import contextlib
import statistics

from benchmarks import cost
from benchmarks import lab

ROUNDS = 5
SECONDS = 1
PORT = 7000
KINDS = ('rr', 'crr', 'stream')
SERVER_CPU, CLIENT_CPU = '1', '0'
MODES = ('plain', 'policy', 'forward')
POLICIES = '/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies'


def run():
    """Figures and context of the benchmark."""
    api = lab.API()
    loadgen = lab.loadgen()
    figures = cost.figures()
    with lab.namespace(api) as namespace, contextlib.ExitStack() as stack:
        server, _ = lab.start(api, lab.pod('server', 'node-a', {'app': 's'}))
        clients = {}
        for path, node in (('local', 'node-a'), ('cross', 'node-b')):
            clients[path], _ = lab.start(
                api, lab.pod('client-' + path, node, {'app': 'c'}))
        swaps = [stack.enter_context(_swap(node, pods)) for node, pods in (
            ('node-a', (server, clients['local'])),
            ('node-b', (clients['cross'],)))]
        listener = stack.enter_context(
            lab.in_pod(server, 'taskset', '-c', SERVER_CPU, loadgen,
                       'server', str(PORT)))
        listener.stdout.readline()
        found = {(path, kind, mode): [] for path in clients
                 for kind in KINDS for mode in MODES}
        for number in range(ROUNDS):
            for mode in MODES[::-1 if number % 2 else 1]:
                with _mode(api, namespace, mode, swaps, server,
                           clients.values()):
                    for path, pod in clients.items():
                        for kind in KINDS:
                            cpu = (SERVER_CPU if path == 'local'
                                   and kind != 'stream' else CLIENT_CPU)
                            found[path, kind, mode].append(float(
                                lab.ask_in_pod(
                                    pod, 'taskset', '-c', cpu, loadgen, kind,
                                    server['status']['podIP'], str(PORT),
                                    str(SECONDS))))
            lab.say('round %d of %d', number + 1, ROUNDS)
    for (path, kind, mode), values in found.items():
        median = statistics.median(values)
        unit = 'mbps' if kind == 'stream' else 'per_s'
        figures['%s_%s_%s_%s' % (path, kind, mode, unit)] = median
        base = statistics.median(found[path, kind, 'forward'])
        if mode == 'policy':
            figures['%s_%s_ratio' % (path, kind)] = median / base
        elif mode == 'plain':
            figures['%s_%s_plain_ratio' % (path, kind)] = median / base
    return figures, {'rounds': ROUNDS, 'seconds': SECONDS}


def _swap(node, pods):
    """The process on a node that exchanges the programs of some pods."""
    return lab.process_on_node(
        node, *lab.script('swap.py'), lab.bpf_object('forward.bpf.c'),
        *('%s=%s' % (lab.endpoint(pod)['port_id'], pod['status']['podIP'])
          for pod in pods))


@contextlib.contextmanager
def _mode(api, namespace, mode, swaps, server, clients):
    policies = POLICIES % namespace
    for swap in swaps:
        swap.stdin.write('forward\n' if mode == 'forward' else 'judge\n')
        swap.stdin.flush()
        if swap.stdout.readline().strip() != 'ok':
            raise RuntimeError('the programs could not be exchanged')
    if mode == 'policy':
        port = {'port': PORT, 'protocol': 'TCP'}
        for name, subject, direction in (('server', 's', 'ingress'),
                                         ('client', 'c', 'egress')):
            other = 'c' if subject == 's' else 's'
            side = 'from' if direction == 'ingress' else 'to'
            api.request('POST', policies, {
                'apiVersion': 'networking.k8s.io/v1',
                'kind': 'NetworkPolicy', 'metadata': {'name': name},
                'spec': {
                    'podSelector': {'matchLabels': {'app': subject}},
                    'policyTypes': [direction.capitalize()],
                    direction: [{side: [{'podSelector': {
                        'matchLabels': {'app': other}}}],
                        'ports': [port]}]}})
        _wait(server, clients, 'by policy')
    try:
        yield
    finally:
        if mode == 'policy':
            for name in ('server', 'client'):
                api.request('DELETE', '%s/%s' % (policies, name))
            _wait(server, clients, 'allow all')


def _wait(server, clients, verdict):
    lab.wait_verdict(server, 'ingress', verdict)
    for client in clients:
        lab.wait_verdict(client, 'egress', verdict)
