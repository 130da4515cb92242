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

"""Reads ClusterNetworkPolicies of ``policy.networking.k8s.io/v1alpha2``.

Source: network-policy-api, the comments of ``ClusterNetworkPolicySpec``.
"""

from kuryr_cilium.policy.oracle import statements

_ACTIONS = {'Accept': statements.ALLOW, 'Deny': statements.DENY,
            'Pass': statements.PASS}
_DIRECTIONS = ((statements.INGRESS, 'from', ('namespaces', 'pods')),
               (statements.EGRESS, 'to', (
                   'namespaces', 'pods', 'nodes', 'networks')))
#: Rules of a policy come before those of the next priority.
_STEP = 1000


def read(obj, cluster):
    """What a ClusterNetworkPolicy says: one statement, or two.

    A rule that is not understood fails closed: one that accepts matches
    nothing, any other denies everything in its place. The second statement
    has these, and leaves out the namespaces that are exempt. Without tier,
    priority or subject no rule is understood.
    """
    name = 'ClusterNetworkPolicy/' + obj['metadata']['name']
    spec = obj.get('spec')
    unclear = []
    try:
        statements.only(spec, 'tier', 'priority', 'subject', 'ingress',
                        'egress')
    except statements.MALFORMED as error:
        unclear.append(str(error))
    spec = spec if isinstance(spec, dict) else {}
    tier, priority, subject = statements.ADMIN, 0, statements.anything
    try:
        tier = _tier(spec)
    except statements.MALFORMED as error:
        unclear.append(str(error))
    try:
        priority = statements.number(spec['priority'], 0, 1000) * _STEP
    except statements.MALFORMED as error:
        unclear.append(str(error))
    try:
        subject = _subject(spec['subject'], cluster)
    except statements.MALFORMED as error:
        unclear.append(str(error))
    sound = not unclear
    rules, denied = [], []
    for direction, field, kinds in _DIRECTIONS:
        items = spec.get(direction) or []
        if not isinstance(items, list):
            unclear.append('%s: no list' % direction)
            denied.append(_denial(direction, direction, tier, priority))
            continue
        for place, item in enumerate(items):
            try:
                rule = _rule(item, direction, place, field, kinds, tier,
                             priority + place, cluster)
                if not sound:
                    raise statements.Unclear('unknown place')
                rules.append(rule)
            except statements.MALFORMED as error:
                unclear.append(str(error))
                if not (isinstance(item, dict) and
                        item.get('action') == 'Accept'):
                    denied.append(_denial(
                        direction, '%s[%d]' % (direction, place), tier,
                        priority + place))
    exempt = cluster.options.exempt_namespaces
    return [
        statements.Statement(name, subject, frozenset(), tuple(rules),
                             '; '.join(unclear)),
        statements.Statement(
            name, lambda pod: (pod['metadata']['namespace'] not in exempt
                               and subject(pod)),
            frozenset(), tuple(denied))]


def _denial(direction, name, tier, priority):
    return statements.Rule(
        direction, name, statements.DENY, statements.anything,
        statements.anything, tier, priority)


def _tier(spec):
    if spec['tier'] not in (statements.ADMIN, statements.BASELINE):
        raise statements.Unclear('tier %r' % (spec['tier'],))
    return spec['tier']


def _subject(value, cluster):
    """Namespaces or pods; exactly one."""
    meant = _pods(value, cluster)
    if meant is None:
        raise statements.Unclear('no subject')
    return meant


def _pods(item, cluster):
    """A function of a pod; None if the item is of another kind."""
    if set(item) == {'namespaces'}:
        where = statements.label_selector(item['namespaces'])
        wanted = statements.label_selector({})
    elif set(item) == {'pods'}:
        pods = statements.only(item['pods'], 'namespaceSelector',
                               'podSelector')
        if pods.get('podSelector') is None:
            raise statements.Unclear('no podSelector')
        where = statements.label_selector(pods.get('namespaceSelector'))
        wanted = statements.label_selector(pods.get('podSelector'))
    else:
        return None

    def meant(pod):
        labels = cluster.namespace_labels(pod['metadata']['namespace'])
        return (labels is not None and where(labels) and
                wanted(pod['metadata'].get('labels') or {}))

    return meant


def _rule(item, direction, place, field, kinds, tier, priority, cluster):
    statements.only(item, 'name', 'action', field, 'protocols')
    peers = statements.listed(item[field])
    if not peers:
        raise statements.Unclear('%s is empty' % field)
    protocols = item.get('protocols')
    if protocols is not None and not statements.listed(protocols):
        raise statements.Unclear('protocols is empty')
    if any('destinationNamedPort' in entry for entry in protocols or ()) and (
            any('networks' in peer or 'nodes' in peer for peer in peers)):
        raise statements.Unclear('nodes and networks have no named ports')
    return statements.Rule(
        direction, '%s[%d]' % (direction, place), _ACTIONS[item['action']],
        statements.any_of([_peer(peer, kinds, cluster) for peer in peers]),
        statements.any_of([_protocol(entry) for entry in protocols])
        if protocols else statements.anything, tier, priority)


def _peer(item, kinds, cluster):
    if len(item) != 1 or not set(item) <= set(kinds):
        raise statements.Unclear('no peer that is known here: %s' %
                                 ', '.join(sorted(item)))
    meant = _pods(item, cluster)
    if meant is not None:
        return lambda packet: (packet.peer.pod is not None
                               and meant(packet.peer.pod))
    if 'nodes' in item:
        wanted = statements.label_selector(item['nodes'])
        return lambda packet: packet.peer.node is not None and wanted(
            packet.peer.node['metadata'].get('labels') or {})
    networks = statements.listed(item['networks'])
    if not networks:
        raise statements.Unclear('networks is empty')
    return statements.any_of([statements.block(cidr) for cidr in networks])


def _protocol(item):
    """One of tcp, udp, sctp, or a container's port by its name."""
    if len(item) != 1:
        raise statements.Unclear('exactly one protocol is wanted')
    if 'destinationNamedPort' in item:
        name = item['destinationNamedPort']
        if not isinstance(name, str) or not name:
            raise statements.Unclear('destinationNamedPort: %r' % (name,))
        return statements.named_port(name, set(
            statements.PROTOCOLS.values()))
    (name, value), = item.items()
    protocol = {'tcp': 6, 'udp': 17, 'sctp': 132}[name]
    # Without its only field it is what an older schema left of a newer one.
    port = statements.only(value, 'destinationPort')['destinationPort']
    if set(port) == {'number'}:
        first = last = statements.number(port['number'], 1, 65535)
    elif set(port) == {'range'}:
        span = statements.only(port['range'], 'start', 'end')
        first = statements.number(span['start'], 1, 65535)
        last = statements.number(span['end'], first, 65535)
    else:
        raise statements.Unclear('destinationPort: %r' % (port,))
    return statements.port_range(protocol, first, last)
