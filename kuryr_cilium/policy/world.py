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

import dataclasses
from typing import Any, Iterable, Mapping, Union

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import index
from kuryr_cilium.policy import inuse
from kuryr_cilium.policy import model
from kuryr_cilium.policy import networkpolicy
from kuryr_cilium.policy import owners
from kuryr_cilium.policy import pods

Object = Union[model.Selector, model.RuleSet, model.Endpoint]


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What one change made different in views.

    :ivar selectors: ids of selectors that have other members (those that
        some view has).
    :ivar rulesets: ids of rulesets that are new, gone or have other names.
    :ivar endpoints: UID -> node; of one that has gone, the node it was on.
    :ivar hosts: the nodes whose views are different.
    """

    selectors: frozenset[str] = frozenset()
    rulesets: frozenset[str] = frozenset()
    endpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hosts: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hosts)


class _Batch:
    """What is different since a change began."""

    def __init__(self):
        self.matchers = set()
        self.uids = set()
        self.rulesets = set()
        self.endpoints = {}
        self.hosts = set()


class World:
    """Pods, namespaces, nodes and policies, and the views made of them."""

    def __init__(self):
        self._index = index.Index()
        self._owners = owners.Owners()
        self._pods: dict[str, pods.Pod] = {}
        self._members: dict[str, model.Member] = {}
        self._policies: dict[str, inuse.Version] = {}
        # Selector id -> UIDs of the policies whose subject it is.
        self._subjects: dict[str, set[str]] = {}
        self._fastpath: frozenset[str] = frozenset()
        self._endpoints: dict[str, model.Endpoint] = {}
        self._local: dict[str, set[str]] = {}
        self._inuse = inuse.InUse()
        self._combined: dict[tuple[str, model.Direction],
                             inuse.Combination] = {}
        self._selectors: dict[str, model.Selector] = {}
        self._views: dict[str, dict[str, Object]] = {}

    def set_pod(self, obj: Mapping[str, Any]) -> Changes:
        """A pod was added or modified."""
        uid = obj['metadata']['uid']
        before = self._pods.get(uid)
        pod = pods.read(obj, before)
        if pod is None:
            return self.delete_pod(uid)
        if pod == before:
            return Changes()
        batch = _Batch()
        self._pods[uid] = pod
        batch.uids.add(uid)
        self._claim(uid, pod.addresses, pod.rank, batch)
        self._flipped(self._index.set_pod(uid, pod.namespace,
                                          dict(pod.labels)), batch)
        return self._finish(batch)

    def delete_pod(self, uid: str) -> Changes:
        """A pod is gone. Idempotent."""
        if uid not in self._pods:
            return Changes()
        batch = _Batch()
        batch.uids.add(uid)
        # Its selectors are marked while it still has its addresses.
        self._flipped(self._index.delete_pod(uid), batch)
        del self._pods[uid]
        self._claim(uid, (), (), batch)
        return self._finish(batch)

    def set_namespace(self, obj: Mapping[str, Any]) -> Changes:
        """A namespace was added or modified."""
        batch = _Batch()
        self._flipped(self._index.set_namespace(
            obj['metadata']['name'],
            obj['metadata'].get('labels') or {}), batch)
        return self._finish(batch)

    def delete_namespace(self, name: str) -> Changes:
        """A namespace is gone. Idempotent."""
        batch = _Batch()
        self._flipped(self._index.delete_namespace(name), batch)
        return self._finish(batch)

    def set_node(self, obj: Mapping[str, Any]) -> Changes:
        """A node was added or modified: its addresses are no pod's."""
        batch = _Batch()
        name = obj['metadata']['name']
        self._claim('node/' + name, pods.node_addresses(obj),
                    (2, '', name), batch)
        return self._finish(batch)

    def delete_node(self, name: str) -> Changes:
        """A node is gone. Idempotent."""
        batch = _Batch()
        self._claim('node/' + name, (), (), batch)
        return self._finish(batch)

    def set_policy(self, obj: Mapping[str, Any]) -> Changes:
        """A NetworkPolicy was added or modified."""
        return self._replace_policy(obj['metadata']['uid'],
                                    networkpolicy.parse(obj))

    def delete_policy(self, uid: str) -> Changes:
        """A policy is gone. Idempotent."""
        return self._replace_policy(uid, None)

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
            view = self._make_view(host)
            if view:
                self._views[host] = view
        return view

    def hosts(self) -> frozenset[str]:
        """Nodes that have endpoints."""
        return frozenset(self._local)

    def problems(self) -> dict[str, list[fields.Problem]]:
        """Policies that can't be expressed: UID -> why."""
        return {uid: list(version.policy.problems)
                for uid, version in self._policies.items()
                if version.policy.problems}

    def pod_problems(self) -> dict[str, fields.Problem]:
        """Pods whose annotation can't be read: UID -> why."""
        return {uid: pod.problem for uid, pod in self._pods.items()
                if pod.problem}

    def _replace_policy(self, uid, policy):
        version = self._policies.get(uid)
        before = version.policy if version else None
        if policy == before:
            return Changes()
        batch = _Batch()
        if policy is not None:
            self._policies[uid] = inuse.Version(policy)
            for selector in _selectors(policy):
                self._index.watch(selector)
            self._subjects.setdefault(policy.subject.id, set()).add(uid)
            batch.uids |= self._index.matcher(policy.subject.id).uids
        else:
            del self._policies[uid]
        if before is not None:
            batch.uids |= self._index.matcher(before.subject.id).uids
            if policy is None or policy.subject != before.subject:
                found = self._subjects[before.subject.id]
                found.discard(uid)
                if not found:
                    del self._subjects[before.subject.id]
        self._settle(batch)
        for selector in _selectors(before) if before else ():
            if not self._index.unwatch(selector):
                self._selectors.pop(selector.id, None)
        return self._finish(batch)

    def _claim(self, owner, addresses, rank, batch):
        for uid in self._owners.claim(owner, addresses, rank):
            owned = self._owners.owned(uid)
            before = self._members.get(uid)
            if owned == (before.addresses if before else ()):
                continue
            if uid in self._pods and owned:
                self._members[uid] = model.Member(uid, owned)
            elif before:
                del self._members[uid]
            batch.matchers.update(self._index.matchers(uid))

    def _flipped(self, flips, batch):
        for flip in flips:
            if flip.uid in self._members:
                batch.matchers.add(flip.matcher)
            if flip.matcher.id in self._subjects:
                batch.uids.add(flip.uid)

    def _finish(self, batch):
        self._settle(batch)
        selectors = set()
        for matcher in batch.matchers:
            self._selectors.pop(matcher.id, None)
            for ruleset_id in self._inuse.naming(matcher.id):
                selectors.add(matcher.id)
                batch.hosts.update(self._inuse.hosts(ruleset_id))
        for ruleset_id in batch.rulesets:
            batch.hosts.update(self._inuse.hosts(ruleset_id))
        for host in batch.hosts:
            self._views.pop(host, None)
        return Changes(frozenset(selectors), frozenset(batch.rulesets),
                       batch.endpoints, frozenset(batch.hosts))

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
        pod = self._pods.get(uid)
        present = pod is not None and pod.facts and pod.host
        versions = [
            self._policies[policy] for matcher in self._index.matchers(uid)
            for policy in self._subjects.get(matcher.id, ())]
        ids = {}
        for direction in model.Direction:
            key = uid, direction
            old = self._combined.pop(key, None)
            if present:
                new = inuse.combination(direction, versions)
                self._combined[key] = new
                ids[direction] = self._inuse.join(new, pod.host,
                                                  batch.rulesets)
            if old is not None:
                self._inuse.leave(old, before.host, batch.rulesets)
        if not present:
            return None
        return model.Endpoint(
            uid=uid, namespace=pod.namespace, name=pod.name, host=pod.host,
            vif_id=pod.facts.vif_id, mac=pod.facts.mac,
            network_id=pod.facts.network_id, addresses=pod.facts.addresses,
            ingress=ids[model.Direction.INGRESS],
            egress=ids[model.Direction.EGRESS],
            fastpath=pod.facts.vif_id in self._fastpath)

    def _make_view(self, host):
        view: dict[str, Object] = {}
        for uid in self._local.get(host, ()):
            endpoint = self._endpoints[uid]
            view['endpoint:' + uid] = endpoint
            for ruleset_id in (endpoint.ingress, endpoint.egress):
                ruleset = self._inuse.get(ruleset_id)
                if ruleset is None or 'ruleset:' + ruleset_id in view:
                    continue
                view['ruleset:' + ruleset_id] = ruleset
                for selector_id in self._inuse.peers(ruleset_id):
                    view['selector:' + selector_id] = self._selector(
                        selector_id)
        return view

    def _selector(self, selector_id):
        selector = self._selectors.get(selector_id)
        if selector is None:
            matcher = self._index.matcher(selector_id)
            members = [self._members[uid] for uid in matcher.uids
                       if uid in self._members]
            selector = model.Selector(
                selector_id, matcher.selector.definition,
                tuple(sorted(members, key=lambda member: member.uid)))
            self._selectors[selector_id] = selector
        return selector


def _selectors(policy):
    """Every selector that a policy uses, its subject too."""
    yield policy.subject
    for rule in policy.rules:
        yield from rule.peers or ()
