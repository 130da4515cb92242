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

"""What the controller compiles of the API's objects, worked out here. Pure.

The same code as the controller's, on the objects of one moment: so it says
what a node should have loaded.
"""

import dataclasses
import functools
import ipaddress
from typing import Iterable, Mapping, Optional

from kuryr_cilium.cli import cluster as cluster_
from kuryr_cilium import exceptions
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import pods
from kuryr_cilium.policy import world


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What one direction of an endpoint says to one packet.

    :ivar verdict: 'allow', 'deny' (by a rule, or by a limit), 'drop' (no
        rule allows it).
    :ivar reason: name of the drop reason, '' if allowed.
    :ivar rules: names of the rules of the group that decided.
    :ivar tier: name of its tier, '' if no group decided.
    :ivar ruleset: id of the ruleset; '' where there is none.
    """

    verdict: str
    reason: str = ''
    rules: tuple[str, ...] = ()
    tier: str = ''
    ruleset: str = ''


class Compiled:
    """The world that the objects of a cluster make.

    :param options: what the operator chose of the meaning of policies.
    """

    def __init__(self, cluster: cluster_.Cluster,
                 options: kinds.Options = kinds.Options()):
        self._cluster = cluster
        self._world = _world(cluster, options)
        self.policies: dict[str, tuple[normal.Policy, ...]] = {
            obj['metadata']['uid']: kinds.parse(kind, obj, options)
            for kind, found in cluster.policies.items() for obj in found}

    def endpoint(self, uid: str) -> Optional[model.Endpoint]:
        """A pod's endpoint; None if policy doesn't apply to the pod."""
        pod = self._cluster.by_uid.get(uid)
        if pod is None or not pod.host:
            return None
        return self._world.view(pod.host).get('endpoint:' + uid)

    def view(self, host: str) -> Mapping[str, world.Object]:
        """What a node should have."""
        return self._world.view(host)

    def judge(self, uid: str, direction: model.Direction, peer: str,
              protocol: int, port: int, is_host: bool = False
              ) -> Optional[Decision]:
        """Judge a packet as a node does that has the whole view.

        :param uid: of the pod whose policies are asked.
        :param peer: address of the other end.
        :param port: destination port; ``type << 8 | code`` of ICMP.
        :param is_host: the peer is the pod's own node.
        :returns: None if the pod has no endpoint.
        """
        endpoint = self.endpoint(uid)
        if endpoint is None:
            return None
        host = endpoint.host
        name = getattr(endpoint, direction.value)
        if name == model.ALLOW_ALL:
            return Decision('allow', ruleset=name)
        if name == model.DENY_ALL:
            return Decision('deny', 'policy-deny', ruleset=name)
        ruleset = self._world.view(host)['ruleset:' + name]
        try:
            table = _table(ruleset)
        except exceptions.RuleSetTooLarge:
            return Decision('deny', 'policy-deny', ruleset=model.DENY_ALL)
        entity = self._entity(host, peer, is_host)
        group = compiler.judge(table, self._matching(host, peer, entity),
                               entity, protocol, port)
        if group is None:
            return Decision('drop', 'policy', ruleset=name)
        tier = ruleset.groups[group.bit].tier.name.lower()
        rules = (ruleset.names[group.bit]
                 if group.bit < len(ruleset.names) else ())
        if group.verdict is model.Verdict.ALLOW:
            return Decision('allow', '', rules, tier, name)
        return Decision('deny', 'policy-deny', rules, tier, name)

    def selecting(self, uid: str) -> Iterable[normal.Policy]:
        """The policies whose subject a pod is."""
        pod = self._cluster.by_uid.get(uid)
        if pod is None:
            return ()
        namespace = {labels.NAMESPACE_NAME: pod.namespace,
                     **self._labels.get(pod.namespace, {})}
        return [policy for found in self.policies.values()
                for policy in found if policy.subject is not None
                and policy.subject.matches(pod.namespace, namespace,
                                           dict(pod.labels))]

    @functools.cached_property
    def _labels(self):
        return {obj['metadata']['name']: obj['metadata'].get('labels') or {}
                for obj in self._cluster.namespaces}

    @functools.cached_property
    def _nodes(self):
        return {address: obj['metadata']['name']
                for obj in self._cluster.nodes
                for address in pods.node_addresses(obj)}

    def _matching(self, host, peer, entity):
        """Ids of the selectors of a node's view that match an address."""
        address = ipaddress.ip_address(peer)

        def matches(selector):
            if any(peer in member.addresses for member in selector.members):
                return True
            return (selector.block is not None
                    and _within(address, selector.block)
                    and (entity is entities.Entity.WORLD
                         or not selector.block.outside))

        # What entities match follows from the peer's entity alone.
        return frozenset(
            obj.id for obj in self._world.view(host).values()
            if isinstance(obj, model.Selector)
            and not obj.id.startswith('entity:') and matches(obj))

    def _entity(self, host, peer, is_host):
        node = self._nodes.get(peer)
        if is_host or node == host:
            return entities.Entity.HOST
        if node is not None:
            return entities.Entity.REMOTE_NODE
        if any(peer in pod.addresses for pod in self._cluster.by_uid.values()):
            return entities.Entity.POD
        return entities.Entity.WORLD


@functools.lru_cache(maxsize=64)
def _table(ruleset):
    return compiler.compile_ruleset(ruleset)


def _within(address, block):
    """Whether a block has an address, and no except of it."""
    def covers(text):
        network = ipaddress.ip_network(text)
        return network.version == address.version and address in network

    return covers(block.cidr) and not any(map(covers, block.excepts))


def _world(cluster, options):
    made = world.World(options)
    for obj in cluster.nodes:
        made.set_node(obj)
    for obj in cluster.namespaces:
        made.set_namespace(obj)
    for obj in cluster.services:
        made.set_service(obj)
    for obj in cluster.slices:
        made.set_slice(obj)
    for kind, found in cluster.policies.items():
        for obj in found:
            made.set_policy(kind, obj)
    # Last: so each endpoint is derived once.
    for obj in cluster.pods:
        made.set_pod(obj)
    return made
