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

"""The wire form of services."""

import ipaddress

from kuryr_cilium.lb import model
from kuryr_cilium.rpc import types

_BACKEND_TEXTS = ('address', 'node', 'mac', 'network_id')


def dump(service: model.Service) -> dict:
    """A service as JSON types."""
    return {
        'namespace': service.namespace,
        'name': service.name,
        'created': service.created,
        'addresses': list(service.addresses),
        'external': list(service.external),
        'affinity': service.affinity,
        'internal_local': service.internal_local,
        'external_local': service.external_local,
        'source_ranges': None if service.source_ranges is None
        else list(service.source_ranges),
        'health_port': service.health_port,
        'ports': [{
            'name': port.name,
            'protocol': port.protocol,
            'port': port.port,
            'node_port': port.node_port,
            'backends': [_dump_backend(backend) for backend in port.backends],
        } for port in service.ports],
    }


def load(wire: dict) -> model.Service:
    """The service of a wire form.

    :raises: KeyError, TypeError, ValueError
    """
    # NOTE: a controller that does not know what clients outside may ask has
    # not said that they may: then nobody may ask what is external, and node
    # ports lead nowhere but to this node's own backends.
    ranges = wire.get('source_ranges', [])
    return model.Service(
        namespace=types.text(wire, 'namespace'),
        name=types.text(wire, 'name'), created=types.text(wire, 'created'),
        addresses=tuple(map(_address, types.texts(wire['addresses']))),
        external=tuple(map(_address, types.texts(wire['external']))),
        ports=tuple(map(_port, types.typed(wire['ports'], list))),
        affinity=_number(wire['affinity'], 86400),
        internal_local=types.typed(wire['internal_local'], bool),
        external_local=types.typed(wire.get('external_local', True), bool),
        source_ranges=None if ranges is None else tuple(
            types.network(text, 'source range')
            for text in types.texts(ranges)),
        health_port=_number(wire.get('health_port', 0), 65535))


def dump_node(node: model.Node) -> dict:
    """A node as JSON types."""
    return {'name': node.name, 'zone': node.zone,
            'addresses': list(node.addresses)}


def load_node(wire: dict) -> model.Node:
    """The node of a wire form.

    :raises: KeyError, TypeError, ValueError
    """
    return model.Node(types.text(wire, 'name'), types.text(wire, 'zone'),
                      tuple(map(_address, types.texts(wire['addresses']))))


def _dump_backend(backend):
    # What is empty as a rule is left out: there are many backends.
    wire = {'address': backend.address, 'port': backend.port}
    for field in ('node', 'mac', 'network_id', 'draining', 'zones', 'nodes'):
        value = getattr(backend, field)
        if value:
            wire[field] = list(value) if isinstance(value, tuple) else value
    return wire


def _port(wire):
    return model.Port(
        name=types.text(wire, 'name'),
        protocol=_number(wire['protocol'], 255),
        port=_number(wire['port'], 65535),
        node_port=_number(wire['node_port'], 65535),
        backends=tuple(map(_backend, types.typed(wire['backends'], list))))


def _backend(wire):
    return model.Backend(
        address=_address(types.text(wire, 'address')),
        port=_number(wire['port'], 65535),
        node=types.typed(wire.get('node', ''), str),
        draining=types.typed(wire.get('draining', False), bool),
        zones=types.texts(wire.get('zones', [])),
        nodes=types.texts(wire.get('nodes', [])),
        mac=types.typed(wire.get('mac', ''), str),
        network_id=types.typed(wire.get('network_id', ''), str))


def _address(text):
    if str(ipaddress.ip_address(text)) != text:
        raise ValueError('%.64r is no canonical address' % text)
    return text


def _number(value, most):
    number = types.typed(value, int)
    if not 0 <= number <= most:
        raise ValueError('%d is not from 0 to %d' % (number, most))
    return number
