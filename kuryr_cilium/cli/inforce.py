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

"""Which policies select pods of this node, and whether they hold there. Pure.

What selects is read from the API's objects. A policy holds for a pod if the
pod is judged by the rulesets that the controller compiles of those objects.
"""

import dataclasses
from typing import Any, Iterable, Mapping

from kuryr_cilium.cli import cluster as cluster_
from kuryr_cilium.cli import compiled as compiled_
from kuryr_cilium.policy import model

APPLIED = 'applied'
ISOLATES = 'isolates'
DENIED = 'denied'
WAITING = 'waiting'
IDLE = 'selects none here'


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """A policy as this node has it.

    :ivar namespace: '' if the kind has none.
    :ivar ingress: namespace/name of the pods here whose ingress it is
        about; egress likewise.
    :ivar state: APPLIED, ISOLATES (it can't be expressed), DENIED (a limit
        of the node was exceeded), WAITING (not all pods are judged by it
        yet), IDLE.
    :ivar why: of the state, for people.
    :ivar problems: why it can't be expressed, each with its field.
    :ivar rulesets: ids of the rulesets that it has a part in.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    ingress: tuple[str, ...]
    egress: tuple[str, ...]
    state: str
    why: str
    problems: tuple[str, ...] = ()
    rulesets: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """``KIND/NAMESPACE/NAME``."""
        return '/'.join(filter(None, (self.kind, self.namespace, self.name)))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The pods here that it selects."""
        return tuple(sorted({*self.ingress, *self.egress}))


def policies(cluster: cluster_.Cluster, compiled: compiled_.Compiled,
             endpoints: Iterable[Mapping[str, Any]]) -> list[Policy]:
    """Every policy of the cluster, by kind and name.

    :param endpoints: what the agent says is plugged.
    """
    selected: dict[str, list] = {}
    for endpoint in endpoints:
        for policy in compiled.selecting(endpoint['uid']):
            selected.setdefault(policy.uid, []).append((endpoint, policy))
    return sorted(
        (_policy(kind, obj, compiled,
                 selected.get(obj['metadata']['uid'], ()))
         for kind, found in cluster.policies.items() for obj in found),
        key=lambda policy: (policy.kind, policy.namespace, policy.name))


def _policy(kind, obj, compiled, selected):
    metadata = obj['metadata']
    parsed = compiled.policies[metadata['uid']]
    problems = tuple(str(problem) for policy in parsed
                     for problem in policy.problems)
    about: dict[str, list[str]] = {'ingress': [], 'egress': []}
    waiting, denied, rulesets = set(), set(), set()
    for endpoint, policy in selected:
        name = '%(namespace)s/%(name)s' % endpoint
        wanted = compiled.endpoint(endpoint['uid'])
        for direction in _directions(policy):
            side = endpoint[direction.value]
            about[direction.value].append(name)
            rulesets.add(side['ruleset'])
            if side['why']:
                denied.add('%s denies everything: %s' % (name, side['why']))
            elif wanted is None or side['ruleset'] != getattr(
                    wanted, direction.value):
                waiting.add(name)
    state, why = APPLIED, ''
    if problems:
        state, why = ISOLATES, 'because ' + '; '.join(problems)
    elif denied:
        state, why = DENIED, '; '.join(sorted(denied))
    elif waiting:
        state, why = WAITING, ('%s: judged by other rulesets than the '
                               'controller compiles; see "kuryr-cilium '
                               'status"' % ', '.join(sorted(waiting)))
    elif not selected:
        state = IDLE
    return Policy(
        kind, metadata.get('namespace') or '', metadata['name'],
        metadata['uid'], tuple(sorted(set(about['ingress']))),
        tuple(sorted(set(about['egress']))), state, why, problems,
        tuple(sorted(filter(None, rulesets))))


def _directions(policy):
    """The directions in which a policy has a say."""
    return [direction for direction in model.Direction
            if direction in policy.isolates
            or any(rule.direction is direction for rule in policy.rules)]
