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

"""The objects of a cluster, and how they judge a packet."""

import ipaddress
from typing import Any, Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium import exceptions
from kuryr_cilium.policy.oracle import cilium
from kuryr_cilium.policy.oracle import clusternetworkpolicy
from kuryr_cilium.policy.oracle import networkpolicy
from kuryr_cilium.policy.oracle import statements
from kuryr_cilium import vif

#: kind -> function of (object, cluster) that gives its statements.
_READERS = {
    'NetworkPolicy': networkpolicy.read,
    'ClusterNetworkPolicy': clusternetworkpolicy.read,
    'CiliumNetworkPolicy': cilium.read,
    'CiliumClusterwideNetworkPolicy': cilium.read_clusterwide,
}

KINDS = tuple(_READERS)


class Decision(NamedTuple):
    """What one end of a path decides, and why.

    :ivar allowed: whether the packet may pass.
    :ivar rules: "kind/namespace/name rule" of the rules that decide: of
        those with the same precedence each one that matches. Empty if no
        rule decides.
    :ivar tier: ``Admin``, ``NetworkPolicy`` or ``Baseline`` if rules decide,
        ``Isolated`` if none allows it and the pod is isolated, ``Default``
        if nothing speaks against it, ``Node`` for what the pod's own node
        sends.
    """

    allowed: bool
    rules: tuple[str, ...]
    tier: str


ISOLATED = Decision(False, (), 'Isolated')
DEFAULT = Decision(True, (), 'Default')
NODE = Decision(True, (), 'Node')


class Path(NamedTuple):
    """What both ends decide; None of an end that is no pod's.

    :ivar egress: of the source.
    :ivar ingress: of the destination.
    """

    egress: Optional[Decision]
    ingress: Optional[Decision]

    @property
    def allowed(self) -> bool:
        return all(decision.allowed for decision in self
                   if decision is not None)


class Cluster:
    """API objects.

    :param policies: kind -> objects.
    :param slices: EndpointSlices.
    """

    def __init__(self, pods: Iterable[dict] = (),
                 namespaces: Iterable[dict] = (),
                 nodes: Iterable[dict] = (),
                 services: Iterable[dict] = (),
                 slices: Iterable[dict] = (),
                 policies: Mapping[str, Iterable[dict]] = {},
                 options: statements.Options = statements.Options()):
        self.options = options
        self.pods = list(pods)
        self.nodes = list(nodes)
        self.services = list(services)
        self.slices = list(slices)
        self._namespaces = {
            obj['metadata']['name']: obj['metadata'].get('labels') or {}
            for obj in namespaces}
        self._peers: dict[str, statements.Peer] = {}
        self._find_peers()
        self.statements = [
            statement for kind, objects in policies.items()
            for obj in objects for statement in _READERS[kind](obj, self)]

    def namespace_labels(self, name: str) -> Optional[dict[str, str]]:
        """A namespace's labels; None if there is no such namespace."""
        return self._namespaces.get(name)

    def peer(self, address: str) -> statements.Peer:
        """Who has an address."""
        parsed = ipaddress.ip_address(address)
        return self._peers.get(str(parsed)) or statements.Peer(parsed)

    def path(self, source: str, destination: str, protocol: int,
             port: Optional[int] = None) -> Path:
        """May an address open a connection to another one?

        :param protocol: IANA number.
        :param port: destination port; ``type << 8 | code`` of ICMP and
            ICMPv6; None if the protocol has none.
        """
        decisions: list[Optional[Decision]] = []
        for one, other, direction in (
                (source, destination, statements.EGRESS),
                (destination, source, statements.INGRESS)):
            pod = self.peer(one).pod
            decisions.append(None if pod is None else self.judge(
                pod, direction, other, protocol, port))
        return Path(*decisions)

    def judge(self, pod: dict, direction: str, address: str, protocol: int,
              port: Optional[int] = None) -> Decision:
        """Judge a packet at one end.

        :param pod: the pod whose end it is; one that policy applies to.
        :param direction: ``ingress`` or ``egress``.
        :param address: the other end's.
        """
        peer = self.peer(address)
        own = (peer.node is not None and peer.node['metadata']['name'] ==
               pod['spec'].get('nodeName'))
        if own and direction == statements.INGRESS:
            return NODE
        packet = statements.Packet(pod, direction, peer, protocol, port)
        said = [statement for statement in self.statements
                if statement.subject(pod)]
        isolated = any(direction in statement.isolates
                       for statement in said)
        for tier in statements.TIERS:
            decision = self._ask(tier, said, packet)
            if decision is not None:
                return decision
            if tier == statements.NETWORK_POLICY and isolated:
                if (own and direction == statements.EGRESS
                        and self.options.allow_egress_to_own_node):
                    return NODE
                return ISOLATED
        return DEFAULT

    def _ask(self, tier, said, packet):
        """What a tier decides; None if it leaves it to the next one."""
        matching = [
            (rule.priority, statements.ACTIONS.index(rule.action),
             '%s %s' % (statement.name, rule.name))
            for statement in said for rule in statement.rules
            if rule.direction == packet.direction and rule.tier == tier
            and rule.peers(packet) and rule.ports(packet)]
        if not matching:
            return None
        first = min(matching)[:2]
        action = statements.ACTIONS[first[1]]
        if action == statements.PASS:
            return None
        return Decision(action == statements.ALLOW,
                        tuple(sorted(name for *place, name in matching
                                     if tuple(place) == first)), tier)

    def _find_peers(self):
        """Give each address to one pod or node.

        An address may be given to a new pod before the old one's deletion is
        seen. Nodes come first, then pods that are not being deleted, then
        the one that was made last.
        """
        claims: dict[str, list[tuple]] = {}
        for pod in self.pods:
            metadata = pod['metadata']
            for address in addresses(pod):
                claims.setdefault(address, []).append((
                    (not metadata.get('deletionTimestamp'),
                     metadata.get('creationTimestamp') or '',
                     metadata['uid']), pod))
        for address, found in claims.items():
            self._peers[address] = statements.Peer(
                ipaddress.ip_address(address), pod=max(
                    found, key=lambda claim: claim[0])[1])
        for node in self.nodes:
            for address in node_addresses(node):
                self._peers[address] = statements.Peer(
                    ipaddress.ip_address(address), node=node)


def applies_to(pod: Mapping[str, Any]) -> bool:
    """Whether policy applies to a pod.

    Not to one in its node's network: its traffic is the node's. Not to one
    that has ended: its address may be another's already.
    """
    return (not pod['spec'].get('hostNetwork') and
            (pod.get('status') or {}).get('phase')
            not in ('Succeeded', 'Failed'))


def addresses(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of a pod's VIF; none if policy does not apply to it."""
    text = (pod['metadata'].get('annotations') or {}).get(vif.ANNOTATION)
    if text is None or not applies_to(pod):
        return ()
    try:
        return vif.facts(text).addresses
    except exceptions.InvalidVIF:
        return ()


def node_addresses(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of a node that are addresses, not names."""
    found = []
    for item in (node.get('status') or {}).get('addresses') or ():
        try:
            found.append(str(ipaddress.ip_address(item.get('address'))))
        except ValueError:
            continue
    return tuple(found)
