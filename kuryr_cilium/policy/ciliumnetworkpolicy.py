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

"""CiliumNetworkPolicy and its cluster-wide kind (cilium.io/v2).

Source: Cilium documentation, "Layer 3 Policies" to "Deny Policies", and the
reference of its API.

What can't be expressed never opens a hole: such a policy isolates what it
selects in the directions that it is about, allows nothing, and denies
everything in a direction in which it has rules that deny.
"""

from typing import Any, Iterable, Mapping, Optional

from kuryr_cilium.policy import ciliumlabels
from kuryr_cilium.policy import ciliumpeers
from kuryr_cilium.policy import ciliumports
from kuryr_cilium.policy import clusterwide
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors

KIND = 'CiliumNetworkPolicy'
CLUSTERWIDE = 'CiliumClusterwideNetworkPolicy'

_SECTIONS = (
    (model.Direction.INGRESS, 'ingress', model.Verdict.ALLOW),
    (model.Direction.INGRESS, 'ingressDeny', model.Verdict.DENY),
    (model.Direction.EGRESS, 'egress', model.Verdict.ALLOW),
    (model.Direction.EGRESS, 'egressDeny', model.Verdict.DENY))
_FIELDS = ('endpointSelector', 'nodeSelector', 'enableDefaultDeny', 'labels',
           'description', 'log', *(field for _direction, field, _verdict
                                   in _SECTIONS))
_BOTH = frozenset(model.Direction)


def parse(kind: str, obj: Mapping[str, Any],
          exempt: Iterable[str]) -> tuple[normal.Policy, ...]:
    """Parse one object as the API server gives it.

    Never raises for what stands in ``spec`` or ``specs``.

    :param kind: KIND or CLUSTERWIDE.
    :param exempt: names of namespaces whose pods a cluster-wide policy that
        can't be expressed leaves alone.
    :returns: one policy for ``spec`` and each of ``specs``.
    """
    metadata = obj['metadata']
    namespace = metadata['namespace'] if kind == KIND else None
    name = '/'.join(part for part in (kind, namespace, metadata['name'])
                    if part is not None)
    found = []
    if obj.get('spec') is not None:
        found.append((obj['spec'], 'spec'))
    try:
        found += fields.items(obj.get('specs'), 'specs')
    except fields.Problem:
        # Not a list: what it is is no spec either, and says so.
        found.append((None, 'specs'))
    if not found:
        return (normal.Policy(
            metadata['uid'], name, None, frozenset(), problems=(
                fields.Problem('spec', 'is missing: give spec or specs'),)),)
    result = []
    for value, path in found:
        policy = _spec(value, path, metadata['uid'], name, namespace)
        if policy.problems and namespace is None:
            policy = normal.Policy(
                policy.uid, policy.name,
                clusterwide.without(policy.subject, exempt),
                policy.isolates, policy.rules, policy.problems)
        result.append(policy)
    return tuple(result)


def _spec(value, path, uid, name, namespace):
    problems: list[fields.Problem] = []
    subject: Optional[selectors.Pods] = selectors.Pods(namespace=namespace)
    if not isinstance(value, Mapping):
        return normal.Policy(uid, name, subject, _BOTH, problems=(
            fields.Problem(path, 'must be %s' % (
                'a list' if path == 'specs' else 'an object')),))
    about, denies, rules = set(), set(), []
    try:
        fields.only(value, path, _FIELDS)
    except fields.Problem as problem:
        # It may be about any direction.
        problems.append(problem)
        about |= _BOTH
    with fields.noted(problems):
        subject = _subject(value, path, namespace, problems)
    for direction, field, verdict in _SECTIONS:
        section = value.get(field)
        if section is None or section == []:
            continue
        about.add(direction)
        if verdict is model.Verdict.DENY:
            denies.add(direction)
        rules += fields.each(
            section, '%s.%s' % (path, field), problems,
            lambda item, item_path: _rule(item, item_path, direction,
                                          verdict, namespace, problems))
    isolates = frozenset(about)
    with fields.noted(problems):
        isolates = _isolates(value.get('enableDefaultDeny'),
                             path + '.enableDefaultDeny', about)
    if not isolates and not about:
        problems.append(fields.Problem(path, 'has no rules and no effect: '
                                       'write "ingress: [{}]" or "egress: '
                                       '[{}]" to isolate without allowing'))
    if problems:
        isolates |= about
        rules = [normal.Rule(direction, verdict=model.Verdict.DENY,
                             name=_name('%s.%sDeny' % (path,
                                                       direction.value)))
                 for direction in model.Direction if direction in denies]
    return normal.Policy(
        uid, name, subject, isolates,
        tuple(rule for rule in rules if rule is not None), tuple(problems))


def _subject(spec, path, namespace, problems):
    if spec.get('nodeSelector') is not None:
        problems.append(fields.Problem(
            path + '.nodeSelector', 'policies of nodes are not supported: '
            'only pods are judged, select them by endpointSelector'))
    elif 'endpointSelector' not in spec:
        problems.append(fields.Problem(path + '.endpointSelector',
                                       'is missing: {} selects every pod'))
    if 'endpointSelector' not in spec:
        return None
    path += '.endpointSelector'
    subject = ciliumlabels.subject(spec['endpointSelector'], path, namespace,
                                   problems)
    if subject is None:
        problems.append(fields.Problem(path, 'selects no pod: pods have no '
                                       'labels of reserved:'))
    return subject


def _isolates(value, path, about):
    """By default the directions that the policy is about."""
    obj = fields.mapping(value, path)
    fields.only(obj, path, [direction.value for direction
                            in model.Direction])
    found = set()
    for direction in model.Direction:
        said = obj.get(direction.value)
        if said is None:
            said = direction in about
        elif not isinstance(said, bool):
            raise fields.Problem('%s.%s' % (path, direction.value),
                                 'must be true or false')
        if said:
            found.add(direction)
    return frozenset(found)


def _rule(value, path, direction, verdict, namespace, problems):
    """A rule; None if it matches nothing."""
    deny = verdict is model.Verdict.DENY
    obj = fields.mapping(value, path)
    fields.only(obj, path, (
        *ciliumpeers.names(direction), 'toPorts', 'icmps',
        *(() if deny else ('authentication',))))
    if not deny:
        _authentication(obj.get('authentication'), path + '.authentication')
    given, peers = ciliumpeers.parse(obj, path, direction, namespace,
                                     problems)
    ports = ciliumports.parse(obj, path, deny, problems)
    if not given and ports is None:
        return None
    if peers == frozenset() or ports == frozenset():
        return None
    return normal.Rule(direction, peers, ports, verdict, name=_name(path))


def _name(path):
    return path.removeprefix('spec.')


def _authentication(value, path):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('mode',))
    if value is not None and obj.get('mode') != 'disabled':
        raise fields.Problem(path + '.mode', 'authentication is not '
                             'supported: use disabled, or remove it')
