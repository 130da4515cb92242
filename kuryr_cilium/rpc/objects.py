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

"""What goes over the wire between controller and agents.

Each object of a view (:mod:`kuryr_cilium.policy.model`) has a wire form: a
dict of JSON types with ``kind`` and ``version``. A minor version may add
fields, which an older reader ignores; another major version is refused. So
an object has the lowest version that says all of it: a selector whose block
or whose nodes an older reader would overlook has one that it refuses.

An object is known by its *key* and compared by its *digest*. A digest is
taken of the wire form, as sent or as received, so that a reader that doesn't
know every field still agrees with the sender on what it has.
"""

import hashlib
import json
import sys
import typing

from kuryr_cilium import exceptions
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import services
from kuryr_cilium.rpc import types

VERSION = '1.0'
#: Of selectors with a block, in parts, or with members that are no pods.
VERSION_PEERS = '2.0'

Object = typing.Union[model.Selector, model.Members, model.RuleSet,
                      model.Endpoint, lb_model.Service, lb_model.Node]

_MAJORS = {version.split('.')[0] for version in (VERSION, VERSION_PEERS)}

#: What members of selectors may be. HOST is none of it: which node is meant
#: is for each node to say.
_ENTITIES = {entities.Entity.POD: 'pod',
             entities.Entity.REMOTE_NODE: 'remote-node',
             entities.Entity.WORLD: 'world'}

_ENDPOINT_TEXTS = ('uid', 'namespace', 'name', 'host', 'vif_id', 'mac',
                   'network_id', 'ingress', 'egress')


def key(obj: Object) -> str:
    """``selector:ID``, ``members:ID/N``, ``service:NAMESPACE/NAME`` ..."""
    kind = _kind_of(obj)
    return '%s:%s' % (kind, getattr(obj, _KINDS[kind].identity))


def digest(obj: typing.Union[Object, dict]) -> str:
    """32 hexadecimal digits: the first half of SHA-256 of the content.

    :param obj: an object or the wire form of one.
    """
    wire = obj if isinstance(obj, dict) else dump(obj)
    canonical = json.dumps(wire, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def dump(obj: Object) -> dict:
    """The wire form of an object: JSON types only, in a stable order."""
    kind = _kind_of(obj)
    return {'kind': kind, 'version': _version(obj), **_KINDS[kind].dump(obj)}


def load(wire: dict) -> Object:
    """The object of a wire form.

    :raises: exceptions.InvalidWireObject with what is wrong.
    """
    kind = _kind(wire)
    version = wire.get('version')
    if (not isinstance(version, str) or
            version.split('.')[0] not in _MAJORS):
        raise exceptions.InvalidWireObject(
            kind=kind, reason='version %r is not supported, this process '
            'speaks %s and %s: upgrade controllers and agents to releases '
            'next to each other' % (version, VERSION, VERSION_PEERS))
    try:
        return _KINDS[kind].load(wire)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise exceptions.InvalidWireObject(
            kind=kind, reason='%s: %s' % (type(error).__name__, error)
        ) from error


def _kind(wire):
    kind = wire.get('kind') if isinstance(wire, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise exceptions.InvalidWireObject(
            kind='object', reason='kind %.64r is not known' % (kind,))
    return kind


def _kind_of(obj):
    for kind, codec in _KINDS.items():
        if isinstance(obj, codec.cls):
            return kind
    raise TypeError('no wire form for %s' % type(obj).__name__)


def _count(value, field):
    if types.typed(value, int) < 0:
        raise ValueError('%s %d is negative' % (field, value))
    return value


def _version(obj):
    if isinstance(obj, model.Members) or (
            isinstance(obj, model.Selector) and (
                obj.parts or obj.block is not None or any(
                    member.entity is not entities.Entity.POD
                    for member in obj.members))):
        return VERSION_PEERS
    return VERSION


def _dump_selector(selector):
    wire = {
        'id': selector.id,
        'definition': selector.definition,
        'members': [_dump_member(member) for member in selector.members],
    }
    if selector.block is not None:
        wire['block'] = {'cidr': selector.block.cidr,
                         'except': list(selector.block.excepts),
                         'outside': selector.block.outside}
    if selector.parts:
        wire['parts'] = selector.parts
    return wire


def _dump_member(member):
    wire = {'uid': member.uid, 'addresses': list(member.addresses)}
    if member.entity is not entities.Entity.POD:
        wire['entity'] = _ENTITIES[member.entity]
    return wire


def _load_selector(wire):
    return model.Selector(
        types.text(wire, 'id'), types.text(wire, 'definition'),
        tuple(_load_member(member)
              for member in types.typed(wire['members'], list)),
        _load_block(wire['block']) if 'block' in wire else None,
        _count(wire.get('parts', 0), 'parts'))


def _load_member(wire):
    # NOTE: an address is in many selectors, and is to be in memory once;
    # what is no text can't be interned.
    return model.Member(
        sys.intern(wire['uid']),
        tuple(map(sys.intern, types.typed(wire['addresses'], list))),
        _load_entity(wire['entity']) if 'entity' in wire
        else entities.Entity.POD)


def _load_entity(value):
    for entity, name in _ENTITIES.items():
        if value == name:
            return entity
    raise ValueError('entity %.64r is none of %s' % (
        value, ', '.join(_ENTITIES.values())))


def _load_block(wire):
    return model.Block(
        types.network(types.text(wire, 'cidr'), 'cidr'),
        tuple(types.network(text, 'except')
              for text in types.texts(wire['except'])),
        types.typed(wire['outside'], bool))


def _dump_ruleset(ruleset):
    return {
        'id': ruleset.id,
        'direction': ruleset.direction.value,
        'groups': [_dump_group(group) for group in ruleset.groups],
        'names': [list(names) for names in ruleset.names],
    }


def _dump_group(group):
    return {
        'tier': group.tier.name.lower(),
        'priority': group.priority,
        'verdict': group.verdict.value,
        'peers': None if group.peers is None else sorted(group.peers),
        'ports': None if group.ports is None else [
            {'protocol': ports.protocol, 'first': ports.first,
             'last': ports.last} for ports in sorted(group.ports)],
        'l7set': group.l7set,
    }


def _load_ruleset(wire):
    return model.RuleSet(
        types.text(wire, 'id'), model.Direction(wire['direction']),
        tuple(_load_group(group)
              for group in types.typed(wire['groups'], list)),
        tuple(types.texts(names)
              for names in types.typed(wire['names'], list)))


def _load_group(wire):
    # NOTE: peers and ports must be there, if only as null: one left out
    # would mean "any".
    peers, ports = wire['peers'], wire['ports']
    return model.RuleGroup(
        model.Tier[types.text(wire, 'tier').upper()],
        types.typed(wire['priority'], int), model.Verdict(wire['verdict']),
        None if peers is None else frozenset(types.texts(peers)),
        None if ports is None else frozenset(
            _load_ports(entry) for entry in types.typed(ports, list)),
        types.typed(wire['l7set'], int))


def _load_ports(wire):
    ports = model.PortRange(*(
        types.typed(wire[field], int)
        for field in ('protocol', 'first', 'last')))
    if not (0 <= ports.protocol <= 255 and
            0 <= ports.first <= ports.last <= 65535):
        raise ValueError('%s is not a range of ports' % (ports,))
    return ports


def _dump_endpoint(endpoint):
    wire = {field: getattr(endpoint, field) for field in _ENDPOINT_TEXTS}
    wire['addresses'] = list(endpoint.addresses)
    wire['fastpath'] = endpoint.fastpath
    return wire


def _load_endpoint(wire):
    return model.Endpoint(
        addresses=types.texts(wire['addresses']),
        fastpath=types.typed(wire['fastpath'], bool),
        **{field: types.text(wire, field) for field in _ENDPOINT_TEXTS})


def _dump_members(part):
    return {
        'selector': part.selector,
        'number': part.number,
        'members': [_dump_member(member) for member in part.members],
    }


def _load_members(wire):
    return model.Members(
        types.text(wire, 'selector'), _count(wire['number'], 'number'),
        tuple(_load_member(member)
              for member in types.typed(wire['members'], list)))


class _Codec(typing.NamedTuple):
    cls: type
    identity: str
    dump: typing.Callable
    load: typing.Callable


_KINDS = {
    'selector': _Codec(model.Selector, 'id', _dump_selector, _load_selector),
    'members': _Codec(model.Members, 'id', _dump_members, _load_members),
    'ruleset': _Codec(model.RuleSet, 'id', _dump_ruleset, _load_ruleset),
    'endpoint': _Codec(model.Endpoint, 'uid', _dump_endpoint,
                       _load_endpoint),
    'service': _Codec(lb_model.Service, 'id', services.dump, services.load),
    'node': _Codec(lb_model.Node, 'name', services.dump_node,
                   services.load_node),
}
