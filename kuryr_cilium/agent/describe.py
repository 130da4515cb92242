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

"""What the local API says, from the records and the view. Pure."""

import json
from typing import Iterable, Mapping, Optional

from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium import vif as kc_vif


def endpoints(records: Iterable, view: Optional[model.View],
              denied: Mapping[str, str],
              connections: Mapping[str, int]) -> list[dict]:
    """The node's endpoints: what is plugged and what judges it.

    :param records: of the endpoint store.
    :param denied: pod UID -> why its endpoint denies everything.
    :param connections: pod UID -> how many are open.
    """
    found = []
    for record in sorted(records, key=lambda r: (r.pod, r.container_id)):
        facts = kc_vif.facts(record.vif)
        endpoint = view.endpoints.get(record.uid) if view else None
        if endpoint is not None and endpoint.vif_id != facts.vif_id:
            endpoint = None
        found.append({
            'namespace': record.namespace,
            'name': record.name,
            'uid': record.uid,
            'state': record.state,
            'container_id': record.container_id,
            'interface': record.ifname,
            'netns': record.netns,
            'port_id': facts.vif_id,
            'network_id': facts.network_id,
            'mac': facts.mac,
            'addresses': list(facts.addresses),
            'ingress': _side(endpoint, 'ingress', view, denied),
            'egress': _side(endpoint, 'egress', view, denied),
            'fastpath': endpoint.fastpath if endpoint else False,
            'connections': connections.get(record.uid, 0),
        })
    return found


def policies(view: Optional[model.View]) -> list[dict]:
    """The rulesets of the view, with the policies they were made of."""
    if view is None:
        return []
    found = []
    for ruleset in view.rulesets.values():
        found.append({
            'ruleset': ruleset.id,
            'direction': ruleset.direction.value,
            'policies': _policies(ruleset),
            'endpoints': sorted(
                f'{e.namespace}/{e.name}' for e in view.endpoints.values()
                if ruleset.id in (e.ingress, e.egress)),
            'rules': [_rule(group, view) for group in ruleset.groups],
        })
    return sorted(found, key=lambda r: (r['policies'], r['direction'],
                                        r['ruleset']))


def services(found: Optional[Mapping[str, lb_model.Service]],
             trouble: Optional[str], refused: Mapping[str, str],
             conflicts: Mapping[str, str],
             ports: Mapping[str, str] = {}) -> dict:
    """The services that are known on this node.

    :param found: by id; None: services are switched off.
    :param trouble: what keeps them from being current.
    :param refused: id -> why there was no room for all of it.
    :param conflicts: id -> which of its addresses is another service's.
    :param ports: id -> why its health check port is not open.
    """
    if found is None:
        return {'enabled': False, 'trouble': None, 'services': []}
    return {'enabled': True, 'trouble': trouble, 'services': [
        _service(found[name], [why[name] for why in (refused, conflicts)
                               if name in why], ports.get(name))
        for name in sorted(found)]}


def _service(service, refusals, port):
    state = 'in force'
    if refusals:
        state = 'refused: ' + '; '.join(refusals)
    elif port:
        state = 'in force, but ' + port
    return {
        'namespace': service.namespace,
        'name': service.name,
        'addresses': list(service.addresses),
        'external': list(service.external),
        'ports': [{
            'name': port.name,
            'protocol': _protocol(port.protocol),
            'port': port.port,
            'node_port': port.node_port,
            'backends': [{
                'address': backend.address,
                'port': backend.port,
                'node': backend.node,
                'state': 'draining' if backend.draining else 'ready',
            } for backend in port.backends],
        } for port in service.ports],
        'affinity_seconds': service.affinity,
        'internal_traffic_policy':
            'Local' if service.internal_local else 'Cluster',
        'external_traffic_policy':
            'Local' if service.external_local else 'Cluster',
        'source_ranges': None if service.source_ranges is None
        else list(service.source_ranges),
        'health_check_node_port': service.health_port,
        'state': state,
    }


def _side(endpoint, direction, view, denied):
    """What judges one direction of an endpoint."""
    if endpoint is None:
        return {'ruleset': None, 'verdict': 'drop',
                'why': 'it is not in the policy view', 'policies': []}
    if endpoint.uid in denied:
        return {'ruleset': model.DENY_ALL, 'verdict': 'deny all',
                'why': denied[endpoint.uid], 'policies': []}
    identity = getattr(endpoint, direction)
    if identity == model.ALLOW_ALL:
        verdict, names = 'allow all', []
    elif identity == model.DENY_ALL:
        verdict, names = 'deny all', []
    else:
        ruleset = view.rulesets[identity]
        verdict, names = 'by policy', _policies(ruleset)
    return {'ruleset': identity, 'verdict': verdict, 'why': '',
            'policies': names}


def _policies(ruleset):
    return sorted({name.partition(' ')[0]
                   for names in ruleset.names for name in names})


def _rule(group, view):
    if group.peers is None:
        peers = ['anything']
    else:
        peers = [_peer(view.selectors[peer])
                 if not entities.is_entity(peer) else peer
                 for peer in sorted(group.peers)]
    if group.ports is None:
        ports = ['any']
    else:
        ports = [_port(port) for port in sorted(group.ports)]
    return {'tier': group.tier.name.lower(), 'verdict': group.verdict.value,
            'peers': peers, 'ports': ports}


def _peer(selector):
    if selector.block is not None:
        return _compact(selector.definition)
    members = len(selector.members)
    return '%s (%d %s)' % (_compact(selector.definition), members,
                           'member' if members == 1 else 'members')


def _compact(definition):
    try:
        return json.dumps(json.loads(definition), separators=(',', ':'))
    except ValueError:
        return definition


def _protocol(number):
    return next((name for name, value in model.PROTOCOLS.items()
                 if value == number), str(number or 'any'))


def _port(port):
    name = _protocol(port.protocol)
    if (port.first, port.last) == (0, 65535):
        return name
    if port.first == port.last:
        return f'{name}/{port.first}'
    return f'{name}/{port.first}-{port.last}'
