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

"""The normal form of policy: what every policy kind is parsed into.

Controller and agent speak in these four things. A *selector* is one thing
that a rule can name as a peer, with its members. A *ruleset* is what one
direction of an endpoint is judged by: rule groups in the order of
precedence. An *endpoint* is a pod's interface with the rulesets that judge
it. A *view* is all of them that one node needs.

Everything here is a value: frozen, hashable, compared by content.
"""

import dataclasses
import enum
from typing import Mapping, Optional

from kuryr_cilium.policy import entities

#: Ruleset ids with a fixed meaning. They are never sent: every node knows
#: them (numbers 2 and 1 in the datapath).
ALLOW_ALL = 'allow-all'
DENY_ALL = 'deny-all'

#: IANA protocol numbers by the names Kubernetes uses.
PROTOCOLS = {'TCP': 6, 'UDP': 17, 'SCTP': 132}
ICMP = 1
ICMPV6 = 58


class Direction(enum.Enum):
    """Direction of a rule as its subject sees it."""

    INGRESS = 'ingress'
    EGRESS = 'egress'


class Verdict(enum.Enum):
    """What a rule group decides; PASS goes on with the next tier."""

    ALLOW = 'allow'
    DENY = 'deny'
    PASS = 'pass'


class Tier(enum.IntEnum):
    """Tiers in the order in which they are asked.

    Source: network-policy-api, ClusterNetworkPolicy, ``spec.tier``. DEFAULT
    is no policy's: there stands what happens to an endpoint that nothing
    isolates.
    """

    ADMIN = 0
    NETWORK_POLICY = 1
    BASELINE = 2
    DEFAULT = 3


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Destination ports of one protocol.

    :ivar protocol: IANA protocol number; 0 means any protocol (then the
        range is 0 to 65535).
    :ivar first: lowest port; for ICMP and ICMPv6 ``type << 8 | code``.
    :ivar last: highest port, inclusive.
    """

    protocol: int
    first: int = 0
    last: int = 65535


@dataclasses.dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules of equal precedence and verdict that were merged into one.

    :ivar peers: ids of selectors, any of which makes a peer match; None
        matches every peer, outside the cluster too.
    :ivar ports: what is matched; None matches every protocol and port.
    :ivar l7set: number of the HTTP rule set, 0 for none.
    """

    tier: Tier
    priority: int
    verdict: Verdict
    peers: Optional[frozenset[str]] = None
    ports: Optional[frozenset[PortRange]] = None
    l7set: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RuleSet:
    """What one direction of an endpoint is judged by.

    The first group that matches peer and port decides; if none does, the
    packet is dropped.

    :ivar id: hash of direction and groups (not of the names).
    :ivar groups: in order of precedence.
    :ivar names: for each group the rules it came from, each as
        ``kind/namespace/name rule`` (``kind/name rule`` where the kind has
        no namespace); for events and traces only.
    """

    id: str
    direction: Direction
    groups: tuple[RuleGroup, ...]
    names: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Member:
    """One peer that a selector matches.

    :ivar uid: UID of the pod (or node) that has the addresses: an address
        may have a new owner before the old one's deletion is seen.
    :ivar addresses: canonical IPv4 and IPv6 addresses, sorted.
    :ivar entity: what stands behind them. A node says REMOTE_NODE of every
        node; to itself it is HOST.
    """

    uid: str
    addresses: tuple[str, ...]
    entity: entities.Entity = entities.Entity.POD


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Block:
    """A block of addresses without some parts of it.

    :ivar cidr: canonical network, without bits of a host.
    :ivar excepts: canonical networks that are not meant, sorted.
    :ivar outside: addresses of the cluster's pods and nodes are not meant.
    """

    cidr: str
    excepts: tuple[str, ...] = ()
    outside: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """One thing that a rule can name as a peer, and what it matches now.

    :ivar id: hash of the definition.
    :ivar definition: canonical JSON of what selects; for people and tests.
    :ivar members: sorted; in a view of an agent, where they came in parts,
        each part is.
    :ivar block: the addresses that it matches beside its members, whoever
        has them.
    :ivar parts: on the wire only, where a selector with many members is
        sent in pieces: how many :class:`Members` hold them; 0 if they are
        all here. In a view it is 0.
    """

    id: str
    definition: str
    members: tuple[Member, ...] = ()
    block: Optional[Block] = None
    parts: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Members:
    """Some of the members of a selector that is sent in parts.

    :ivar selector: id of the selector.
    :ivar number: which part it is, from 0.
    :ivar members: sorted; each member of a selector is in one part.
    """

    selector: str
    number: int
    members: tuple[Member, ...] = ()

    @property
    def id(self) -> str:
        """``SELECTOR/NUMBER``."""
        return '%s/%d' % (self.selector, self.number)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod's interface and what judges it; derived from the annotation.

    :ivar uid: UID of the pod in the API.
    :ivar host: name of the node.
    :ivar vif_id: id of the Neutron port.
    :ivar addresses: canonical addresses of the VIF.
    :ivar ingress: id of the ruleset of what it receives.
    :ivar egress: id of the ruleset of what it sends.
    :ivar fastpath: Neutron has nothing of its own to enforce on the port,
        so neighbours on the node may be reached without the switch.
    """

    uid: str
    namespace: str
    name: str
    host: str
    vif_id: str
    mac: str
    network_id: str
    addresses: tuple[str, ...]
    ingress: str = DENY_ALL
    egress: str = DENY_ALL
    fastpath: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """All that one node needs to judge the traffic of its endpoints.

    :ivar epoch: leaseTransitions of the controllers' Lease when it was made.
    :ivar synced: the controller had listed every policy, namespace and pod;
        what is not in a synced view does not exist.
    :ivar endpoints: by pod UID.
    :ivar rulesets: by id, without ALLOW_ALL and DENY_ALL.
    :ivar selectors: by id.
    """

    epoch: int
    synced: bool
    endpoints: Mapping[str, Endpoint]
    rulesets: Mapping[str, RuleSet]
    selectors: Mapping[str, Selector]
