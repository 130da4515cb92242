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

"""What holds of every policy object, whatever stands in it."""

import json
import random

from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import model
from tests.fuzz import generate
from tests.fuzz import mutate

KINDS = sorted(kinds.PARSERS)
CLUSTER = 'ClusterNetworkPolicy'


def example(seed, number):
    """(kind, content of the object, whether it is as the schema asks)."""
    rng = random.Random('%s/%s' % (seed, number))
    kind = KINDS[number % len(KINDS)]
    way = rng.randrange(8)
    content = generate.make(kind, rng)
    if way == 0:
        return kind, content, True
    if way == 1:
        return kind, mutate.nested(rng), False
    if way < 5:
        return kind, mutate.structure(content, rng), False
    return kind, mutate.text(content, rng), False


def check(kind, content, valid):
    """Parse; raises AssertionError if something does not hold."""
    metadata = {'uid': 'u', 'name': 'p'}
    if kind in ('NetworkPolicy', 'CiliumNetworkPolicy'):
        metadata['namespace'] = 'n'
    obj = {**content, 'metadata': metadata}
    before = json.dumps(obj)
    policies = kinds.parse(kind, obj)
    assert policies, 'it became no policy'
    assert json.dumps(obj) == before, 'the object was changed'
    assert kinds.parse(kind, obj) == policies, 'another result'
    hash(policies)
    problems = [problem for policy in policies for problem in policy.problems]
    for problem in problems:
        assert problem.field.startswith('spec'), problem
        assert problem.message and len(str(problem)) < 1000, problem
    assert not (valid and problems), problems
    size = len(before)
    assert len(problems) <= size, 'more problems than characters'
    for policy in policies:
        _bounded(policy, size)
        if kind == CLUSTER:
            assert not policy.isolates
        elif policy.problems:
            _closed(kind, policy, content)
    if kind == CLUSTER and problems:
        _rules_closed(policies, problems)


def _bounded(policy, size):
    assert len(policy.rules) <= size
    for rule in policy.rules:
        assert rule.name and len(rule.name) < 200
        # ANY is three protocols.
        assert len(rule.ports or ()) <= 3 * size
        assert len(rule.peers or ()) <= 3 * size
        for peer in rule.peers or ():
            json.loads(peer.definition)
            assert peer.id


def _closed(kind, policy, content):
    """A policy with problems allows nothing, and isolates or has no subject.

    Except of one that says nothing of any direction: it has no effect.
    """
    assert all(rule.verdict is model.Verdict.DENY and rule.peers is None
               and rule.ports is None for rule in policy.rules)
    if policy.isolates or policy.subject is None:
        return
    specs = [content.get('spec')] + list(content.get('specs') or ())
    assert kind != 'NetworkPolicy'
    assert any(not any((spec or {}).get(field) for field in (
        'ingress', 'egress', 'ingressDeny', 'egressDeny'))
        for spec in specs), 'neither isolates nor has no subject'


def _rules_closed(policies, problems):
    """No rule in which something is wrong stays as if nothing was."""
    broken = {'.'.join(problem.field.split('.')[1:2]) for problem in problems}
    for rule in policies[0].rules:
        assert rule.name not in broken, rule
    whole = not {problem.field for problem in problems
                 if not problem.field.startswith(('spec.ingress',
                                                  'spec.egress'))}
    assert whole or not policies[0].rules
