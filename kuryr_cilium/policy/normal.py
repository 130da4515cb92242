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

"""The form into which every policy kind is parsed.

Subject, directions in which it isolates, and rules. What follows (merging,
compiling, the index of the cluster) knows no kind.
"""

import dataclasses
from typing import Optional

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import selectors


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy.

    :ivar peers: any of them; None is every peer, outside the cluster too.
    :ivar ports: any of them; None is every protocol and port.
    """

    direction: model.Direction
    peers: Optional[frozenset[selectors.Pods]] = None
    ports: Optional[frozenset[model.PortRange]] = None
    verdict: model.Verdict = model.Verdict.ALLOW
    tier: model.Tier = model.Tier.NETWORK_POLICY
    priority: int = 0
    l7set: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """A policy of any kind.

    :ivar name: ``kind/namespace/name``.
    :ivar isolates: directions in which the subject may do only what rules
        allow.
    :ivar problems: why it can't be expressed. It then isolates its subject
        and has no rules.
    """

    uid: str
    name: str
    subject: selectors.Pods
    isolates: frozenset[model.Direction]
    rules: tuple[Rule, ...] = ()
    problems: tuple[fields.Problem, ...] = ()
