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
from then on packets are judged by what is new. Needs root.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import lab
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
from kuryr_cilium.policy import members
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects

PODS = 10000
NAMESPACES = 200
APPS = 500
NODES = 100
BLOCKS = 50
ENDPOINTS = 200
RULESETS = 20
ROUNDS = 40


def run():
    """Figures and context of the benchmark."""
    # In a process of its own: what it has in memory is the agent's.
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.node'], check=True,
        stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def member(place):
    return model.Member('uid-%d' % place, (
        '10.%d.%d.%d' % (64 + place // 65536, place // 256 % 256,
                         place % 256), 'fd00:64::%x' % place))


class Cluster:
    """What the controller sends of it: wire forms by key."""

    def __init__(self):
        self.objects = {}
        self._members = members.Members()
        pods = [member(place) for place in range(PODS)]
        by_app, by_namespace = {}, {}
        for place, pod in enumerate(pods):
            by_app.setdefault(place % APPS, []).append(pod)
            by_namespace.setdefault(place % NAMESPACES, []).append(pod)
        for place, found in by_app.items():
            self.selector('app-%d' % place, found)
        for place, found in by_namespace.items():
            self.selector('namespace-%d' % place, found)
        self.selector(entities.CLUSTER, pods)
        self.selector(entities.REMOTE_NODE, [
            model.Member('node-%d' % place, ('192.0.2.%d' % (place + 1),),
                         entities.Entity.REMOTE_NODE)
            for place in range(NODES)])
        for place in range(BLOCKS):
            self.selector('block-%d' % place, (), model.Block(
                '10.%d.0.0/16' % (64 + place // 4),
                ('10.%d.%d.0/24' % (64 + place // 4, place),)))
        for place in range(RULESETS):
            self.ruleset('base-%d' % place, place)
        for place in range(ENDPOINTS):
            self.endpoint(place, 'base-%d' % (place % RULESETS))

    def put(self, obj):
        self.objects[objects.key(obj)] = objects.dump(obj)

    def selector(self, name, found, block=None):
        """A selector with its members, in the pieces that are sent."""
        self._members.hold(name, name, block)
        for peer in found:
            self._members.put(name, peer.uid, peer)
        for key in self._members.keys(name):
            self.put(self._members.piece(key))

    def add_member(self, name, peer):
        """One more member; the keys of what is sent of it."""
        keys = self._members.put(name, peer.uid, peer)
        for key in keys:
            self.put(self._members.piece(key))
        return keys

    def ruleset(self, name, place, *more):
        """What one application's endpoints are judged by."""
        def group(verdict, *peers, port=None, priority=0):
            return model.RuleGroup(
                model.Tier.NETWORK_POLICY, priority, verdict,
                frozenset(peers), port and frozenset((
                    model.PortRange(6, port, port),)))

        groups = [group(model.Verdict.ALLOW, 'app-%d' % app, port=8000 + app)
                  for app in range(place, APPS, APPS // 5)]
        groups += [group(model.Verdict.ALLOW, 'namespace-%d' % number,
                         port=9000)
                   for number in range(place, NAMESPACES, NAMESPACES // 2)]
        groups += [group(model.Verdict.DENY, 'block-%d' % number)
                   for number in range(place, BLOCKS, BLOCKS // 2)]
        groups += [group(model.Verdict.ALLOW, entities.CLUSTER, port=53)]
        groups += more
        self.put(model.RuleSet(
            name, model.Direction.INGRESS, tuple(groups),
            tuple(('NetworkPolicy/ns/%s ingress[%d]' % (name, number),)
                  for number in range(len(groups)))))

    def endpoint(self, place, ingress):
        self.put(model.Endpoint(
            'local-%d' % place, 'ns', 'local-%d' % place, 'node',
            'vif-%d' % place, '02:00:00:00:%02x:%02x' % divmod(place, 256),
            'net', ('10.9.0.%d' % place,), ingress, model.ALLOW_ALL))


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
            self._advanced = self._advanced or time.perf_counter()

        self._writer.advance_epoch = stamp
        self._assembler = views.Assembler()
        self.held = {}
        self._locals = {
            place + 1: endpoints.Local(
                place + 1, 'local-%d' % place, 'vif-%d' % place,
                1000 + place, 2000 + place,
                '02:00:00:00:%02x:%02x' % divmod(place, 256),
                ('10.9.0.%d' % place,), 1, active=True)
            for place in range(ENDPOINTS)}

    def apply(self, changed, removed=()):
        """Milliseconds until the epoch; changed are wire forms as JSON."""
        self._advanced = None
        begin = time.perf_counter()
        wires = json.loads(changed)
        digests = {key: objects.digest(wire) for key, wire in wires.items()}
        loaded = {key: objects.load(wire) for key, wire in wires.items()}
        self.held = views.merge(self.held, loaded, digests, removed)
        view = self._assembler.assemble(1, self.held).view
        planned = self._planner.plan(view, self._locals, ('192.0.2.1',))
        if planned.denied:
            raise RuntimeError(next(iter(planned.denied.values())))
        self._writer.carry_out(planned)
        return (self._advanced - begin) * 1000


def policy_changes(cluster, agent, rulesets=1):
    """A policy comes and goes that a part of the endpoints is selected by.

    :param rulesets: how many of RULESETS it changes.
    """
    places = [place for place in range(ENDPOINTS)
              if place % RULESETS < rulesets]
    before = {key: wire for key, wire in cluster.objects.items() if key in (
        *('endpoint:local-%d' % place for place in places),
        *('ruleset:base-%d' % place for place in range(rulesets)))}
    rest = json.dumps(before)
    found = []
    for number in range(ROUNDS):
        known = set(cluster.objects)
        cluster.selector('new-%d' % number, [
            member(place) for place in range(number, PODS, 97)])
        more = model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
            frozenset(('new-%d' % number,)),
            frozenset((model.PortRange(6, 443, 443),)))
        for place in range(rulesets):
            cluster.ruleset('policy-%d-%d' % (number, place), place, more)
        for place in places:
            cluster.endpoint(place, 'policy-%d-%d' % (
                number, place % RULESETS))
        new = cluster.objects.keys() - known
        changed = {key: wire for key, wire in cluster.objects.items()
                   if key in new or key in before
                   and key.startswith('endpoint:')}
        gone = ['ruleset:base-%d' % place for place in range(rulesets)]
        found.append(agent.apply(json.dumps(changed), gone))
        agent.apply(rest, new)
        for key in new:
            del cluster.objects[key]
        cluster.objects.update(before)
    return found


def pod_changes(cluster, agent):
    """A pod comes, with the selectors that have it."""
    found = []
    for number in range(ROUNDS):
        pod = member(PODS + number)
        changed = {}
        for name in ('app-%d' % (number % APPS),
                     'namespace-%d' % (number % NAMESPACES),
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
            cluster = Cluster()
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
                figures['plan_first_ms'] = agent.apply(whole)
                memory.settle()
                for name, found in (
                        ('plan_policy', policy_changes(cluster, agent)),
                        ('plan_policy_all', policy_changes(
                            cluster, agent, RULESETS)),
                        ('plan_pod', pod_changes(cluster, agent))):
                    for share in (50, 99):
                        figures['%s_p%d_ms' % (name, share)] = \
                            lab.percentile(found, share / 100)
        finally:
            subprocess.run(['umount', pins], check=True)
    print(json.dumps([figures, {
        'pods': PODS, 'endpoints': ENDPOINTS, 'rounds': ROUNDS,
        'selectors': sum(key.startswith('selector:')
                         for key in cluster.objects)}]))


if __name__ == '__main__':
    main(*sys.argv[1:])
