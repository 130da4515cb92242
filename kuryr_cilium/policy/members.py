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

"""The members of each selector, kept so that a change touches few of them.

A selector with many members is sent in *parts*: which part a member is in
follows from a hash of its UID and from the number of parts, and that from
the number of members alone, so that all replicas of the controller cut
alike. Parts are added and taken away one at a time (linear hashing): one more
member changes two parts at most, whatever the size of the selector.
"""

import dataclasses
from typing import Iterator, Optional
import zlib

from kuryr_cilium.policy import model

#: Members that a part has on average. Twice as many are a selector in parts.
PART_MEMBERS = 64


@dataclasses.dataclass(slots=True, eq=False)
class _Held:
    """A selector.

    :ivar buckets: members by UID; one bucket if it is not in parts.
    :ivar made: what was made of them by key, until it changes.
    """

    id: str
    definition: str
    block: Optional[model.Block]
    buckets: list[dict[str, model.Member]]
    count: int = 0
    made: dict[str, model.Selector | model.Members] = dataclasses.field(
        default_factory=dict)


class Members:
    """Selectors and their members."""

    def __init__(self):
        self._held: dict[str, _Held] = {}

    def __contains__(self, selector_id: str) -> bool:
        return selector_id in self._held

    def hold(self, selector_id: str, definition: str,
             block: Optional[model.Block] = None) -> None:
        """A selector without members yet."""
        self._held[selector_id] = _Held(selector_id, definition, block, [{}])

    def drop(self, selector_id: str) -> None:
        """Forget a selector."""
        del self._held[selector_id]

    def put(self, selector_id: str, uid: str,
            member: Optional[model.Member]) -> set[str]:
        """Add, replace or remove (None) a member.

        :returns: keys of the pieces that are different now, or gone.
        """
        held = self._held[selector_id]
        number = _bucket(uid, len(held.buckets))
        bucket = held.buckets[number]
        before = bucket.get(uid)
        if before == member:
            return set()
        if member is None:
            del bucket[uid]
        else:
            bucket[uid] = member
        held.count += (member is not None) - (before is not None)
        touched = {number}
        parts = len(held.buckets)
        size = max(1, held.count // PART_MEMBERS)
        while len(held.buckets) < size:
            touched |= _grow(held.buckets)
            if held.buckets[-1].keys() == {uid}:
                # It alone went on to the new one.
                touched.discard(number)
        while len(held.buckets) > size:
            touched |= _shrink(held.buckets)
        if parts != size and 1 in (parts, size):
            # The pieces have other keys.
            touched.update(range(max(parts, size)))
        keys = set()
        if parts > 1 or size > 1:
            keys.update(_key(selector_id, number) for number in touched)
        if parts == 1 or parts != size:
            keys.add('selector:' + selector_id)
        held.made.pop(selector_id, None)
        for key in keys:
            held.made.pop(key, None)
        return keys

    def selector(self, selector_id: str) -> model.Selector:
        """A selector with all its members."""
        held = self._held[selector_id]
        if len(held.buckets) == 1:
            return self.piece('selector:' + selector_id)
        found = held.made.get(selector_id)
        if found is None:
            found = held.made[selector_id] = model.Selector(
                held.id, held.definition,
                _sorted(member for bucket in held.buckets
                        for member in bucket.values()), held.block)
        return found

    def keys(self, selector_id: str) -> Iterator[str]:
        """The keys of what a selector is sent as."""
        yield 'selector:' + selector_id
        parts = len(self._held[selector_id].buckets)
        if parts > 1:
            for number in range(parts):
                yield _key(selector_id, number)

    def piece(self, key: str) -> model.Selector | model.Members | None:
        """What is sent under a key, None if there is no such thing."""
        selector_id, number = _split(key)
        held = self._held.get(selector_id)
        if held is None:
            return None
        found = held.made.get(key)
        if found is None:
            parts = len(held.buckets)
            if number is None:
                found = model.Selector(
                    held.id, held.definition,
                    _sorted(held.buckets[0].values()) if parts == 1 else (),
                    held.block, parts if parts > 1 else 0)
            elif 1 < parts > number:
                found = model.Members(held.id, number,
                                      _sorted(held.buckets[number].values()))
            else:
                return None
            held.made[key] = found
        return found


def _sorted(found):
    return tuple(sorted(found, key=lambda member: member.uid))


def _bucket(uid, count):
    """The number of the bucket that a member is in."""
    low = 1 << count.bit_length() - 1
    hashed = zlib.crc32(uid.encode())
    number = hashed & 2 * low - 1
    return number if number < count else hashed & low - 1


def _grow(buckets):
    """One more bucket, with what it takes from another one."""
    count = len(buckets) + 1
    buckets.append({})
    source = count - 1 - (1 << (count - 1).bit_length() - 1)
    kept = {}
    for uid, member in buckets[source].items():
        (kept if _bucket(uid, count) == source
         else buckets[-1])[uid] = member
    buckets[source] = kept
    return {source, count - 1} if buckets[-1] else {count - 1}


def _shrink(buckets):
    """One bucket less; another one takes what was in it."""
    last = len(buckets) - 1
    source = last - (1 << last.bit_length() - 1)
    moved = buckets.pop()
    buckets[source].update(moved)
    return {source, last} if moved else {last}


def _key(selector_id, number):
    return 'members:%s/%d' % (selector_id, number)


def _split(key):
    kind, _, name = key.partition(':')
    if kind == 'selector':
        return name, None
    selector_id, _, number = name.rpartition('/')
    return selector_id, int(number)
