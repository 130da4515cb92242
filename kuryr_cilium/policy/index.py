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

"""Which selectors match which pods, kept up to date by what changes.

Both sides are indexed by labels: a pod finds the selectors that may match
it, a new selector finds the pods. So a change costs what it touches, not
the size of the cluster.

It takes whatever has labels and a namespace for a pod: nodes and services
have an index of their own, with selectors in the form of one of pods.
"""

import collections
import dataclasses
from typing import Iterable, Mapping, NamedTuple, Optional, Union

from kuryr_cilium.policy import labels
from kuryr_cilium.policy import selectors

#: See labels.anchors; None is one that everything has.
Anchor = Union[str, tuple[str, str], None]


@dataclasses.dataclass(slots=True, eq=False)
class Matcher:
    """A selector in use.

    :ivar place: where it looks: the name of a namespace, or what the labels
        of the namespaces must meet.
    :ivar uids: UIDs of the pods that it matches.
    :ivar uses: how often it was watched.
    """

    selector: selectors.Pods
    id: str
    place: Union[str, labels.LabelSelector]
    uids: set[str] = dataclasses.field(default_factory=set)
    uses: int = 0


class Flip(NamedTuple):
    """A pod that a selector matches from now on, or no more."""

    matcher: Matcher
    uid: str
    matches: bool


class Index:
    """Pods, namespaces and selectors."""

    def __init__(self):
        # uid -> (namespace, labels)
        self._pods: dict[str, tuple[str, dict[str, str]]] = {}
        self._of: dict[str, set[Matcher]] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._matchers: dict[str, Matcher] = {}
        # (namespace, anchor) -> UIDs; the anchor None is every pod.
        self._by_anchor: dict[tuple, set[str]] = {}
        # place -> anchor -> matchers that may match there.
        self._watching: dict[Union[str, labels.LabelSelector],
                             dict[Anchor, set[Matcher]]] = {}
        # Selector of namespaces -> matchers that use it.
        self._by_namespaces: dict[labels.LabelSelector, set[Matcher]] = {}
        # Namespace with pods -> those selectors of namespaces that match.
        self._meant: dict[str, set[labels.LabelSelector]] = {}
        self._populated: collections.Counter[str] = collections.Counter()

    def watch(self, selector: selectors.Pods,
              selector_id: Optional[str] = None) -> Matcher:
        """Keep what a selector matches, until as many calls of unwatch.

        :param selector_id: under which it is known, if not its own.
        """
        selector_id = selector_id or selector.id
        matcher = self._matchers.get(selector_id)
        if matcher is None:
            matcher = Matcher(
                selector, selector_id, selector.namespaces
                if selector.namespace is None else selector.namespace)
            self._matchers[matcher.id] = matcher
            watching = self._watching.setdefault(matcher.place, {})
            for anchor in _watched(matcher):
                watching.setdefault(anchor, set()).add(matcher)
            if selector.namespace is None:
                self._by_namespaces.setdefault(
                    selector.namespaces, set()).add(matcher)
                if len(self._by_namespaces[selector.namespaces]) == 1:
                    for name, meant in self._meant.items():
                        if labels.matches(selector.namespaces,
                                          self._labels(name)):
                            meant.add(selector.namespaces)
            for uid in self._candidates(selector):
                if labels.matches(selector.pods, self._pods[uid][1]):
                    matcher.uids.add(uid)
                    self._of[uid].add(matcher)
        matcher.uses += 1
        return matcher

    def unwatch(self, selector_id: str) -> bool:
        """Undo one watch.

        :returns: True if the selector is still watched by others.
        """
        matcher = self._matchers[selector_id]
        matcher.uses -= 1
        if matcher.uses:
            return True
        del self._matchers[matcher.id]
        watching = self._watching[matcher.place]
        for anchor in _watched(matcher):
            _discard(watching, anchor, matcher)
        if not watching:
            del self._watching[matcher.place]
        if isinstance(matcher.place, tuple):
            _discard(self._by_namespaces, matcher.place, matcher)
            if matcher.place not in self._by_namespaces:
                for meant in self._meant.values():
                    meant.discard(matcher.place)
        for uid in matcher.uids:
            self._of[uid].discard(matcher)
        return False

    def matcher(self, selector_id: str) -> Matcher:
        """What a selector that is watched matches."""
        return self._matchers[selector_id]

    def matchers(self, uid: str) -> Iterable[Matcher]:
        """All selectors that match a pod."""
        return self._of.get(uid, ())

    def set_pod(self, uid: str, namespace: str,
                pod_labels: Mapping[str, str]) -> list[Flip]:
        """A pod is new, or has other labels."""
        pod = (namespace, dict(pod_labels))
        old = self._pods.get(uid)
        if old == pod:
            return []
        if old is not None:
            self._unlist(uid, old)
        self._pods[uid] = pod
        anchors = tuple(_anchors(pod[1]))
        for anchor in anchors:
            self._by_anchor.setdefault((namespace, anchor), set()).add(uid)
        self._populated[namespace] += 1
        if namespace not in self._meant:
            self._meant[namespace] = self._meaning(namespace)
        before = self._of.get(uid, set())
        now = set()
        for place in (namespace, *self._meant[namespace]):
            watching = self._watching.get(place)
            if watching:
                now.update(
                    matcher for anchor in anchors if anchor in watching
                    for matcher in watching[anchor]
                    if labels.matches(matcher.selector.pods, pod[1]))
        self._of[uid] = now
        return self._flip(uid, before - now, now - before)

    def delete_pod(self, uid: str) -> list[Flip]:
        """A pod is gone. Idempotent."""
        pod = self._pods.pop(uid, None)
        if pod is None:
            return []
        self._unlist(uid, pod)
        return self._flip(uid, self._of.pop(uid), ())

    def set_namespace(self, name: str,
                      namespace_labels: Mapping[str, str]) -> list[Flip]:
        """A namespace is new, or has other labels."""
        before = self._labels(name)
        self._namespaces[name] = {labels.NAMESPACE_NAME: name,
                                  **namespace_labels}
        return self._relabelled(name, before)

    def delete_namespace(self, name: str) -> list[Flip]:
        """A namespace is gone. Idempotent.

        Pods left in it are still in a namespace of that name.
        """
        before = self._labels(name)
        self._namespaces.pop(name, None)
        return self._relabelled(name, before)

    def _relabelled(self, name, before):
        now = self._labels(name)
        flips: list[Flip] = []
        if now == before or name not in self._populated:
            return flips
        old, new = self._meant[name], self._meaning(name)
        self._meant[name] = new
        for place in old ^ new:
            for matcher in self._by_namespaces[place]:
                for uid in self._anchored(name, matcher.selector.pods):
                    if labels.matches(matcher.selector.pods,
                                      self._pods[uid][1]):
                        flips.append(Flip(matcher, uid, place in new))
        for flip in flips:
            if flip.matches:
                flip.matcher.uids.add(flip.uid)
                self._of[flip.uid].add(flip.matcher)
            else:
                flip.matcher.uids.discard(flip.uid)
                self._of[flip.uid].discard(flip.matcher)
        return flips

    def _meaning(self, namespace):
        """Selectors of namespaces that match one."""
        found = self._labels(namespace)
        return {place for place in self._by_namespaces
                if labels.matches(place, found)}

    def _labels(self, namespace):
        return self._namespaces.get(namespace) or {
            labels.NAMESPACE_NAME: namespace}

    def _candidates(self, selector):
        if selector.namespace is not None:
            namespaces = (selector.namespace,)
        else:
            namespaces = [name for name, meant in self._meant.items()
                          if selector.namespaces in meant]
        for name in namespaces:
            yield from self._anchored(name, selector.pods)

    def _anchored(self, namespace, selector):
        """UIDs in a namespace that a label selector may match."""
        found: set[str] = set()
        for anchor in labels.anchors(selector) or (None,):
            found |= self._by_anchor.get((namespace, anchor), set())
        return found

    def _unlist(self, uid, pod):
        namespace, pod_labels = pod
        for anchor in _anchors(pod_labels):
            _discard(self._by_anchor, (namespace, anchor), uid)
        self._populated[namespace] -= 1
        if not self._populated[namespace]:
            del self._populated[namespace]
            del self._meant[namespace]

    def _flip(self, uid, lost, gained):
        for matcher in lost:
            matcher.uids.discard(uid)
        for matcher in gained:
            matcher.uids.add(uid)
        return ([Flip(matcher, uid, False) for matcher in lost] +
                [Flip(matcher, uid, True) for matcher in gained])


def _anchors(pod_labels):
    """The keys under which a pod is found (see labels.anchors)."""
    yield None
    yield from pod_labels
    yield from pod_labels.items()


def _watched(matcher):
    return labels.anchors(matcher.selector.pods) or (None,)


def _discard(sets, key, item):
    found = sets[key]
    found.discard(item)
    if not found:
        del sets[key]
