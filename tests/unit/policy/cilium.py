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

"""What the tests of Cilium's kinds of policy share."""

from kuryr_cilium.policy import ciliumnetworkpolicy
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import selectors
from tests import base

EGRESS = model.Direction.EGRESS
DENY = model.Verdict.DENY
OWN = selectors.Pods(namespace='default')


def parse_all(clusterwide=False, **obj):
    metadata = {'uid': 'u', 'name': 'p'}
    kind = ciliumnetworkpolicy.CLUSTERWIDE
    if not clusterwide:
        metadata['namespace'] = 'default'
        kind = ciliumnetworkpolicy.KIND
    return ciliumnetworkpolicy.parse(kind, {'metadata': metadata, **obj},
                                     ('kube-system',))


def parse(clusterwide=False, **spec):
    spec = {'endpointSelector': {}, **spec}
    policy, = parse_all(clusterwide, spec=spec)
    return policy


def outside(cidr, *excepts):
    return selectors.Block(model.Block(cidr, excepts, True))


def label(key, *values):
    return labels.Requirement(key, labels.IN, values)


class Case(base.TestCase):

    def good(self, clusterwide=False, **spec):
        policy = parse(clusterwide, **spec)
        self.assertEqual((), policy.problems)
        return policy

    def fields_of(self, policy):
        self.assertTrue(policy.problems)
        self.assertEqual([], [rule for rule in policy.rules
                              if rule.verdict is not DENY])
        return [problem.field for problem in policy.problems]

    def rule(self, clusterwide=False, **rule):
        found, = self.good(clusterwide, egress=[rule]).rules
        return found

    def peers(self, clusterwide=False, **rule):
        return self.rule(clusterwide, **rule).peers

    def matches_nothing(self, **rule):
        for field, direction in (('egress', EGRESS), ('egressDeny', EGRESS)):
            policy = self.good(**{field: [rule]})
            self.assertEqual((), policy.rules)
            self.assertEqual({direction}, policy.isolates)
