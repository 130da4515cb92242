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

"""The policies in force: what each is about, and what it makes known.

An object of the API may hold several policies. Each is kept as a version: a
change makes a new one, and the endpoints that it is about are derived again.
"""

import collections
import contextlib
import dataclasses
from typing import Any, Iterable, Iterator, Mapping, Optional

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import inuse
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import named
from kuryr_cilium.policy import networkpolicy
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import peers
from kuryr_cilium.policy import selectors


@dataclasses.dataclass(slots=True, eq=False)
class _Held:
    """A policy in force.

    :ivar policy: as it was parsed.
    :ivar keys: named ports of its egress rules.
    :ivar version: None if it is about nothing.
    :ivar watched: selectors that the version names.
    """

    policy: normal.Policy
    keys: frozenset[named.Key]
    version: Optional[inuse.Version] = None
    watched: frozenset[selectors.Peer] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class _Object:
    """An object of the API."""

    kind: Optional[str]
    held: tuple[_Held, ...] = ()


class Policies:
    """Policies by the UID of their object.

    :param known: where selectors are watched.
    :param options: what the operator has chosen.
    """

    def __init__(self, known: peers.Peers, options: kinds.Options):
        self._peers = known
        self._options = options
        self._objects: dict[str, _Object] = {}
        # Selector id -> the policies whose subject it is.
        self._subjects: dict[str, set[_Held]] = {}
        self._by_key: dict[named.Key, set[_Held]] = {}
        # Worked out since a policy was last different.
        self._judging: dict[frozenset[inuse.Version], inuse.Judging] = {}

    def parse(self, kind: str, obj: Mapping[str, Any]
              ) -> tuple[normal.Policy, ...]:
        """The policies of an object."""
        return tuple(kinds.parse(kind, obj, self._options))

    def strictest(self, kind: str, obj: Mapping[str, Any]) -> normal.Policy:
        """A policy that denies no less than an object that can't be read.

        It is about the pods of its namespace, or of all but the exempt
        namespaces if it is in none. They are isolated; and since policies of
        all kinds but NetworkPolicy may deny what others allow, those deny
        everything.
        """
        metadata = obj['metadata']
        namespace = metadata.get('namespace')
        if namespace is not None:
            subject = selectors.Pods(namespace=namespace)
        else:
            subject = selectors.Pods(namespaces=(labels.Requirement(
                labels.NAMESPACE_NAME, labels.NOT_IN,
                tuple(sorted(set(self._options.exempt_namespaces)))),))
        tier = (model.Tier.NETWORK_POLICY if namespace is not None
                else model.Tier.ADMIN)
        return normal.Policy(
            uid=metadata['uid'],
            name='/'.join(filter(None, (kind, namespace, metadata['name']))),
            subject=subject, isolates=frozenset(model.Direction),
            rules=() if kind == networkpolicy.KIND else tuple(
                normal.Rule(direction, verdict=model.Verdict.DENY, tier=tier)
                for direction in model.Direction),
            problems=(fields.Problem(
                'spec', 'can not be handled, which is a fault of '
                'kuryr-cilium: see the log of kuryr-cilium-controller'),))

    def is_subject(self, selector_id: str) -> bool:
        """Whether a policy is about what a selector matches."""
        return selector_id in self._subjects

    def judging(self, uid: str) -> inuse.Judging:
        """The policies that are about a pod."""
        versions = frozenset([
            held.version for matcher in self._peers.matchers(uid)
            for held in self._subjects.get(matcher.id, ())])
        judging = self._judging.get(versions)
        if judging is None:
            judging = self._judging[versions] = inuse.Judging(versions)
        return judging

    def problems(self) -> dict[str, list[fields.Problem]]:
        """Objects that can't be expressed: UID -> why."""
        found = {}
        for uid, item in self._objects.items():
            problems = [problem for held in item.held
                        for problem in held.policy.problems]
            if problems:
                found[uid] = problems
        return found

    def counts(self) -> tuple[collections.Counter[str],
                              collections.Counter[str]]:
        """Objects by kind, and those with problems by kind."""
        found: collections.Counter[str] = collections.Counter()
        broken: collections.Counter[str] = collections.Counter()
        for item in self._objects.values():
            if item.kind is not None:
                found[item.kind] += 1
                broken[item.kind] += any(
                    held.policy.problems for held in item.held)
        return found, broken

    @contextlib.contextmanager
    def replaced(self, uid: str, kind: Optional[str],
                 found: tuple[normal.Policy, ...],
                 uids: set[str]) -> Iterator[None]:
        """Set the policies of an object.

        Selectors that are needed no more are there until the context ends:
        settle the endpoints in it.

        :param found: none: the object is gone.
        :param uids: takes up the pods that may be judged otherwise.
        """
        before = list(self._objects.get(uid, _Object(None)).held)
        self._judging = {}
        held = []
        for policy in found:
            same = next((item for item in before if item.policy == policy),
                        None)
            if same is not None:
                before.remove(same)
                held.append(same)
            else:
                held.append(self._begin(policy, uids))
        if kind is not None:
            self._objects[uid] = _Object(kind, tuple(held))
        else:
            self._objects.pop(uid, None)
        for item in before:
            self._end(item, uids)
        yield
        for item in before:
            self._release(item)

    @contextlib.contextmanager
    def renumbered(self, keys: Iterable[named.Key], uids: set[str]
                   ) -> Iterator[None]:
        """Named ports have other numbers; as replaced()."""
        former = []
        for item in {held for key in keys
                     for held in self._by_key.get(key, ())}:
            former.append(item.watched)
            self._judging = {}
            self._resolve(item)
            uids |= self._peers.subjects(item.policy.subject)
        yield
        for watched in former:
            for peer in watched:
                self._peers.unwatch(peer)

    def _begin(self, policy, uids):
        held = _Held(policy, named.keys(policy))
        if policy.subject is None:
            return held
        self._peers.watch_subject(policy.subject)
        uids |= self._peers.subjects(policy.subject)
        self._subjects.setdefault(policy.subject.id, set()).add(held)
        for key in held.keys:
            self._peers.watch_port(key)
            self._by_key.setdefault(key, set()).add(held)
        self._resolve(held)
        return held

    def _resolve(self, held):
        """Make a version with what named ports stand for now."""
        policy = held.policy
        if held.keys:
            policy = named.resolve(policy, self._peers.numbers)
        held.version = inuse.version(policy)
        held.watched = frozenset(peer for rule in policy.rules
                                 for peer in rule.peers or ())
        for peer in held.watched:
            self._peers.watch(peer)

    def _end(self, held, uids):
        subject = held.policy.subject
        if subject is None:
            return
        self._subjects[subject.id].discard(held)
        if not self._subjects[subject.id]:
            del self._subjects[subject.id]
        uids |= self._peers.subjects(subject)
        for key in held.keys:
            self._by_key[key].discard(held)
            if not self._by_key[key]:
                del self._by_key[key]

    def _release(self, held):
        if held.policy.subject is None:
            return
        self._peers.unwatch_subject(held.policy.subject)
        for key in held.keys:
            self._peers.unwatch_port(key)
        for peer in held.watched:
            self._peers.unwatch(peer)
