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

"""ClusterNetworkPolicy (policy.networking.k8s.io/v1beta1).

Source: network-policy-api, ``ClusterNetworkPolicySpec``.

What can't be expressed fails closed rule by rule, as the API's text asks: a
rule that accepts then matches nothing, one that denies or passes denies
everything at its place.
"""

from typing import Any, Iterable, Mapping

from kuryr_cilium.policy import clusterwide
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import networks
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import ports
from kuryr_cilium.policy import selectors

KIND = 'ClusterNetworkPolicy'

#: Priorities that one policy's rules take up in its tier.
MAX_RULES = 1000
_LEAST, _MOST = 0, 1000

_TIERS = {'Admin': model.Tier.ADMIN, 'Baseline': model.Tier.BASELINE}
_ACTIONS = {'Accept': model.Verdict.ALLOW, 'Deny': model.Verdict.DENY,
            'Pass': model.Verdict.PASS}
_PEERS = {
    model.Direction.INGRESS: ('from', ('namespaces', 'pods')),
    model.Direction.EGRESS: ('to', ('namespaces', 'pods', 'nodes',
                                    'networks', 'domainNames'))}


def parse(obj: Mapping[str, Any],
          exempt: Iterable[str]) -> tuple[normal.Policy, ...]:
    """Parse one object as the API server gives it.

    Never raises for what stands in ``spec``.

    :param exempt: names of namespaces in whose pods nothing is denied for
        what can't be expressed.
    :returns: the policy as far as it can be expressed; then, if something
        is denied in place of what can't be, that.
    """
    metadata = obj['metadata']
    name = '/'.join((KIND, metadata['name']))
    problems: list[fields.Problem] = []
    spec: Mapping[str, Any] = {}
    subject = selectors.Pods()
    tier, priority = model.Tier.ADMIN, _LEAST
    with fields.noted(problems):
        spec = fields.mapping(obj.get('spec'), 'spec')
        fields.only(spec, 'spec',
                    ('tier', 'priority', 'subject', 'ingress', 'egress'))
    with fields.noted(problems):
        tier = _choice(_TIERS, spec.get('tier'), 'spec.tier')
    with fields.noted(problems):
        priority = fields.number(spec.get('priority'), 'spec.priority',
                                 _LEAST, _MOST)
    with fields.noted(problems):
        subject = _pods(fields.mapping(spec.get('subject'), 'spec.subject'),
                        'spec.subject', ('namespaces', 'pods'))
    # Where tier, priority or subject are unknown, so is every rule's effect.
    sound = not problems
    rules: list[normal.Rule] = []
    denied: list[normal.Rule] = []
    for direction in model.Direction:
        path = 'spec.' + direction.value
        try:
            items = list(fields.items(spec.get(direction.value), path))
        except fields.Problem as problem:
            problems.append(problem)
            denied.append(_deny_all(direction, tier, priority * MAX_RULES,
                                    path))
            continue
        for index, (item, item_path) in enumerate(items):
            place = priority * MAX_RULES + min(index, MAX_RULES - 1)
            count = len(problems)
            rule = None
            with fields.noted(problems):
                if index >= MAX_RULES:
                    raise fields.Problem(item_path, 'is one rule too many: '
                                         'give a policy at most %d in a '
                                         'direction' % MAX_RULES)
                rule = _rule(item, item_path, direction, tier, place,
                             problems)
            if rule and sound and len(problems) == count:
                rules.append(rule)
            elif not _accepts(item):
                denied.append(_deny_all(direction, tier, place, item_path))
    result = [normal.Policy(metadata['uid'], name, subject, frozenset(),
                            tuple(rules), tuple(problems))]
    if denied:
        result.append(normal.Policy(
            metadata['uid'], name, clusterwide.without(subject, exempt),
            frozenset(), tuple(denied)))
    return tuple(result)


def _rule(value, path, direction, tier, priority, problems):
    field, known = _PEERS[direction]
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('name', 'action', field, 'protocols'))
    verdict = _choice(_ACTIONS, obj.get('action'), path + '.action')
    peers_path = '%s.%s' % (path, field)
    if not obj.get(field):
        raise fields.Problem(peers_path, 'must name at least one peer')
    peers: set[selectors.Peer] = set()
    for found in fields.each(obj[field], peers_path, problems,
                             lambda item, item_path: _peer(
                                 item, item_path, known, problems)):
        peers |= found
    which = None
    if obj.get('protocols') is not None:
        if not obj['protocols']:
            raise fields.Problem(path + '.protocols', 'must have at least '
                                 'one item: leave it out to mean all')
        # Other peers have no containers, and so no names of ports.
        portless = any(not isinstance(peer, selectors.Pods) for peer in peers)
        which = frozenset().union(*fields.each(
            obj['protocols'], path + '.protocols', problems,
            lambda item, item_path: _protocol(item, item_path, portless)))
    return normal.Rule(direction, frozenset(peers), which, verdict, tier,
                       priority, name=path.removeprefix('spec.'))


def _peer(value, path, known, problems):
    """The selectors of a peer."""
    obj = fields.mapping(value, path)
    field = _one(obj, path, known)
    if field in ('namespaces', 'pods'):
        return {_pods(obj, path, known)}
    path = '%s.%s' % (path, field)
    if field == 'nodes':
        return {selectors.Nodes(labels.parse(obj['nodes'], path))}
    if field == 'domainNames':
        raise fields.Problem(path, 'are not supported yet: name the peers by '
                             'networks')
    if not obj['networks']:
        raise fields.Problem(path, 'must have at least one item')
    return {selectors.Block(networks.block(found)) for found in fields.each(
        obj['networks'], path, problems, networks.network)}


def _pods(obj, path, known):
    """The pods of a subject or peer."""
    field = _one(obj, path, known)
    path = '%s.%s' % (path, field)
    if field == 'namespaces':
        return selectors.Pods(
            namespaces=labels.parse(obj['namespaces'], path))
    obj = fields.mapping(obj['pods'], path)
    fields.only(obj, path, ('namespaceSelector', 'podSelector'))
    if obj.get('podSelector') is None:
        raise fields.Problem(path + '.podSelector', 'is missing: {} selects '
                             'every pod')
    return selectors.Pods(
        labels.parse(obj['podSelector'], path + '.podSelector'), None,
        labels.parse(obj.get('namespaceSelector'),
                     path + '.namespaceSelector'))


def _protocol(value, path, portless):
    """The ports of one item of protocols."""
    obj = fields.mapping(value, path)
    field = _one(obj, path, ('tcp', 'udp', 'sctp', 'destinationNamedPort'))
    path = '%s.%s' % (path, field)
    if field == 'destinationNamedPort':
        name = ports.name(obj[field], path)
        if portless:
            raise fields.Problem(path, 'is of pods only: give nodes and '
                                 'networks a rule of their own, with numbers')
        return {normal.NamedPort(number, name)
                for number in model.PROTOCOLS.values()}
    number = model.PROTOCOLS[field.upper()]
    obj = fields.mapping(obj[field], path)
    # Without its only field it is what an older schema left of a newer one.
    _one(obj, path, ('destinationPort',))
    path += '.destinationPort'
    obj = fields.mapping(obj['destinationPort'], path)
    if _one(obj, path, ('number', 'range')) == 'number':
        return {ports.span(number, obj['number'], None, path + '.number',
                           path)}
    path += '.range'
    obj = fields.mapping(obj['range'], path)
    fields.only(obj, path, ('start', 'end'))
    last = fields.number(obj.get('end'), path + '.end', 1, 65535)
    return {ports.span(number, obj.get('start'), last, path + '.start',
                       path + '.end')}


def _one(obj, path, known):
    """The only field that is set."""
    fields.only(obj, path, known)
    found = [field for field in known if obj.get(field) is not None]
    if len(found) != 1:
        raise fields.Problem(path, 'must have exactly one of %s' %
                             ', '.join(known))
    return found[0]


def _choice(known, value, path):
    if not isinstance(value, str) or value not in known:
        raise fields.Problem(path, 'use one of %s' % ', '.join(known))
    return known[value]


def _accepts(value):
    return isinstance(value, Mapping) and value.get('action') == 'Accept'


def _deny_all(direction, tier, priority, path):
    return normal.Rule(direction, verdict=model.Verdict.DENY, tier=tier,
                       priority=priority, name=path.removeprefix('spec.'))
