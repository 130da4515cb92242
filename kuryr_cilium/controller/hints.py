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

"""Tells the agents whose view has changed, a moment after it did.

What changes together is gathered, so that a selector of thousands of pods is
hashed once and not once a pod. A hint carries digests and no content: what a
node needs it pulls. Every replica hints, since each may see a change as the
last one: an agent that has asked too early asks again.
"""

import threading
from typing import Any, Callable, Iterable, Mapping, Optional

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium.policy import world

LOG = logging.getLogger(__name__)

#: Seconds for which changes are gathered. The sender gathers for a moment,
#: too, and both together are to be a few hundredths of a second.
GATHER_SECONDS = 0.02

_HINTS = prometheus_client.Counter(
    'kuryr_cilium_controller_hints',
    'Changed objects that agents were told of.', ['kind'])


class Hints:
    """Gathers changes and sends hints from a thread of its own.

    :param send: callable (host or None for all, {key: digest or None}).
    :param pieces: callable that returns what is sent under some keys: {key:
        object, None if it is gone}.
    :param uses: callable (host, id) that says whether a node has a ruleset.
    :param digest: callable (key, object) that returns the digest.
    :param listens: callable that says whether a node is worth a message.
    :param afterwards: called without arguments after each round.
    """

    def __init__(self, send: Callable[[Optional[str], Mapping], object],
                 pieces: Callable[[Iterable[str]], Mapping[str, Any]],
                 uses: Callable[[str, str], bool],
                 digest: Callable[[str, Any], str],
                 listens: Callable[[str], bool],
                 afterwards: Callable[[], object] = lambda: None):
        self._send = send
        self._pieces = pieces
        self._uses = uses
        self._digest = digest
        self._listens = listens
        self._afterwards = afterwards
        self._lock = threading.Lock()
        self._pending: list[world.Changes] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='hints',
                                        daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def alive(self) -> bool:
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def add(self, changes: world.Changes) -> None:
        """Note changes; never waits."""
        with self._lock:
            self._pending.append(changes)
        self._wake.set()

    def wake(self) -> None:
        """Have a round made, also if no view has changed."""
        self._wake.set()

    def _run(self):
        while True:
            self._wake.wait()
            if self._stop.wait(GATHER_SECONDS):
                return
            self._wake.clear()
            with self._lock:
                pending, self._pending = self._pending, []
            try:
                for host, objects in self.messages(pending).items():
                    self._send(host, objects)
                self._afterwards()
            except Exception:
                # Agents find out by themselves, later.
                LOG.exception('Hints to agents failed')

    def messages(self, pending: list[world.Changes]
                 ) -> dict[Optional[str], dict[str, Optional[str]]]:
        """What to send for changes: {host or None: {key: digest}}."""
        hosts, fanout, rulesets = set(), set(), set()
        named: dict[str, set[str]] = {}
        for changes in pending:
            hosts |= changes.hosts
            fanout |= changes.pieces
            rulesets |= changes.rulesets
            for uid, host in changes.endpoints.items():
                named.setdefault(host, set()).add('endpoint:' + uid)
        for host in hosts if rulesets else ():
            found = {'ruleset:' + name for name in rulesets
                     if self._uses(host, name)}
            if found:
                named.setdefault(host, set()).update(found)
        messages: dict[Optional[str], dict[str, Optional[str]]] = {}
        for host, keys in named.items():
            if self._listens(host):
                messages[host] = self._digests(keys, host)
        if fanout:
            messages[None] = self._digests(fanout)
        for objects in messages.values():
            for key in objects:
                _HINTS.labels(key.partition(':')[0]).inc()
        return messages

    def _digests(self, keys, host=None):
        """Digests of objects; None of one that a node has not any more."""
        return {key: None if piece is None or (
            key.startswith('endpoint:') and piece.host != host)
            else self._digest(key, piece)
            for key, piece in self._pieces(sorted(keys)).items()}
