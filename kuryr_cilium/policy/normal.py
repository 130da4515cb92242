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
from typing import Optional, Union

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import selectors


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A destination port by its name, of each pod for itself.

    :ivar protocol: IANA protocol number.
    """

    protocol: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy.

    :ivar peers: any of them; None is every peer, outside the cluster too;
        none at all matches nothing.
    :ivar ports: any of them; None is every protocol and port.
    :ivar priority: within the tier, lower first; of equal priority what
        denies comes first.
    :ivar name: where it stands in its policy, as ``ingress[0]``.
    """

    direction: model.Direction
    peers: Optional[frozenset[selectors.Peer]] = None
    ports: Optional[frozenset[Union[model.PortRange, NamedPort]]] = None
    verdict: model.Verdict = model.Verdict.ALLOW
    tier: model.Tier = model.Tier.NETWORK_POLICY
    priority: int = 0
    l7set: int = 0
    name: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """A policy of any kind; an object that holds several becomes several.

    :ivar name: ``kind/namespace/name``, ``kind/name`` of what is in no
        namespace.
    :ivar subject: None selects nothing.
    :ivar isolates: directions in which the subject may do only what rules
        allow.
    :ivar problems: why it can't be expressed. Then it lets nothing more
        through than if it could be: it isolates its subject in the
        directions that it is about, allows nothing, and denies everything
        in a direction in which it has rules that deny.
    """

    uid: str
    name: str
    subject: Optional[selectors.Pods]
    isolates: frozenset[model.Direction]
    rules: tuple[Rule, ...] = ()
    problems: tuple[fields.Problem, ...] = ()
