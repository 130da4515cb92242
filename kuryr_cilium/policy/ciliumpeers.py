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

"""Peers in a rule of Cilium's kinds of policy.

Source: Cilium documentation, "Layer 3 Policies".
"""

from typing import Any, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import ciliumlabels
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import networks
from kuryr_cilium.policy import selectors

_API_SERVER = selectors.Services('default', 'kubernetes')
_CLUSTER = frozenset((selectors.Entity(entities.CLUSTER), _API_SERVER))

#: Entity -> its selectors; None is every peer. Those without do not exist
#: here, so nothing is allowed or denied by their name.
ENTITIES: Mapping[str, Optional[frozenset[selectors.Peer]]] = {
    'all': None,
    'cluster': _CLUSTER,
    'cluster-mesh': _CLUSTER,
    'health': frozenset(),
    'host': frozenset((selectors.Entity(entities.HOST),)),
    'ingress': frozenset(),
    'init': frozenset(),
    'kube-apiserver': frozenset((_API_SERVER,)),
    'none': frozenset(),
    'remote-node': frozenset((selectors.Entity(entities.REMOTE_NODE),)),
    'unmanaged': frozenset(),
    'world': frozenset((selectors.Entity(entities.WORLD),)),
    'world-ipv4': frozenset((selectors.Block(
        model.Block('0.0.0.0/0', outside=True)),)),
    'world-ipv6': frozenset((selectors.Block(
        model.Block('::/0', outside=True)),)),
}
#: Entities that are labels of the source ``reserved:`` too.
RESERVED = tuple(name for name in ENTITIES
                 if name not in ('all', 'cluster', 'cluster-mesh'))

_PREFIXES = {model.Direction.INGRESS: 'from', model.Direction.EGRESS: 'to'}
_REFUSED = {
    'Requires': 'was removed by Cilium: write the labels into the selectors '
                'of endpoints',
    'Groups': 'are not supported: name the addresses by CIDR',
    'FQDNs': 'are not supported yet: name the addresses by CIDR',
}


class Peers(NamedTuple):
    """What the peers' fields of a rule say.

    :ivar given: False if there are none; what that means depends on ports.
    :ivar peers: None is every peer.
    """

    given: bool
    peers: Optional[frozenset[selectors.Peer]]


def names(direction: model.Direction) -> tuple[str, ...]:
    """The fields of peers."""
    kinds = ('Endpoints', 'Entities', 'CIDR', 'CIDRSet', 'Nodes', 'Groups',
             'Requires')
    if direction is model.Direction.EGRESS:
        kinds += 'Services', 'FQDNs'
    return tuple(_PREFIXES[direction] + kind for kind in kinds)


def parse(obj: Mapping[str, Any], path: str, direction: model.Direction,
          namespace: Optional[str], problems: list[fields.Problem]) -> Peers:
    """The peers of a rule.

    :param namespace: of the policy; None of a cluster-wide one.
    :raises: fields.Problem
    """
    given = [name for name in names(direction) if obj.get(name) is not None]
    if not given:
        return Peers(False, None)
    filled = [name for name in given if obj[name] != []]
    if len(filled) > 1:
        raise fields.Problem('%s.%s' % (path, filled[1]), 'can\'t be combined '
                             'with %s: write a rule for each' % filled[0])
    found: set[selectors.Peer] = set()
    everyone = False
    for name in given:
        kind = name.removeprefix(_PREFIXES[direction])
        where = '%s.%s' % (path, name)
        if kind in _REFUSED:
            raise fields.Problem(where, _REFUSED[kind])
        if kind == 'Services' and name not in filled:
            # Cilium reads it as if it were absent, which is easily missed.
            raise fields.Problem(where, 'is empty: leave it out')
        for peers in fields.each(
                obj[name], where, problems,
                lambda item, item_path: _PARSERS[kind](
                    item, item_path, namespace, problems)):
            if peers is None:
                everyone = True
            else:
                found |= peers
    # A list without items matches nothing, whatever else is given.
    if len(filled) < len(given):
        return Peers(True, frozenset())
    return Peers(True, None if everyone else frozenset(found))


def _endpoints(value, path, namespace, _problems):
    reserved, pods = ciliumlabels.peer(value, path, namespace)
    if reserved is None:
        return {pods}
    if reserved not in RESERVED:
        raise fields.Problem(path, 'of reserved: use one of %s' %
                             ', '.join(RESERVED))
    return ENTITIES[reserved]


def _entity(value, path, _namespace, _problems):
    if not isinstance(value, str) or value not in ENTITIES:
        raise fields.Problem(path, 'use one of %s' % ', '.join(ENTITIES))
    return ENTITIES[value]


def _cidr(value, path, _namespace, _problems):
    network = networks.network(value, path, alone=True)
    return {selectors.Block(networks.block(network, outside=True))}


def _cidr_set(value, path, _namespace, problems):
    obj = fields.mapping(value, path)
    for name in ('cidrGroupRef', 'cidrGroupSelector'):
        if obj.get(name) is not None:
            raise fields.Problem('%s.%s' % (path, name), 'groups are not '
                                 'supported: write their networks as cidr')
    fields.only(obj, path, ('cidr', 'except', 'cidrGroupRef',
                            'cidrGroupSelector'))
    network = networks.network(obj.get('cidr'), path + '.cidr')
    excepts = fields.each(obj.get('except'), path + '.except', problems,
                          networks.network)
    return {selectors.Block(networks.block(network, excepts, outside=True))}


def _nodes(value, path, _namespace, _problems):
    return {selectors.Nodes(ciliumlabels.plain(value, path,
                                               ('node', 'k8s')))}


def _service(value, path, _namespace, _problems):
    obj = fields.mapping(value, path)
    known = 'k8sService', 'k8sServiceSelector'
    fields.only(obj, path, known)
    found = [name for name in known if obj.get(name) is not None]
    if len(found) != 1:
        raise fields.Problem(path, 'must have exactly one of %s' %
                             ', '.join(known))
    path = '%s.%s' % (path, found[0])
    obj = fields.mapping(obj[found[0]], path)
    namespace = obj.get('namespace')
    if namespace is not None:
        namespace = fields.text(namespace, path + '.namespace') or None
    if found == ['k8sService']:
        fields.only(obj, path, ('serviceName', 'namespace'))
        name = fields.text(obj.get('serviceName'), path + '.serviceName')
        if not name:
            raise fields.Problem(path + '.serviceName', 'name a service')
        return {selectors.Services(namespace, name)}
    fields.only(obj, path, ('selector', 'namespace'))
    if obj.get('selector') is None:
        raise fields.Problem(path + '.selector', 'is missing: {} selects '
                             'every service')
    return {selectors.Services(namespace, None, ciliumlabels.plain(
        obj['selector'], path + '.selector'))}


_PARSERS = {'Endpoints': _endpoints, 'Entities': _entity, 'CIDR': _cidr,
            'CIDRSet': _cidr_set, 'Nodes': _nodes, 'Services': _service}
