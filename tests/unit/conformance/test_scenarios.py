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

"""The scenarios on paper: what their authors expect and the oracle says."""

import copy

from kuryr_cilium.policy import world
from tests import base
from tests.conformance import cast
from tests.conformance import expect
from tests.conformance import judge
from tests.conformance import scenario
from tests.differential import cases
from tests.differential import questions
from tests.differential import reader
from tests.unit.policy import builders

NODES = ('node-a', 'node-b')
ADDRESSES = {'node-a': {4: '192.168.50.11', 6: 'fd50::11'},
             'node-b': {4: '192.168.50.12', 6: 'fd50::12'},
             'out-1': {4: '192.168.50.1', 6: 'fd50::1'},
             'out-2': {4: '192.168.60.1', 6: 'fd60::1'},
             **{pod: {4: '10.99.0.%d' % number, 6: 'fd99::%x' % number}
                for number, pod in enumerate(cast.pods(), 16)}}


def address(name, version):
    return ADDRESSES[name][version]


class Paper:
    """A cluster that is only written down."""

    def __init__(self):
        self._pods = {name: self._pod(name) for name in cast.pods()}
        self._namespaces = {
            name: builders.namespace(name, labels)
            for name, labels in cast.NAMESPACE_LABELS.items()}
        self._nodes = [
            {'metadata': {'name': name, 'labels': {
                'kubernetes.io/hostname': name}},
             'status': {'addresses': [
                 {'type': 'InternalIP', 'address': address(name, version)}
                 for version in cast.VERSIONS]}} for name in NODES]
        self._applied = {}

    def _pod(self, name):
        found = cast.manifest(name, cast.node_of(name, NODES))
        made = builders.pod(
            found['metadata']['name'], found['metadata']['namespace'],
            found['metadata']['labels'],
            addresses=list(ADDRESSES[name].values()),
            node=cast.node_of(name, NODES))
        made['spec'].update(found['spec'])
        return made

    def do(self, step):
        for item in step.apply:
            obj = copy.deepcopy(scenario.fill(item, address))
            self._applied[self._key(obj)] = obj
        for key in step.delete:
            del self._applied[key]
        for (kind, name), labels in step.label.items():
            where = self._pods if kind == 'Pod' else self._namespaces
            own = where[name]['metadata']['labels']
            for key, value in labels.items():
                own.pop(key, None)
                if value is not None:
                    own[key] = value

    def objects(self):
        for obj in self._objects():
            obj['metadata'].setdefault('uid', '%s/%s/%s' % self._key(obj))
            yield obj

    def _objects(self):
        yield from ({**obj, 'kind': kind} for kind, found in (
            ('Pod', self._pods.values()),
            ('Namespace', self._namespaces.values()), ('Node', self._nodes))
            for obj in found)
        services = [obj for obj in self._applied.values()
                    if obj['kind'] == 'Service']
        api = {'kind': 'Service', 'spec': {},
               'metadata': {'name': 'kubernetes', 'namespace': 'default'}}
        yield from (*self._applied.values(), api)
        yield self._slice(api, ['192.168.50.1'])
        for service in services:
            yield self._slice(service, [
                address(name, version) for name, pod in self._pods.items()
                for version in cast.VERSIONS
                if name.startswith(service['metadata']['namespace'] + '/')
                and service['spec']['selector'].items()
                <= pod['metadata']['labels'].items()])

    def _slice(self, service, addresses):
        metadata = service['metadata']
        return {'kind': 'EndpointSlice',
                'metadata': {'name': metadata['name'],
                             'namespace': metadata['namespace'], 'labels': {
                                 'kubernetes.io/service-name':
                                     metadata['name']}},
                'endpoints': [{'addresses': [item], 'conditions': {}}
                              for item in addresses]}

    def _key(self, obj):
        metadata = obj['metadata']
        return obj['kind'], metadata.get('namespace'), metadata['name']


class Compiled:
    """What the nodes would do with a cluster that is only written down."""

    def __init__(self):
        self._world = world.World()
        self._present = {}

    def take(self, objects):
        """Tell the world what differs from before."""
        now = {(obj['kind'], cases.key(obj['kind'], obj)): copy.deepcopy(obj)
               for obj in objects}
        for kind, known_by in self._present.keys() - now.keys():
            cases.tell(self._world, kind, known_by, None)
        for known_by, obj in now.items():
            if self._present.get(known_by) != obj:
                cases.tell(self._world, *known_by, obj)
        self._present = now
        self._readers = {
            node: reader.Reader(reader.view_of(self._world, node),
                                reader.own_addresses(now, node))
            for node in NODES}

    def allowed(self, probe):
        return probe.source == probe.destination or (
            self._passes(probe, probe.source, probe.destination, 'egress')
            and self._passes(probe, probe.destination, probe.source,
                             'ingress'))

    def _passes(self, probe, one, other, direction):
        if '/' not in one:
            return True
        node = cast.node_of(one, NODES)
        if direction == 'ingress' and other == node:
            return True
        return self._readers[node].judge(questions.Question(
            one, direction, address(one, probe.version),
            address(other, probe.version), *judge.numbers(probe))).allowed


class TestScenarios(base.TestCase):

    def check(self, item, number, step, allowed, why):
        for probe in cast.probes(NODES, cast.WHATS + cast.ON_PAPER):
            expected = expect.allowed(step.check, probe, NODES)
            if allowed(probe) != expected:
                self.fail('%s: %s, step %d: %s: expected %s, but %s' % (
                    item.file, item.name, number, probe, expected,
                    why(probe)))

    def test_the_oracle_says_what_their_authors_expect(self):
        for item in scenario.load():
            paper = Paper()
            for number, step in enumerate(item.steps, 1):
                paper.do(step)
                said = judge.Judge(paper.objects(), address)
                self.check(item, number, step, said.allowed, said.why)

    def test_what_is_compiled_does_what_their_authors_expect(self):
        for item in scenario.load():
            paper, compiled = Paper(), Compiled()
            for number, step in enumerate(item.steps, 1):
                paper.do(step)
                compiled.take(paper.objects())
                self.check(item, number, step, compiled.allowed,
                           lambda _probe: 'not what is compiled')

    def test_names_are_told_apart(self):
        names = [(item.file, item.name) for item in scenario.load()]
        self.assertEqual(len(names), len(set(names)))
