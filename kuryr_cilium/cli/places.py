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

"""The ends of a path, by what an operator calls them. Pure."""

import dataclasses
import difflib
import ipaddress
from typing import Any, Iterable, Mapping, Optional

from kuryr_cilium.cli import cluster as cluster_
from kuryr_cilium import exceptions
from kuryr_cilium.policy import pods

POD = 'pod'
NODE = 'node'
ADDRESS = 'address'

_FINISHED = ('Succeeded', 'Failed')


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """One end of a path.

    :ivar kind: POD, NODE or ADDRESS; or a service (reached.SERVICE).
    :ivar name: namespace/name of a pod or a service, name of a node, '' if
        there is none.
    :ivar node: where it is, '' if not known.
    :ivar endpoint: what the agent says of it, if it is plugged here.
    """

    kind: str
    addresses: tuple[str, ...]
    name: str = ''
    uid: str = ''
    node: str = ''
    endpoint: Optional[Mapping[str, Any]] = None

    def __str__(self):
        if self.kind == ADDRESS:
            return self.addresses[0]
        return self.name if self.kind == POD else '%s/%s' % (self.kind,
                                                             self.name)

    def of_version(self, version: int) -> list[str]:
        """Its addresses of one family (4 or 6)."""
        return [address for address in self.addresses
                if ipaddress.ip_address(address).version == version]


class Finder:
    """Finds ends among what is known.

    :param host: name of this node.
    :param own: addresses of this node.
    :param endpoints: what the agent has plugged.
    :param cluster: what the API server says; None if it wasn't asked.
    :param not_asked: why not.
    """

    def __init__(self, host: str, own: Iterable[str],
                 endpoints: Iterable[Mapping[str, Any]],
                 cluster: Optional[cluster_.Cluster], not_asked: str = ''):
        self._host = host
        self._not_asked = not_asked
        self._places = {}
        self._names: dict[str, Place] = {}
        self._addresses: dict[str, Place] = {}
        self._absent: dict[str, str] = {}
        self._nodes: dict[str, Place] = {}
        for obj in cluster.nodes if cluster else ():
            self._add_node(obj['metadata']['name'],
                           pods.node_addresses(obj))
        self._add_node(host, sorted(own))
        # NOTE: of two pods with one address the later one has it.
        for obj in sorted(cluster.pods if cluster else (), key=_rank):
            self._add_pod(obj, cluster.by_uid)
        for endpoint in endpoints:
            self._add(Place(
                POD, tuple(endpoint['addresses']),
                '%(namespace)s/%(name)s' % endpoint, endpoint['uid'], host,
                endpoint))

    def find(self, text: str) -> Place:
        """An end.

        :param text: ``NAMESPACE/NAME`` (``default/`` may be left out),
            ``node/NAME`` or an address.
        :raises: exceptions.PlaceUnknown with what is near.
        """
        try:
            address = str(ipaddress.ip_address(text))
        except ValueError:
            pass
        else:
            found = self._addresses.get(address)
            if found is None:
                return Place(ADDRESS, (address,))
            return dataclasses.replace(found, addresses=(address,))
        kind, _, name = text.partition('/')
        if kind == 'node' and name:
            return self._known(self._nodes, name, 'node/')
        named = text if '/' in text else 'default/' + text
        if named in self._absent:
            raise exceptions.PlaceUnknown(
                what='Pod ' + named, reason=self._absent[named])
        return self._known(self._names, named, '')

    def _known(self, places, name, prefix):
        if name in places:
            return places[name]
        near = difflib.get_close_matches(name, places, 3)
        reason = 'there is none of that name'
        if near:
            reason += '; near it: ' + ', '.join(
                prefix + other for other in near)
        if self._not_asked:
            reason += ('; only what is on this node is known, because the '
                       'API server was not asked: ' + self._not_asked)
        raise exceptions.PlaceUnknown(
            what=('Node ' if prefix else 'Pod ') + name, reason=reason)

    def _add(self, place):
        self._names[place.name] = place
        for address in place.addresses:
            self._addresses[address] = place

    def _add_node(self, name, addresses):
        before = self._nodes.get(name)
        merged = dict.fromkeys((*(before.addresses if before else ()),
                                *addresses))
        place = Place(NODE, tuple(merged), name, node=name)
        self._nodes[name] = place
        for address in place.addresses:
            self._addresses[address] = place

    def _add_pod(self, obj, by_uid):
        metadata, spec = obj['metadata'], obj.get('spec') or {}
        name = '%s/%s' % (metadata['namespace'], metadata['name'])
        node = spec.get('nodeName') or ''
        self._absent.pop(name, None)
        if (obj.get('status') or {}).get('phase') in _FINISHED:
            self._absent[name] = 'it has ended, so it has no traffic'
        elif spec.get('hostNetwork'):
            self._absent[name] = (
                'it is in the network of its node, and policy takes it for '
                'the node: trace %s' % ('node/' + node if node else
                                        'the node'))
        else:
            pod = by_uid[metadata['uid']]
            if not pod.addresses:
                self._absent[name] = (
                    'it has no address yet; "kubectl -n %s describe pod %s" '
                    'says why' % (metadata['namespace'], metadata['name']))
                return
            self._add(Place(POD, pod.addresses, name, pod.uid, node))


def _rank(obj):
    metadata = obj['metadata']
    return (not metadata.get('deletionTimestamp'),
            metadata.get('creationTimestamp') or '', metadata['uid'])
