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

"""API objects for tests, and what a view says of them."""

import functools
import json
import uuid

from kuryr_cilium.policy import classes
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium import vif

NETWORK = str(uuid.UUID(int=1))

_facts = functools.lru_cache(vif.facts)


def annotation(addresses, number=1):
    """A VIF annotation with what policy reads of it."""
    def data(content, **more):
        return {'versioned_object.data': content, **more}

    subnets = [data({'ips': data({'objects': [data({'address': address})]})})
               for address in addresses]
    network = data({'id': NETWORK, 'subnets': data({'objects': subnets})})
    port = data({'id': str(uuid.UUID(int=number + 1000)),
                 'address': '02:00:00:00:%02x:%02x' % divmod(number, 256),
                 'network': network},
                **{'versioned_object.name': 'VIFOpenVSwitch'})
    return json.dumps(data({'default_vif': port}, **{
        'versioned_object.name': 'PodState',
        'versioned_object.version': '1.0'}))


def pod(name, namespace='default', labels=None, number=None, node='node-a',
        addresses=None, phase='Running', uid=None, created='', deleted=None,
        host_network=False):
    """A pod; its addresses follow from its number if none are given."""
    if addresses is None:
        addresses = [] if number is None else [
            '10.0.%d.%d' % divmod(number, 256), 'fd00::%x' % (number + 1)]
    metadata = {'uid': uid or '%s/%s' % (namespace, name), 'name': name,
                'namespace': namespace, 'labels': dict(labels or {}),
                'creationTimestamp': created}
    if deleted:
        metadata['deletionTimestamp'] = deleted
    if addresses and not host_network:
        metadata['annotations'] = {
            vif.ANNOTATION: annotation(addresses, number or 0)}
    spec = {'nodeName': node}
    if host_network:
        spec['hostNetwork'] = True
    return {'metadata': metadata, 'spec': spec, 'status': {'phase': phase}}


def namespace(name, labels=None):
    return {'metadata': {'name': name, 'labels': {
        'kubernetes.io/metadata.name': name, **(labels or {})}}}


def policy(name, spec, namespace='default', uid=None):
    return {'metadata': {'uid': uid or 'policy/%s/%s' % (namespace, name),
                         'name': name, 'namespace': namespace},
            'spec': spec}


def node(name, *addresses):
    return {'metadata': {'name': name}, 'status': {'addresses': [
        {'type': 'Hostname', 'address': name}] + [
        {'type': 'InternalIP', 'address': address}
        for address in addresses]}}


class Judge:
    """Reads the views of a world as a node's datapath does."""

    def __init__(self, world):
        self._views = {host: world.view(host) for host in world.hosts()}
        self._classes = {}
        self._tables = {}
        self._endpoints = {obj.uid: (obj, host)
                           for host, view in self._views.items()
                           for obj in view.values()
                           if isinstance(obj, model.Endpoint)}
        for host, view in self._views.items():
            found = classes.Classes(classes.counter())
            found.update({
                obj.id: [address for member in obj.members
                         for address in member.addresses]
                for obj in view.values() if isinstance(obj, model.Selector)})
            self._classes[host] = found

    def allowed(self, source, destination, protocol, port):
        """As oracle.Cluster.allowed, by the addresses of both families."""
        results = {
            self._passes(source, peer_of(destination, family), 'egress',
                         protocol, port) and
            self._passes(destination, peer_of(source, family), 'ingress',
                         protocol, port)
            for family in (0, 1)}
        assert len(results) == 1, 'the address families differ'
        return results.pop()

    def _passes(self, subject, peer, direction, protocol, port):
        endpoint, host = self._endpoint(subject)
        if endpoint is None:
            return True
        ruleset = getattr(endpoint, direction)
        if ruleset in (model.ALLOW_ALL, model.DENY_ALL):
            return ruleset == model.ALLOW_ALL
        number = self._classes[host].numbers.get(peer)
        definition = (self._classes[host].definitions[number] if number
                      else (entities.Entity.WORLD, frozenset()))
        group = compiler.judge(self._table(host, ruleset), definition[1],
                               definition[0], protocol, port)
        return group is not None and group.verdict is model.Verdict.ALLOW

    def _endpoint(self, obj):
        if obj is None:
            return None, None
        return self._endpoints.get(obj['metadata']['uid'], (None, None))

    def _table(self, host, ruleset):
        if ruleset not in self._tables:
            self._tables[ruleset] = compiler.compile_ruleset(
                self._views[host]['ruleset:' + ruleset])
        return self._tables[ruleset]


def peer_of(obj, family):
    """An address of a peer, or one that nobody has."""
    if obj is not None:
        text = (obj['metadata'].get('annotations') or {}).get(vif.ANNOTATION)
        if text:
            return _facts(text).addresses[family]
    return ('192.0.2.1', '2001:db8::1')[family]
