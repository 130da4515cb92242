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

"""The cast on the lab: made, changed as scenarios say, and taken away."""

import contextlib

from tests.conformance import api
from tests.conformance import cast
from tests.conformance import probes
from tests.conformance import scenario
from tests.e2e import lab as e2e_lab
from tests.e2e import pods as e2e_pods

#: A label of what is ours to delete.
MARK = 'kuryr-cilium-conformance'
#: Names of addresses that nodes and the control plane have in the lab.
_NODE_ADDRESSES = {4: 'address', 6: 'address6'}
_OUTSIDE = {'out-1': {4: '192.168.50.1', 6: 'fd50::1'},
            'out-2': {4: '192.168.60.1', 6: 'fd60::1'}}


class Stage:
    """Everybody, on the lab that is up.

    :ivar nodes: names of the two nodes.
    :ivar places: where everybody is, by name.
    """

    def __init__(self):
        self._lab = e2e_lab.Lab()
        self._lab.check()
        self._api = api.API(self._lab)
        self.nodes = tuple(self._lab.nodes[:2])
        self.places: dict[str, probes.Place] = {}
        self._applied: dict[tuple[str, str | None, str], dict] = {}
        self._labelled: dict[tuple[str, str], dict] = {}

    @contextlib.contextmanager
    def set(self):
        """The pods run and everybody answers; after it all is gone.

        :raises: e2e_lab.LabError
        """
        self._check_namespaces()
        try:
            self._make_pods()
            responder = probes.Responder(
                place for name, place in self.places.items()
                if '/' not in name)
            responder.start()
            try:
                yield
            finally:
                responder.stop()
        finally:
            self._kubectl('delete', 'namespace', '--ignore-not-found',
                          *cast.NAMESPACES)

    def address(self, name: str, version: int) -> str:
        return self.places[name].addresses[version]

    def do(self, step: scenario.Step) -> None:
        """Apply, delete and label."""
        for item in step.apply:
            obj = scenario.fill(item, self.address)
            obj['metadata']['labels'] = {MARK: 'true'}
            self._applied[_key(obj)] = obj
            self._api.apply(obj)
        for key in step.delete:
            del self._applied[key]
            self._api.delete(*key)
        for target, labels in step.label.items():
            self._labelled.setdefault(target, {}).update(labels)
            self._label(target, labels)

    def undo(self) -> None:
        """All as it was before the first step."""
        for key in self._applied:
            self._api.delete(*key)
        self._applied.clear()
        for target, labels in self._labelled.items():
            before = cast.own_labels(*target)
            self._label(target, {key: before.get(key) for key in labels})
        self._labelled.clear()

    def objects(self) -> list[dict]:
        """What there is now of what gives policies their meaning.

        Of the policies those that were applied.
        """
        found = [obj for obj in self._applied.values()
                 if obj['kind'] in scenario.POLICIES]
        for kind in scenario.MEANING:
            found += self._api.list(kind)
        return found

    def _label(self, target, labels):
        kind, name = target
        namespace, _slash, pod = name.partition('/')
        if pod:
            self._api.label(kind, namespace, pod, labels)
        else:
            self._api.label(kind, None, name, labels)

    def _kubectl(self, *argv, **kwargs):
        return self._lab.kubectl(*argv, **kwargs)

    def _check_namespaces(self):
        found = self._lab.get('namespaces')['items']
        for item in found:
            metadata = item['metadata']
            if (metadata['name'] in cast.NAMESPACES
                    and MARK not in metadata.get('labels', {})):
                raise e2e_lab.LabError(
                    'The namespace %s is there, but not made by this '
                    'command: delete it, or use another lab'
                    % metadata['name'])
        # What a run left that was ended half-way.
        self._kubectl('delete', 'namespace', '--ignore-not-found',
                      '-l', MARK)
        for kind in scenario.CLUSTERWIDE:
            for obj in self._api.list(kind):
                if MARK in obj['metadata'].get('labels', {}):
                    self._api.delete(*_key(obj))

    def _make_pods(self):
        self._lab.apply(*(
            {'apiVersion': 'v1', 'kind': 'Namespace',
             'metadata': {'name': name, 'labels': {MARK: 'true', **labels}}}
            for name, labels in cast.NAMESPACE_LABELS.items()))
        for name in cast.NAMESPACES:
            self._kubectl('wait', '--for=create', '--timeout=30s', '-n', name,
                          'serviceaccount/default')
        self._lab.apply(*(
            cast.manifest(pod, cast.node_of(pod, self.nodes))
            for pod in cast.pods()))
        for name in cast.NAMESPACES:
            self._kubectl('wait', '--for=condition=Ready', '--timeout=90s',
                          '-n', name, 'pod', '--all')
        for item in self._lab.get('pods', '-A')['items']:
            name = '%(namespace)s/%(name)s' % item['metadata']
            if name in cast.pods():
                pod = e2e_pods.Pod(self._lab, item)
                self.places[name] = probes.Place(
                    name, pod.netns, {4: pod.ip4, 6: pod.ip6})
        for name in self.nodes:
            facts = self._lab.facts['nodes'][name]
            self.places[name] = probes.Place(
                name, self._lab.netns(name), {
                    version: facts[field]
                    for version, field in _NODE_ADDRESSES.items()})
        for name, addresses in _OUTSIDE.items():
            self.places[name] = probes.Place(name, self._lab.netns(),
                                             addresses)


def _key(obj):
    metadata = obj['metadata']
    return obj['kind'], metadata.get('namespace'), metadata['name']
