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

"""The addresses of services, for selectors that name services.

Every address in a service's EndpointSlices is meant, ready or not: a
connection outlives readiness.
"""

import collections
from typing import Any, Iterable, Mapping

from kuryr_cilium.policy import index
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import pods
from kuryr_cilium.policy import selectors

#: The label of an EndpointSlice that says of which service it is. Source:
#: Kubernetes documentation, "EndpointSlices", section "Ownership".
SERVICE_NAME = 'kubernetes.io/service-name'
#: Stands for a label with the service's name; no object has such a one.
_NAME = '/name'

#: Selectors and addresses that they mean from now on, or no more.
Different = set[tuple[str, str]]


class Backends:
    """Services, their EndpointSlices, and selectors of services."""

    def __init__(self):
        self._index = index.Index()
        # UID of a service -> (namespace, name), and back: a service may be
        # made anew before the deletion of the old one is seen.
        self._names: dict[str, tuple[str, str]] = {}
        self._uids: dict[tuple[str, str], set[str]] = {}
        self._slices: dict[str, tuple[tuple[str, str], frozenset[str]]] = {}
        # (namespace, name) -> address -> in how many slices it is.
        self._given: dict[tuple[str, str], collections.Counter[str]] = {}
        # Selector id -> address -> how many services give it.
        self._meant: dict[str, collections.Counter[str]] = {}
        self._selectors: dict[str, set[str]] = {}

    def watch(self, selector: selectors.Services) -> Different:
        """Keep what a selector means; once, until unwatch()."""
        found = selector.services
        if selector.name is not None:
            found = tuple(sorted((*found, labels.Requirement(
                _NAME, labels.IN, (selector.name,)))))
        matcher = self._index.watch(
            selectors.Pods(found, selector.namespace), selector.id)
        self._meant[selector.id] = collections.Counter()
        different: Different = set()
        for uid in matcher.uids:
            self._count(selector.id, self._of(uid), 1, different)
        return different

    def unwatch(self, selector: selectors.Services) -> None:
        """Forget a selector."""
        self._index.unwatch(selector.id)
        for address in self._meant.pop(selector.id):
            self._unlist(selector.id, address)

    def means(self, selector_id: str, address: str) -> bool:
        """Whether a selector means an address."""
        return address in self._meant[selector_id]

    def selectors(self, address: str) -> Iterable[str]:
        """Ids of the selectors that mean an address."""
        return tuple(self._selectors.get(address, ()))

    def set_service(self, obj: Mapping[str, Any]) -> Different:
        """A service was added or modified."""
        metadata = obj['metadata']
        uid, key = metadata['uid'], (metadata['namespace'], metadata['name'])
        self._names[uid] = key
        self._uids.setdefault(key, set()).add(uid)
        return self._flipped(self._index.set_pod(uid, key[0], {
            **(metadata.get('labels') or {}), _NAME: key[1]}))

    def delete_service(self, uid: str) -> Different:
        """A service is gone. Idempotent."""
        if uid not in self._names:
            return set()
        different = self._flipped(self._index.delete_pod(uid))
        key = self._names.pop(uid)
        self._uids[key].discard(uid)
        if not self._uids[key]:
            del self._uids[key]
        return different

    def set_slice(self, obj: Mapping[str, Any]) -> Different:
        """An EndpointSlice was added or modified."""
        metadata = obj['metadata']
        service = (metadata.get('labels') or {}).get(SERVICE_NAME)
        if not service:
            return self.delete_slice(metadata['uid'])
        return self._replace(metadata['uid'], (
            (metadata['namespace'], service), pods.slice_addresses(obj)))

    def delete_slice(self, uid: str) -> Different:
        """An EndpointSlice is gone. Idempotent."""
        return self._replace(uid, None)

    def _replace(self, uid, now):
        before = self._slices.pop(uid, None)
        if now is not None:
            self._slices[uid] = now
        different: Different = set()
        # First what comes: what is in both is not taken away in between.
        for item, step in ((now, 1), (before, -1)):
            if item is None:
                continue
            key, addresses = item
            given = self._given.setdefault(key, collections.Counter())
            changed = set()
            for address in addresses:
                given[address] += step
                if given[address] == max(step, 0):
                    changed.add(address)
                if not given[address]:
                    del given[address]
            if not given:
                del self._given[key]
            for service in self._uids.get(key, ()):
                for matcher in self._index.matchers(service):
                    self._count(matcher.id, changed, step, different)
        return different

    def _flipped(self, flips):
        different: Different = set()
        for flip in flips:
            self._count(flip.matcher.id, self._of(flip.uid),
                        1 if flip.matches else -1, different)
        return different

    def _of(self, uid):
        return self._given.get(self._names[uid], ())

    def _count(self, selector_id, addresses, step, different):
        meant = self._meant[selector_id]
        for address in addresses:
            before = meant[address]
            meant[address] += step
            if not before:
                self._selectors.setdefault(address, set()).add(selector_id)
                different.add((selector_id, address))
            elif not meant[address]:
                del meant[address]
                self._unlist(selector_id, address)
                different.add((selector_id, address))

    def _unlist(self, selector_id, address):
        self._selectors[address].discard(selector_id)
        if not self._selectors[address]:
            del self._selectors[address]
