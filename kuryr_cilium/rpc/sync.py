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

"""The one call by which an agent's view follows the controller's.

The agent sends the digests of what it has and gets what differs, a page at
a time. It counts each page in before it asks for the next, so a page stands
for itself: any replica can answer it, a change between two pages is part of
the next one, and the last page says that agent and replica are level. What
epoch and synced say on that page holds for the whole.
"""

import dataclasses
import json
import typing

from oslo_log import log as logging

from kuryr_cilium import exceptions
from kuryr_cilium.rpc import objects

LOG = logging.getLogger(__name__)

#: More pages than this mean that two replicas disagree for good.
_MAX_PAGES = 10000
_CACHED_DIGESTS = 200000


@dataclasses.dataclass(frozen=True)
class SyncResult:
    """What an agent lacks of the view of its node.

    :ivar epoch: leaseTransitions of the controllers' Lease.
    :ivar synced: the replica had listed everything; if not, the rest is
        empty and what the agent has stays as it is.
    :ivar changed: new and changed objects by key.
    :ivar digests: their digests by key, as received: what to say of them
        in the next sync.
    :ivar removed: keys of what no longer exists.
    """

    epoch: int
    synced: bool
    changed: typing.Mapping[str, objects.Object]
    digests: typing.Mapping[str, str]
    removed: frozenset[str]


class Pager:
    """The controller's side: answers sync from the views of nodes."""

    def __init__(self, view: typing.Callable, page_objects: int = 500,
                 page_bytes: int = 1024 * 1024):
        """Initialise a pager.

        :param view: view(host) returns (epoch, synced, {key: object}); it
            is called from several threads.
        :param page_objects: objects in an answer at most.
        :param page_bytes: bytes of objects in an answer; the first object
            counts whatever its size.
        """
        self._view = view
        self._page_objects = page_objects
        self._page_bytes = page_bytes
        self._digests = {}

    def sync(self, ctxt, host, have=None, cursor=None, keys=None):
        """Answer a node's sync.

        :param have: digest by key of what the node has.
        :param cursor: of the last page; for the log only.
        :param keys: what is asked about; None: everything.
        """
        have = have or {}
        epoch, synced, view = self._view(host)
        answer = {'epoch': epoch, 'synced': bool(synced), 'changed': [],
                  'removed': [], 'cursor': None}
        if not synced:
            return answer
        answer['removed'] = sorted(have.keys() - view.keys())
        if keys is not None:
            view = {key: view[key] for key in keys if key in view}
        size, last = 0, None
        for key, obj in view.items():
            if have.get(key) == self.digest(key, obj):
                continue
            wire = objects.dump(obj)
            size += len(json.dumps(wire))
            if answer['changed'] and (
                    len(answer['changed']) >= self._page_objects or
                    size > self._page_bytes):
                answer['cursor'] = last
                break
            answer['changed'].append(wire)
            last = key
        LOG.debug('Sync of %s after %s: %d changed, %d removed, more: %s',
                  host, cursor, len(answer['changed']),
                  len(answer['removed']), answer['cursor'] is not None)
        return answer

    def digest(self, key, obj):
        """The digest of an object, remembered for as long as it is that."""
        known = self._digests.get(key)
        if known is not None and known[0] is obj:
            return known[1]
        if len(self._digests) >= _CACHED_DIGESTS:
            self._digests = {}
        digest = objects.digest(obj)
        self._digests[key] = (obj, digest)
        return digest


def collect(call: typing.Callable, have: typing.Mapping) -> SyncResult:
    """The agent's side: ask until level with the controller.

    :param call: call(have, cursor) returns one answer of Pager.sync().
    :param have: digest by key of what the agent has.
    :raises: exceptions.InvalidWireObject if an answer can't be read.
    """
    known = dict(have)
    changed, digests, cursor = {}, {}, None
    for _page in range(_MAX_PAGES):
        answer = call(known, cursor)
        epoch, synced, wires, removed, cursor = _checked(answer)
        if not synced:
            return SyncResult(epoch, False, {}, {}, frozenset())
        for wire in wires:
            obj = objects.load(wire)
            key = objects.key(obj)
            changed[key] = obj
            known[key] = digests[key] = objects.digest(wire)
        for key in removed:
            known.pop(key, None)
            changed.pop(key, None)
            digests.pop(key, None)
        if cursor is None:
            return SyncResult(epoch, True, changed, digests,
                              frozenset(have.keys() - known.keys()))
    raise exceptions.InvalidWireObject(
        kind='sync', reason='no end after %d pages' % _MAX_PAGES)


def _checked(answer):
    """The fields of an answer, of the types that they must have."""
    try:
        fields = tuple(answer[name] for name in (
            'epoch', 'synced', 'changed', 'removed', 'cursor'))
    except (KeyError, TypeError) as error:
        raise exceptions.InvalidWireObject(
            kind='sync', reason='the answer lacks %s' % error) from error
    for value, cls in zip(fields, (int, bool, list, list)):
        if not isinstance(value, cls):
            raise exceptions.InvalidWireObject(
                kind='sync', reason='%.64r in the answer is not of type %s' %
                (value, cls.__name__))
    return fields
