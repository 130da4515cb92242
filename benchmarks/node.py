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


"""What a large view costs the agent of one node; without the lab.

A cluster of 10,000 pods of which a node with 200 endpoints names every one: by
the labels of applications, by a namespace, by blocks, and by ``cluster``. The
wire forms of what changes are read, planned, and written into real maps, in a
BPF file system of its own. Time is taken until the policy epoch is advanced:
from then on packets are judged by what is new. CPU time too, which other load
of the machine changes little. Needs root.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import enforced
from benchmarks import lab
from benchmarks import nodeview
from kuryr_cilium.agent import view as views
from kuryr_cilium.agent import viewfile
from kuryr_cilium.cmd import agent as process  # noqa: F401 - what it loads
from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium import memory
from kuryr_cilium.policy import entities
from kuryr_cilium.rpc import objects

ROUNDS = 40


def run():
    """Figures and context of the benchmark."""
    # In a process of its own: what it has in memory is the agent's.
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.node'], check=True,
        stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


class Agent:
    """The agent's part: from an answer of the controller to the maps."""

    def __init__(self, loaded):
        memory.tune()
        self._maps = maps.Maps(loaded.maps)
        self._writer = writer.Writer(self._maps)
        self._planner = plan.Planner(self._writer.allocate)
        advance = self._writer.advance_epoch

        def stamp():
            advance()
            self._advanced = self._advanced or _clocks()

        self._writer.advance_epoch = stamp
        self._assembler = views.Assembler()
        self.held = {}
        self._locals = {
            place + 1: endpoints.Local(
                place + 1, 'local-%d' % place, 'vif-%d' % place,
                1000 + place, 2000 + place,
                '02:00:00:00:%02x:%02x' % divmod(place, 256),
                ('10.9.0.%d' % place,), 1, active=True)
            for place in range(nodeview.ENDPOINTS)}

    def apply(self, changed, removed=()):
        """Milliseconds until the epoch, and those of CPU time.

        :param changed: wire forms as JSON.
        """
        self._advanced = None
        begin = _clocks()
        wires = json.loads(changed)
        digests = {key: objects.digest(wire) for key, wire in wires.items()}
        loaded = {key: objects.load(wire) for key, wire in wires.items()}
        self.held = views.merge(self.held, loaded, digests, removed)
        view = self._assembler.assemble(1, self.held).view
        planned = self._planner.plan(view, self._locals, ('192.0.2.1',))
        if planned.denied:
            raise RuntimeError(next(iter(planned.denied.values())))
        self._writer.carry_out(planned)
        return tuple((end - start) * 1000
                     for start, end in zip(begin, self._advanced))


def _clocks():
    return time.perf_counter(), time.thread_time()


def policy_changes(cluster, agent, rulesets=1):
    """A policy comes and goes that a part of the endpoints is selected by.

    :param rulesets: how many of nodeview.RULESETS it changes.
    """
    found = []
    for number in range(ROUNDS):
        (changed, gone), (rest, new) = cluster.policy(number, rulesets)
        found.append(agent.apply(json.dumps(changed), gone))
        agent.apply(json.dumps(rest), new)
    return found


def pod_changes(cluster, agent):
    """A pod comes, with the selectors that have it."""
    found = []
    for number in range(ROUNDS):
        pod = nodeview.member(nodeview.PODS + number)
        changed = {}
        for name in ('app-%d' % (number % nodeview.APPS),
                     'namespace-%d' % (number % nodeview.NAMESPACES),
                     entities.CLUSTER):
            for key in cluster.add_member(name, pod):
                changed[key] = cluster.objects[key]
        found.append(agent.apply(json.dumps(changed)))
    return found


def process_memory(field):
    with open('/proc/self/status') as stream:
        for line in stream:
            if line.startswith(field + ':'):
                return int(line.split()[1]) / 1024
    raise RuntimeError('no %s' % field)


def footprint(state, pins):
    """Megabytes of an agent that has the whole view, also on disk."""
    before = process_memory('VmRSS')
    with loader.load(lab.bpf_object(
            '../kuryr_cilium/datapath/src/kuryr_cilium.bpf.c'),
            pins) as loaded:
        agent = Agent(loaded)
        with open(os.path.join(state, 'whole.json')) as stream:
            agent.apply(stream.read())
        viewfile.ViewFile(os.path.join(state, 'view.json')).save(
            1, agent.held)
        memory.settle()
        return {'agent_rss_mib': process_memory('VmRSS'),
                'agent_peak_mib': process_memory('VmHWM'),
                'empty_mib': before}


def main(*arguments):
    if arguments:
        print(json.dumps(footprint(*arguments)))
        return
    with tempfile.TemporaryDirectory() as pins, \
            tempfile.TemporaryDirectory() as state:
        subprocess.run(['mount', '-t', 'bpf', 'bpf', pins], check=True)
        try:
            cluster = nodeview.Cluster()
            whole = json.dumps(cluster.objects)
            with open(os.path.join(state, 'whole.json'), 'w') as stream:
                stream.write(whole)
            figures = json.loads(subprocess.run(
                [sys.executable, '-m', 'benchmarks.node', state,
                 os.path.join(pins, 'memory')], check=True,
                stdout=subprocess.PIPE, text=True).stdout)
            with loader.load(lab.bpf_object(
                    '../kuryr_cilium/datapath/src/kuryr_cilium.bpf.c'),
                    os.path.join(pins, 'time')) as loaded:
                agent = Agent(loaded)
                figures['plan_first_ms'], _ = agent.apply(whole)
                memory.settle()
                for name, found in (
                        ('plan_policy', policy_changes(cluster, agent)),
                        ('plan_policy_all', policy_changes(
                            cluster, agent, nodeview.RULESETS)),
                        ('plan_pod', pod_changes(cluster, agent))):
                    for what, values in zip(('', '_cpu'), zip(*found)):
                        for share in (50, 99):
                            figures['%s%s_p%d_ms' % (name, what, share)] = \
                                lab.percentile(values, share / 100)
            figures.update(enforced.run(pins, state))
        finally:
            subprocess.run(['umount', pins], check=True)
    print(json.dumps([figures, {
        'pods': nodeview.PODS, 'endpoints': nodeview.ENDPOINTS,
        'rounds': ROUNDS, 'enforced_rounds': enforced.ROUNDS,
        'selectors': sum(key.startswith('selector:')
                         for key in cluster.objects)}]))


if __name__ == '__main__':
    main(*sys.argv[1:])
