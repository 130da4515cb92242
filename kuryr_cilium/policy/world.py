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

"""The cluster as policy sees it, and each node's view of it.

What is set here is the state of API objects; the order in which they come
does not matter. Every change says what of the views it has changed. Not
safe for threads: the caller has a lock.
"""

import collections
import dataclasses
from typing import Any, Iterable, Mapping, Optional, Union

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import inuse
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import peers
from kuryr_cilium.policy import pods
from kuryr_cilium.policy import policies
from kuryr_cilium.policy import selectors

Object = Union[model.Selector, model.RuleSet, model.Endpoint]
Piece = Union[Object, model.Members]


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What one change made different in views.

    :ivar selectors: ids of selectors that have other members (those that
        some view has).
    :ivar pieces: keys of the pieces of them that are different, or gone.
    :ivar rulesets: ids of rulesets that are new, gone or have other names.
    :ivar endpoints: UID -> node; of one that has gone, the node it was on.
    :ivar hosts: the nodes whose views are different.
    """

    selectors: frozenset[str] = frozenset()
    rulesets: frozenset[str] = frozenset()
    endpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hosts: frozenset[str] = frozenset()
    pieces: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hosts)


class _Batch(peers.Touched):
    """What is different since a change began."""

    def __init__(self):
        super().__init__()
        self.uids = set()
        self.rulesets = set()
        self.endpoints = {}
        self.hosts = set()


class World:
    """Pods, namespaces, nodes, services and policies, and views of them.

    :param options: what the operator has chosen of what policies mean.
    """

    def __init__(self, options: kinds.Options = kinds.Options()):
        self._peers = peers.Peers()
        self._policies = policies.Policies(self._peers, options)
        self._fastpath: frozenset[str] = frozenset()
        self._endpoints: dict[str, model.Endpoint] = {}
        self._local: dict[str, set[str]] = {}
        self._inuse = inuse.InUse(self._peers.sent, options.own_node)
        # UID -> what judges each direction.
        self._combined: dict[str, tuple[inuse.Combination, ...]] = {}
        # What is made for nodes, until something of it is different.
        self._keys: dict[str, tuple[list[str], list[str]]] = {}
        self._views: dict[str, dict[str, Object]] = {}
        if options.own_node:
            self._peers.watch(selectors.Entity(entities.HOST))

    def set_pod(self, obj: Mapping[str, Any]) -> Changes:
        """A pod was added or modified."""
        uid = obj['metadata']['uid']
        before = self._peers.pods.get(uid)
        pod = pods.read(obj, before)
        if pod is None:
            return self.delete_pod(uid)
        if pod == before:
            return Changes()
        batch = _Batch()
        batch.uids.add(uid)
        self._peers.set_pod(pod, batch)
        return self._finish(batch)

    def delete_pod(self, uid: str) -> Changes:
        """A pod is gone. Idempotent."""
        if uid not in self._peers.pods:
            return Changes()
        batch = _Batch()
        batch.uids.add(uid)
        self._peers.delete_pod(uid, batch)
        return self._finish(batch)

    def set_namespace(self, obj: Mapping[str, Any]) -> Changes:
        """A namespace was added or modified."""
        return self._change(self._peers.set_namespace,
                            obj['metadata']['name'],
                            obj['metadata'].get('labels') or {})

    def delete_namespace(self, name: str) -> Changes:
        """A namespace is gone. Idempotent."""
        return self._change(self._peers.delete_namespace, name)

    def set_node(self, obj: Mapping[str, Any]) -> Changes:
        """A node was added or modified: its addresses are no pod's."""
        return self._change(self._peers.set_node, obj)

    def delete_node(self, name: str) -> Changes:
        """A node is gone. Idempotent."""
        return self._change(self._peers.delete_node, name)

    def set_service(self, obj: Mapping[str, Any]) -> Changes:
        """A service was added or modified."""
        return self._change(self._peers.set_service, obj)

    def delete_service(self, uid: str) -> Changes:
        """A service is gone. Idempotent."""
        return self._change(self._peers.delete_service, uid)

    def set_slice(self, obj: Mapping[str, Any]) -> Changes:
        """An EndpointSlice was added or modified."""
        return self._change(self._peers.set_slice, obj)

    def delete_slice(self, uid: str) -> Changes:
        """An EndpointSlice is gone. Idempotent."""
        return self._change(self._peers.delete_slice, uid)

    def set_policy(self, kind: str, obj: Mapping[str, Any]) -> Changes:
        """A policy was added or modified.

        :param kind: one of kinds.PARSERS.
        """
        return self._replace(obj['metadata']['uid'], kind,
                             self._policies.parse(kind, obj))

    def isolate(self, kind: str, obj: Mapping[str, Any]) -> Changes:
        """A policy can't be handled: deny whatever it may be about."""
        return self._replace(obj['metadata']['uid'], kind,
                             (self._policies.strictest(kind, obj),))

    def delete_policy(self, uid: str) -> Changes:
        """A policy is gone. Idempotent."""
        return self._replace(uid, None, ())

    def set_fastpath(self, vif_ids: Iterable[str]) -> Changes:
        """All the ports on which Neutron has nothing to enforce."""
        vif_ids = frozenset(vif_ids)
        different = vif_ids ^ self._fastpath
        self._fastpath = vif_ids
        batch = _Batch()
        if different:
            batch.uids.update(
                uid for uid, endpoint in self._endpoints.items()
                if endpoint.vif_id in different)
        return self._finish(batch)

    def view(self, host: str) -> Mapping[str, Object]:
        """What a node needs.

        The keys are ``endpoint:UID``, ``ruleset:ID`` and ``selector:ID``.
        The mapping is not changed later; as long as nothing in it is
        different the same one is returned.
        """
        view = self._views.get(host)
        if view is None:
            keys, selector_ids = self._needed(host)
            view = {key: self.piece(key) for key in keys}
            for selector_id in selector_ids:
                view['selector:' + selector_id] = (
                    self._peers.members.selector(selector_id))
            if view:
                self._views[host] = view
        return view

    def pieces(self, host: str) -> dict[str, Piece]:
        """What a node needs, as it is sent.

        As view(), but a selector with many members is a head and its parts:
        ``members:ID/NUMBER``.
        """
        keys, selector_ids = self._needed(host)
        found = {key: self.piece(key) for key in keys}
        for selector_id in selector_ids:
            for key in self._peers.members.keys(selector_id):
                found[key] = self._peers.members.piece(key)
        return found

    def piece(self, key: str) -> Optional[Piece]:
        """What is sent under a key, whatever node needs it; None if gone."""
        kind, _, name = key.partition(':')
        if kind == 'endpoint':
            return self._endpoints.get(name)
        if kind == 'ruleset':
            return self._inuse.get(name)
        return self._peers.members.piece(key)

    def uses(self, host: str, ruleset_id: str) -> bool:
        """Whether a node has endpoints that a ruleset judges."""
        return host in self._inuse.hosts(ruleset_id)

    def pod(self, address: str) -> Optional[pods.Pod]:
        """The pod that has an address."""
        return self._peers.pod(address)

    def hosts(self) -> frozenset[str]:
        """Nodes that have endpoints."""
        return frozenset(self._local)

    def problems(self) -> dict[str, list[fields.Problem]]:
        """Policies that can't be expressed: UID -> why."""
        return self._policies.problems()

    def counts(self) -> tuple[collections.Counter[str],
                              collections.Counter[str]]:
        """Policy objects by kind, and those of them with problems."""
        return self._policies.counts()

    def pod_problems(self) -> dict[str, fields.Problem]:
        """Pods whose annotation can't be read: UID -> why."""
        return {uid: pod.problem for uid, pod in self._peers.pods.items()
                if pod.problem}

    def _change(self, method, *arguments):
        batch = _Batch()
        method(*arguments, batch)
        return self._finish(batch)

    def _replace(self, uid: str, kind: Optional[str],
                 found: tuple[normal.Policy, ...]):
        batch = _Batch()
        with self._policies.replaced(uid, kind, found, batch.uids):
            self._settle(batch)
        return self._finish(batch)

    def _finish(self, batch):
        for flip in batch.flips:
            if self._policies.is_subject(flip.matcher.id):
                batch.uids.add(flip.uid)
        with self._policies.renumbered(batch.keys, batch.uids):
            self._settle(batch)
        pieces: dict[str, set[str]] = {}
        for selector_id, keys in batch.pieces.items():
            hosts = self._inuse.naming(selector_id)
            if hosts:
                pieces[selector_id] = keys
                batch.hosts.update(hosts)
        for ruleset_id in batch.rulesets:
            batch.hosts.update(self._inuse.hosts(ruleset_id))
        for host in batch.hosts if self._views else ():
            self._views.pop(host, None)
        return Changes(
            frozenset(pieces), frozenset(batch.rulesets),
            batch.endpoints, frozenset(batch.hosts),
            frozenset().union(*pieces.values()))

    def _settle(self, batch):
        """Derive the endpoints again that may be different."""
        for uid in batch.uids:
            before = self._endpoints.get(uid)
            endpoint = self._endpoint(uid, before, batch)
            if endpoint == before:
                continue
            for item in (before, endpoint):
                if item is not None:
                    batch.endpoints[uid] = item.host
                    batch.hosts.add(item.host)
                    self._keys.pop(item.host, None)
            if before is not None:
                self._local[before.host].discard(uid)
                if not self._local[before.host]:
                    del self._local[before.host]
            if endpoint is not None:
                self._endpoints[uid] = endpoint
                self._local.setdefault(endpoint.host, set()).add(uid)
            else:
                del self._endpoints[uid]
        batch.uids.clear()

    def _endpoint(self, uid, before, batch):
        """The endpoint of a pod as it is now, None if it has none."""
        pod = self._peers.pods.get(uid)
        present = pod is not None and pod.facts and pod.host
        old = self._combined.pop(uid, ())
        ids = []
        if present:
            new = self._policies.judging(uid).combinations(pod.ports)
            self._combined[uid] = new
            ids = [self._inuse.join(item, pod.host, batch.rulesets)
                   for item in new]
        for item in old:
            self._inuse.leave(item, before.host, batch.rulesets)
        if not present:
            return None
        return model.Endpoint(
            uid=uid, namespace=pod.namespace, name=pod.name, host=pod.host,
            vif_id=pod.facts.vif_id, mac=pod.facts.mac,
            network_id=pod.facts.network_id, addresses=pod.facts.addresses,
            ingress=ids[0], egress=ids[1],
            fastpath=pod.facts.vif_id in self._fastpath)

    def _needed(self, host):
        """Keys of a node's endpoints and rulesets, and ids of selectors."""
        found = self._keys.get(host)
        if found is None:
            rulesets: dict[str, None] = {}
            selector_ids: dict[str, None] = {}
            keys = []
            for uid in self._local.get(host, ()):
                endpoint = self._endpoints[uid]
                keys.append('endpoint:' + uid)
                for ruleset_id in (endpoint.ingress, endpoint.egress):
                    if self._inuse.get(ruleset_id) is not None:
                        rulesets[ruleset_id] = None
            for ruleset_id in rulesets:
                keys.append('ruleset:' + ruleset_id)
                selector_ids.update(dict.fromkeys(
                    self._inuse.peers(ruleset_id)))
            found = keys, list(selector_ids)
            if keys:
                self._keys[host] = found
        return found
