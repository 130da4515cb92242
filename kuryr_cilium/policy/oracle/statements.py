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

"""What a policy says, as a list of statements, and what a statement asks.

A statement's conditions are functions of a :class:`Packet`. They are made
when the policy is read, so that what can't be understood is found then.
"""

import dataclasses
import ipaddress
from typing import Any, Callable, Optional, Union

PROTOCOLS = {'TCP': 6, 'UDP': 17, 'SCTP': 132}
ICMP, ICMPV6 = 1, 58

INGRESS, EGRESS = 'ingress', 'egress'

#: In the order in which they are asked.
ADMIN, NETWORK_POLICY, BASELINE = 'Admin', 'NetworkPolicy', 'Baseline'
TIERS = (ADMIN, NETWORK_POLICY, BASELINE)

DENY, PASS, ALLOW = 'deny', 'pass', 'allow'
#: Of equal precedence the former is asked first.
ACTIONS = (DENY, PASS, ALLOW)

#: What reading an object that is not as its schema says may raise.
MALFORMED = (AttributeError, KeyError, TypeError, ValueError)


class Unclear(ValueError):
    """A policy that can't be understood, or can't be enforced here."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What an operator may choose of the meaning of policies.

    :ivar exempt_namespaces: namespaces whose pods a cluster-wide policy that
        can't be understood does not isolate.
    :ivar allow_egress_to_own_node: whether isolation of what a pod sends
        leaves out its own node.
    """

    exempt_namespaces: tuple[str, ...] = ('kube-system',)
    allow_egress_to_own_node: bool = False


@dataclasses.dataclass(frozen=True)
class Peer:
    """Who is at the other end.

    :ivar address: an ``ipaddress`` object.
    :ivar pod: the pod that has the address; None: it is no pod's.
    :ivar node: the node that has the address, an object too.
    """

    address: Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
    pod: Optional[dict] = None
    node: Optional[dict] = None

    @property
    def outside(self) -> bool:
        """Whether it is outside the cluster."""
        return self.pod is None and self.node is None


@dataclasses.dataclass(frozen=True)
class Packet:
    """The opening of a connection, as one of its ends sees it.

    :ivar subject: the pod that is judged.
    :ivar protocol: IANA number.
    :ivar port: destination port; ``type << 8 | code`` of ICMP and ICMPv6;
        None if the protocol has none.
    """

    subject: dict
    direction: str
    peer: Peer
    protocol: int
    port: Optional[int]

    @property
    def receiver(self) -> Optional[dict]:
        """The pod it is for; None if it is for no pod."""
        return self.subject if self.direction == INGRESS else self.peer.pod


Condition = Callable[[Packet], bool]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    :ivar name: where it stands in its policy, as ``ingress[0]``.
    :ivar peers: whether the peer is meant.
    :ivar ports: whether protocol and port are.
    """

    direction: str
    name: str
    action: str
    peers: Condition
    ports: Condition
    tier: str = NETWORK_POLICY
    priority: int = 0


@dataclasses.dataclass(frozen=True)
class Statement:
    """A policy; an object that holds several becomes several.

    :ivar name: ``kind/namespace/name``, ``kind/name`` of what is in no
        namespace.
    :ivar subject: whether a pod is meant.
    :ivar isolates: directions in which the subject may do only what is
        allowed.
    :ivar unclear: why it is not understood.
    """

    name: str
    subject: Callable[[dict], bool]
    isolates: frozenset[str]
    rules: tuple[Rule, ...] = ()
    unclear: str = ''


def anything(_packet: Packet) -> bool:
    """The condition that every packet meets."""
    return True


def nothing(_packet: Packet) -> bool:
    """The condition that no packet meets."""
    return False


def any_of(conditions) -> Condition:
    """At least one of the conditions; there may be none."""
    conditions = list(conditions)
    return lambda packet: any(condition(packet) for condition in conditions)


def only(obj: dict, *known: str) -> dict:
    """An object that has no other fields; they might narrow it down."""
    unknown = set(obj) - set(known)
    if unknown:
        raise Unclear('unknown fields: %s' % ', '.join(sorted(unknown)))
    return obj


def listed(value: Any) -> list:
    """A list; absent is empty."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise Unclear('no list: %r' % (value,))
    return list(value)


def label_selector(value: Any) -> Callable[[dict], bool]:
    """Read the API's LabelSelector into a function of labels.

    Source: Kubernetes API reference, ``LabelSelector`` (meta/v1).
    """
    obj = only(value or {}, 'matchLabels', 'matchExpressions')
    wanted = dict(obj.get('matchLabels') or {})
    if not all(isinstance(text, str) for text in
               (*wanted.keys(), *wanted.values())):
        raise Unclear('matchLabels: no string')
    expressions = [_expression(item)
                   for item in listed(obj.get('matchExpressions'))]

    def matches(labels):
        for key, text in wanted.items():
            if key not in labels or labels[key] != text:
                return False
        return all(expression(labels) for expression in expressions)

    return matches


def _expression(item):
    only(item, 'key', 'operator', 'values')
    key, operator = item['key'], item['operator']
    values = listed(item.get('values'))
    if not isinstance(key, str) or not key or not all(
            isinstance(value, str) for value in values):
        raise Unclear('matchExpressions: no string')
    if operator in ('In', 'NotIn'):
        if not values:
            raise Unclear('%s without values' % operator)
        if operator == 'In':
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: not (key in labels and labels[key] in values)
    if values:
        raise Unclear('%s with values' % operator)
    if operator == 'Exists':
        return lambda labels: key in labels
    if operator == 'DoesNotExist':
        return lambda labels: key not in labels
    raise Unclear('operator %r' % (operator,))


def network(text: Any):
    """Read a CIDR; bits of a host in it mean nothing."""
    address, slash, length = text.partition('/')
    if not slash or not length.isdigit():
        raise Unclear('no CIDR: %r' % (text,))
    return ipaddress.ip_network(text, strict=False)


def block(cidr: Any, excepts: Any = ()) -> Condition:
    """Whether the peer's address is in a block and in none of its excepts."""
    whole = network(cidr)
    holes = [network(text) for text in listed(excepts)]

    def contains(packet):
        address = packet.peer.address
        return (address in whole and
                not any(address in hole for hole in holes))

    return contains


def number(value: Any, least: int, most: int) -> int:
    """A whole number within limits."""
    if (not isinstance(value, int) or isinstance(value, bool)
            or not least <= value <= most):
        raise Unclear('no number from %d to %d: %r' % (least, most, value))
    return value


def port_range(protocol: int, first: int = 0, last: int = 65535) -> Condition:
    """Whether a packet is of a protocol and for one of these ports."""
    def within(packet):
        if packet.protocol != protocol:
            return False
        if first == 0 and last == 65535:
            return True
        return packet.port is not None and first <= packet.port <= last

    return within


def named_port(name: str, protocols) -> Condition:
    """Whether a packet is for a container's port of this name.

    The name is that of a port of the receiving pod, whoever is judged.
    """
    def meant(packet):
        return (packet.protocol in protocols and packet.port is not None
                and (name, packet.protocol, packet.port)
                in container_ports(packet.receiver))

    return meant


def container_ports(pod: Optional[dict]) -> set[tuple[str, int, int]]:
    """(name, protocol, number) of a pod's ports that have a name.

    Of the containers that run while the pod runs: init containers that are
    restarted always are sidecars.
    """
    if pod is None:
        return set()
    spec = pod['spec']
    containers = listed(spec.get('containers')) + [
        container for container in listed(spec.get('initContainers'))
        if container.get('restartPolicy') == 'Always']
    return {(port['name'], PROTOCOLS[port.get('protocol') or 'TCP'],
             port['containerPort'])
            for container in containers
            for port in listed(container.get('ports')) if port.get('name')}
