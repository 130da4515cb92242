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

"""Which addresses each selector of the policies in force matches.

Pods, namespaces, nodes, services and EndpointSlices are set here, in any
order; selectors are watched as long as a policy names them. Every change
notes what it has touched, and costs as much as that.
"""

import collections
import dataclasses
from typing import Any, Iterable, Mapping, Optional

from kuryr_cilium.policy import backends
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import index
from kuryr_cilium.policy import members
from kuryr_cilium.policy import model
from kuryr_cilium.policy import named
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import owners
from kuryr_cilium.policy import pods as pods_
from kuryr_cilium.policy import selectors

_REMOTE_NODE = (entities.REMOTE_NODE,)
_CLUSTER = (entities.REMOTE_NODE, entities.CLUSTER)
#: What a node has to be sent to tell the addresses of an entity. A node
#: knows itself, and the world is what is nothing else. So it is with blocks
#: that mean only what is outside the cluster.
_SENT = {entities.HOST: _REMOTE_NODE, entities.REMOTE_NODE: _REMOTE_NODE,
         entities.CLUSTER: _CLUSTER, entities.WORLD: _CLUSTER}
_DEFINITIONS = {name: selectors.Entity(name).definition for name in _CLUSTER}


@dataclasses.dataclass(slots=True)
class Touched:
    """What a change has touched.

    :ivar pieces: selector with other members -> keys of its pieces that are
        different (see members.Members).
    :ivar flips: pods that selectors match from now on, or no more.
    :ivar keys: named ports that have other numbers.
    """

    pieces: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    flips: list[index.Flip] = dataclasses.field(default_factory=list)
    keys: set[named.Key] = dataclasses.field(default_factory=set)


class Peers:
    """Whatever has addresses, and what selects it."""

    def __init__(self):
        self.members = members.Members()
        self._index = index.Index()
        self._nodes = index.Index()
        self._backends = backends.Backends()
        self._owners = owners.Owners()
        self._named = named.NamedPorts()
        self._pods: dict[str, pods_.Pod] = {}
        self._node_owners: set[str] = set()
        # Owner -> its addresses.
        self._found: dict[str, model.Member] = {}
        self._uses: collections.Counter[str] = collections.Counter()
        # Ids of blocks that leave out what the cluster has.
        self._outside: set[str] = set()
        # Selectors of named ports in use, by key, and by the id of the
        # services that their pods have to be behind.
        self._by_key: dict[named.Key, dict[str, selectors.Named]] = {}
        self._behind: dict[str, dict[str, selectors.Named]] = {}

    @property
    def pods(self) -> Mapping[str, pods_.Pod]:
        """Pods by UID."""
        return self._pods

    def matchers(self, uid: str) -> Iterable[index.Matcher]:
        """The selectors of pods that match a pod, subjects too."""
        return self._index.matchers(uid)

    def numbers(self, key: named.Key) -> Iterable[int]:
        """The numbers of a named port that is watched."""
        return self._named.numbers(key)

    def pod(self, address: str) -> Optional[pods_.Pod]:
        """The pod that has an address."""
        return self.pods.get(self._owners.owner(address))

    def set_pod(self, pod: pods_.Pod, touched: Touched) -> None:
        """A pod is new or different."""
        before = self._pods.get(pod.uid)
        self._pods[pod.uid] = pod
        if before is None or (pod.addresses, pod.rank) != (
                before.addresses, before.rank):
            self._moved(self._owners.claim(pod.uid, pod.addresses, pod.rank),
                        touched)
        if before is None or (pod.namespace, pod.labels) != (
                before.namespace, before.labels):
            self._flipped(self._index.set_pod(
                pod.uid, pod.namespace, dict(pod.labels)), touched)
        if before is not None and pod.ports != before.ports:
            for matcher in self._index.matchers(pod.uid):
                self._refresh(matcher, pod.uid, touched)

    def delete_pod(self, uid: str, touched: Touched) -> None:
        """A pod that is known is gone."""
        self._flipped(self._index.delete_pod(uid), touched)
        del self._pods[uid]
        self._moved(self._owners.claim(uid, (), ()), touched)

    def set_namespace(self, name: str, labels: Mapping[str, str],
                      touched: Touched) -> None:
        """A namespace was added or modified."""
        self._flipped(self._index.set_namespace(name, labels), touched)

    def delete_namespace(self, name: str, touched: Touched) -> None:
        """A namespace is gone. Idempotent."""
        self._flipped(self._index.delete_namespace(name), touched)

    def set_node(self, obj: Mapping[str, Any], touched: Touched) -> None:
        """A node was added or modified: its addresses are no pod's."""
        name = obj['metadata']['name']
        owner = 'node/' + name
        self._node_owners.add(owner)
        self._moved(self._owners.claim(owner, pods_.node_addresses(obj),
                                       (2, '', name)), touched)
        for flip in self._nodes.set_pod(
                owner, '', obj['metadata'].get('labels') or {}):
            self._put(flip.matcher.id, owner, self._found.get(owner)
                      if flip.matches else None, touched)

    def delete_node(self, name: str, touched: Touched) -> None:
        """A node is gone. Idempotent."""
        owner = 'node/' + name
        for flip in self._nodes.delete_pod(owner):
            self._put(flip.matcher.id, owner, None, touched)
        self._node_owners.discard(owner)
        self._moved(self._owners.claim(owner, (), ()), touched)

    def set_service(self, obj: Mapping[str, Any], touched: Touched) -> None:
        """A service was added or modified."""
        self._rebacked(self._backends.set_service(obj), touched)

    def delete_service(self, uid: str, touched: Touched) -> None:
        """A service is gone. Idempotent."""
        self._rebacked(self._backends.delete_service(uid), touched)

    def set_slice(self, obj: Mapping[str, Any], touched: Touched) -> None:
        """An EndpointSlice was added or modified."""
        self._rebacked(self._backends.set_slice(obj), touched)

    def delete_slice(self, uid: str, touched: Touched) -> None:
        """An EndpointSlice is gone. Idempotent."""
        self._rebacked(self._backends.delete_slice(uid), touched)

    def sent(self, selector_id: str) -> tuple[str, ...]:
        """Ids of the selectors that stand for a watched one on the wire."""
        return _SENT.get(selector_id) or (
            (selector_id, *_CLUSTER) if selector_id in self._outside
            else (selector_id,))

    def watch_subject(self, selector: selectors.Pods) -> None:
        """Keep which pods a policy is about, until unwatch_subject()."""
        self._index.watch(selector)

    def subjects(self, selector: selectors.Pods) -> set[str]:
        """UIDs of the pods that a subject means."""
        return self._index.matcher(selector.id).uids

    def unwatch_subject(self, selector: selectors.Pods) -> None:
        """Undo one watch_subject()."""
        self._index.unwatch(selector.id)

    def watch_port(self, key: named.Key) -> None:
        """Keep the numbers of a named port, until unwatch_port()."""
        matcher = self._index.watch(key.pods)
        if self._named.watch(key):
            for uid in matcher.uids:
                self._named.set_pod(key, uid, self._pods[uid].ports)

    def unwatch_port(self, key: named.Key) -> None:
        """Undo one watch_port()."""
        self._named.unwatch(key)
        self._index.unwatch(key.pods.id)

    def watch(self, peer: selectors.Peer) -> None:
        """Keep the members of a selector, until as many unwatch()."""
        if isinstance(peer, selectors.Block) and peer.block.outside:
            self._outside.add(peer.id)
        for selector_id in self.sent(peer.id):
            self._uses[selector_id] += 1
            if self._uses[selector_id] == 1:
                self._hold(selector_id, peer)

    def unwatch(self, peer: selectors.Peer) -> None:
        """Undo one watch."""
        for selector_id in self.sent(peer.id):
            self._uses[selector_id] -= 1
            if not self._uses[selector_id]:
                del self._uses[selector_id]
                self._release(selector_id, peer)
        if not self._uses[peer.id]:
            self._outside.discard(peer.id)

    def _hold(self, selector_id, peer):
        held = Touched()
        if selector_id in _DEFINITIONS:
            self.members.hold(selector_id, _DEFINITIONS[selector_id])
            for uid in (self._pods if selector_id == entities.CLUSTER
                        else self._node_owners):
                self._put(selector_id, uid, self._found.get(uid), held)
            return
        self.members.hold(
            selector_id, peer.definition,
            peer.block if isinstance(peer, selectors.Block) else None)
        if isinstance(peer, selectors.Pods):
            for uid in self._index.watch(peer).uids:
                self._put(selector_id, uid, self._found.get(uid), held)
        elif isinstance(peer, selectors.Nodes):
            matcher = self._nodes.watch(
                selectors.Pods(peer.nodes, namespace=''), selector_id)
            for uid in matcher.uids:
                self._put(selector_id, uid, self._found.get(uid), held)
        elif isinstance(peer, selectors.Services):
            self._rebacked(self._backends.watch(peer), held)
        elif isinstance(peer, selectors.Named):
            key = _key(peer)
            self._by_key.setdefault(key, {})[selector_id] = peer
            if peer.behind is not None:
                self.watch(peer.behind)
                self._behind.setdefault(peer.behind.id, {})[
                    selector_id] = peer
            for uid in self._named.uids(key, peer.port):
                self._put_named(peer, uid, self._found.get(uid), held)

    def _release(self, selector_id, peer):
        self.members.drop(selector_id)
        if isinstance(peer, selectors.Pods):
            self._index.unwatch(selector_id)
        elif isinstance(peer, selectors.Nodes):
            self._nodes.unwatch(selector_id)
        elif isinstance(peer, selectors.Services):
            self._backends.unwatch(peer)
        elif isinstance(peer, selectors.Named):
            _take_out(self._by_key, _key(peer), selector_id)
            if peer.behind is not None:
                _take_out(self._behind, peer.behind.id, selector_id)
                self.unwatch(peer.behind)

    def _put(self, selector_id, uid, member, touched):
        pieces = self.members.put(selector_id, uid, member)
        if pieces:
            touched.pieces.setdefault(selector_id, set()).update(pieces)

    def _put_named(self, peer, uid, member, touched):
        if member is not None:
            member = _with(member, tuple(
                address for address in named.inside(member.addresses,
                                                    peer.within)
                if peer.behind is None
                or self._backends.means(peer.behind.id, address)))
        self._put(peer.id, uid, member, touched)

    def _flipped(self, flips, touched):
        touched.flips += flips
        for flip in flips:
            self._refresh(flip.matcher, flip.uid, touched)

    def _refresh(self, matcher, uid, touched):
        """A pod as it is now, to all that a selector of pods stands for."""
        pod = self._pods.get(uid) if uid in matcher.uids else None
        member = self._found.get(uid) if pod is not None else None
        if matcher.id in self.members:
            self._put(matcher.id, uid, member, touched)
        for key in self._named.of(matcher.id):
            ports = pod.ports if pod is not None else {}
            if self._named.set_pod(key, uid, ports):
                touched.keys.add(key)
            numbers = ports.get(key.port, ())
            for peer in self._by_key.get(key, {}).values():
                self._put_named(peer, uid, member if peer.port in numbers
                                else None, touched)

    def _moved(self, moved, touched):
        """Addresses have other owners."""
        for owner in {owner for pair in moved.values() for owner in pair}:
            if owner is not None:
                self._owned(owner, touched)
        for address, pair in moved.items():
            for selector_id in self._backends.selectors(address):
                for owner in pair:
                    self._back(selector_id, owner, address, touched)

    def _owned(self, owner, touched):
        """Take over what an owner has now."""
        owned = self._owners.owned(owner)
        is_node = owner in self._node_owners
        before = self._found.pop(owner, None)
        now: Optional[model.Member] = None
        if owned and (is_node or owner in self._pods):
            now = self._found[owner] = model.Member(
                owner, owned, entities.Entity.REMOTE_NODE if is_node
                else entities.Entity.POD)
        if now == before:
            return
        # A node that has gone is no node any more.
        for index_, everything in (
                (self._nodes, entities.REMOTE_NODE),
                (self._index, entities.CLUSTER)):
            wanted = is_node == (everything == entities.REMOTE_NODE)
            if everything in self.members:
                self._put(everything, owner, now if wanted else None,
                          touched)
            if not wanted:
                continue
            for matcher in index_.matchers(owner):
                if is_node:
                    self._put(matcher.id, owner, now, touched)
                else:
                    self._refresh(matcher, owner, touched)

    def _rebacked(self, different, touched):
        for selector_id, address in different:
            self._back(selector_id, self._owners.owner(address), address,
                       touched)

    def _back(self, selector_id, owner, address, touched):
        """Who stands behind an address, to a selector of services.

        :param owner: who has it or had it; None if nobody.
        """
        if owner is None:
            uid = 'address/' + address
            member = model.Member(uid, (address,), entities.Entity.WORLD)
            if (self._owners.owner(address) is not None or
                    not self._backends.means(selector_id, address)):
                member = None
        else:
            uid, member = owner, self._found.get(owner)
            for peer in self._behind.get(selector_id, {}).values():
                self._put_named(
                    peer, owner, member if owner in self._named.uids(
                        _key(peer), peer.port) else None, touched)
            if member is not None:
                member = _with(member, tuple(
                    item for item in member.addresses
                    if self._backends.means(selector_id, item)))
        self._put(selector_id, uid, member, touched)


def _with(member, addresses):
    """A member with some of its addresses; None without any."""
    return dataclasses.replace(
        member, addresses=addresses) if addresses else None


def _take_out(found, key, selector_id):
    del found[key][selector_id]
    if not found[key]:
        del found[key]


def _key(peer):
    return named.Key(peer.pods, normal.NamedPort(peer.protocol, peer.name))
