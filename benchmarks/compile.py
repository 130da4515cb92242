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

"""What policy costs the controller, in CPU time of one core; no lab needed.

- from nothing to every node's view and every ruleset compiled, in a cluster
  of 10,000 pods, 1000 policies, 200 namespaces and 100 nodes;
- one pod added, relabelled or deleted in it, with what is sent because of it
  made anew and hashed;
- 3000 rules on 1000 peers in one ruleset, from the parsed policy to tables:
  merged (each rule one peer and one port: 1000 groups are left) and dense
  (each rule ten peers and a port of its own: 3000 groups);
- map writes of a node that knows all pods by their applications, when one
  more selector is named by a policy there.
"""

import copy
import random
import statistics
import time

from benchmarks import worlds
from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium import memory
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import rulesets
from kuryr_cilium.policy import selectors
from kuryr_cilium.policy import world
from kuryr_cilium.rpc import objects

ROUNDS = 5
CHANGES = 300
RULES, PEERS = 3000, 1000
_TCP = model.PROTOCOLS['TCP']


def run():
    """Figures and context of the benchmark."""
    # As the controller does.
    memory.tune()
    cluster = worlds.Cluster()
    memory.settle()
    seconds, found = [], None
    for _round in range(ROUNDS):
        found = None
        begin = time.process_time()
        found = world.World()
        cluster.fill(found)
        _compile_all(found)
        seconds.append(time.process_time() - begin)
    memory.settle()
    figures = {'compile_10k_s': statistics.median(seconds)}
    figures.update(_changes(cluster, found))
    figures.update(_rulesets())
    figures.update(_writes())
    return figures, {'pods': worlds.PODS, 'policies': worlds.POLICIES,
                     'namespaces': worlds.NAMESPACES,
                     'nodes': worlds.NODES, 'rounds': ROUNDS}


def _compile_all(found):
    compiled = set()
    for host in found.hosts():
        for obj in found.view(host).values():
            if isinstance(obj, model.RuleSet) and obj.id not in compiled:
                compiled.add(obj.id)
                compiler.compile_ruleset(obj)


def _changes(cluster, found):
    milliseconds = {'add': [], 'relabel': [], 'delete': []}

    def change(name, method, argument):
        begin = time.process_time()
        changes = method(argument)
        keys = {*changes.pieces,
                *('endpoint:' + uid for uid in changes.endpoints),
                *('ruleset:' + name for name in changes.rulesets)}
        for key in keys:
            piece = found.piece(key)
            if piece is not None:
                objects.digest(piece)
        milliseconds[name].append((time.process_time() - begin) * 1000)

    for number in range(CHANGES):
        pod = cluster.pod(worlds.PODS + number, number % worlds.NAMESPACES)
        other = copy.deepcopy(pod)
        other['metadata']['labels']['app'] = 'app-%d' % (
            number % worlds.APPS)
        change('add', found.set_pod, pod)
        change('relabel', found.set_pod, other)
        change('delete', found.delete_pod, pod['metadata']['uid'])
    together = sorted(sum(milliseconds.values(), []))
    return {
        'pod_change_p50_ms': statistics.median(together),
        'pod_change_p99_ms': together[int(0.99 * len(together))],
        **{'pod_%s_p50_ms' % name: statistics.median(values)
           for name, values in milliseconds.items()}}


def _rulesets():
    chance = random.Random(1)
    peers = [selectors.Pods((labels.Requirement(
        'app', labels.IN, ('app-%d' % number,)),), 'ns')
        for number in range(PEERS)]
    kinds = {
        'merged': lambda number: [peers[number % PEERS]],
        'dense': lambda number: chance.sample(peers, 10)}
    figures = {}
    for name, choose in kinds.items():
        policy = normal.Policy(
            'uid', 'NetworkPolicy/ns/p', selectors.Pods(),
            frozenset(model.Direction), tuple(normal.Rule(
                model.Direction.INGRESS, frozenset(choose(number)),
                frozenset([model.PortRange(_TCP, 2 * number + 1,
                                           2 * number + 1)]),
                name='ingress[%d]' % number) for number in range(RULES)))
        milliseconds = []
        for _round in range(2 * ROUNDS):
            begin = time.process_time()
            ruleset = rulesets.build(model.Direction.INGRESS, [policy])
            compiler.compile_ruleset(ruleset)
            milliseconds.append((time.process_time() - begin) * 1000)
        figures['compile_%s_ms' % name] = statistics.median(milliseconds)
        figures['compile_%s_groups' % name] = len(ruleset.groups)
    return figures


def _writes():
    """Map writes of one node for a policy that names one more selector."""
    wanted = {
        'all': {'podSelector': {'matchExpressions': [
            {'key': 'app', 'operator': 'Exists'}]}, 'namespaceSelector': {}},
        'app': {'podSelector': {'matchLabels': {'app': 'app-3'}},
                'namespaceSelector': {}},
        'half': {'podSelector': {'matchLabels': {'half': 'yes'}},
                 'namespaceSelector': {}},
        'namespace': {'namespaceSelector': {'matchLabels': {
            'kubernetes.io/metadata.name': 'ns-3'}}}}
    cluster = worlds.Cluster(policies=0)
    for number, pod in enumerate(cluster.pods):
        pod['metadata']['labels']['half'] = 'yes' if number % 2 else 'no'
    subject = worlds.pod(worlds.PODS, 0, 'subject', 'node-x')
    figures = {}
    for name, peer in wanted.items():
        found = world.World()
        cluster.fill(found)
        found.set_pod(subject)
        found.set_policy('NetworkPolicy', worlds.policy(0, 0, _spec([
            {'podSelector': {'matchLabels': {'app': 'app-%d' % app}},
             'namespaceSelector': {}} for app in range(worlds.APPS)])))
        planner = plan.Planner(_allocator())
        locals_ = {1: _local(subject, found)}
        for _ in planner.plan(_view(found), locals_, ()).walk():
            pass
        found.set_policy('NetworkPolicy', worlds.policy(1, 0, _spec([peer])))
        steps = planner.plan(_view(found), locals_, ()).walk()
        figures['map_writes_' + name] = sum(
            len(step.writes) for step in steps)
    return figures


def _spec(peers):
    return {'podSelector': {'matchLabels': {'app': 'subject'}}, 'ingress': [
        {'from': [peer], 'ports': [{'port': 1000 + number}]}
        for number, peer in enumerate(peers)]}


def _view(found):
    kinds = {model.Endpoint: {}, model.RuleSet: {}, model.Selector: {}}
    for key, obj in found.view('node-x').items():
        kinds[type(obj)][key.partition(':')[2]] = obj
    return model.View(1, True, *kinds.values())


def _local(pod, found):
    endpoint = found.view('node-x')['endpoint:' + pod['metadata']['uid']]
    return endpoints.Local(
        1, endpoint.uid, endpoint.vif_id, 1, 2, endpoint.mac,
        endpoint.addresses, 1, active=True)


def _allocator():
    last = {}

    def allocate(kind):
        last[kind] = last.get(kind, 15) + 1
        return last[kind]
    return allocate
