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

"""Named ports of destinations: what number a name has, of each pod.

Ingress rules name ports of the subject, which is one pod: its rulesets are
built with its own numbers. Egress rules name ports of the peers, which may
differ: for each number that the name has among them the rule becomes one
with that number, and with those peers that have it.

Source: Kubernetes API reference, "NetworkPolicyPort".
"""

import dataclasses
import functools
import ipaddress
from typing import Callable, Iterable, Iterator, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors

#: A pod's named ports -> their numbers (containers may differ).
Ports = Mapping[normal.NamedPort, frozenset[int]]

_NONE: frozenset[int] = frozenset()


class Key(NamedTuple):
    """Pods among which a named port is looked for."""

    pods: selectors.Pods
    port: normal.NamedPort


def keys(policy: normal.Policy) -> frozenset[Key]:
    """What the egress rules of a policy have to know."""
    found = set()
    for rule in policy.rules:
        for port in _named(rule):
            for pods, *_ in _pods(rule.peers):
                found.add(Key(pods, port))
    return frozenset(found)


def own(policy: normal.Policy) -> frozenset[normal.NamedPort]:
    """What the ingress rules of a policy have to know of its subject."""
    return frozenset(
        port for rule in policy.rules
        if rule.direction is model.Direction.INGRESS
        for port in rule.ports or () if isinstance(port, normal.NamedPort))


def resolve(policy: normal.Policy,
            numbers: Callable[[Key], Iterable[int]]) -> normal.Policy:
    """A policy without named ports in its egress rules."""
    rules: list[normal.Rule] = []
    for rule in policy.rules:
        named = _named(rule)
        if not named:
            rules.append(rule)
            continue
        plain = rule.ports.difference(named)
        if plain:
            rules.append(dataclasses.replace(rule, ports=plain))
        by_number: dict[model.PortRange, set[selectors.Named]] = {}
        for port in named:
            for pods, within, behind in _pods(rule.peers):
                for number in numbers(Key(pods, port)):
                    by_number.setdefault(
                        model.PortRange(port.protocol, number, number),
                        set()).add(selectors.Named(
                            pods, port.name, port.protocol, number, within,
                            behind))
        rules += [dataclasses.replace(rule, peers=frozenset(peers),
                                      ports=frozenset([ports]))
                  for ports, peers in sorted(by_number.items())]
    return dataclasses.replace(policy, rules=tuple(rules))


def inside(addresses: Iterable[str], block: Optional[model.Block]
           ) -> tuple[str, ...]:
    """Those of some addresses that a block holds; None holds all."""
    if block is None:
        return tuple(addresses)
    networks = [_network(block.cidr)]
    excepts = [_network(cidr) for cidr in block.excepts]
    return tuple(
        address for address in addresses
        if _within(address, networks) and not _within(address, excepts))


@dataclasses.dataclass(slots=True, eq=False)
class _Found:
    """The numbers of one key.

    :ivar of: pod UID -> its numbers.
    :ivar by_number: number -> UIDs.
    """

    uses: int = 0
    of: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    by_number: dict[int, set[str]] = dataclasses.field(default_factory=dict)


class NamedPorts:
    """The numbers of named ports that policies ask for."""

    def __init__(self):
        self._found: dict[Key, _Found] = {}
        # Selector id of the pods -> keys.
        self._of: dict[str, set[Key]] = {}

    def watch(self, key: Key) -> bool:
        """Keep a key's numbers, until as many calls of unwatch.

        :returns: True if it is new: it needs all pods by set_pod().
        """
        found = self._found.setdefault(key, _Found())
        found.uses += 1
        self._of.setdefault(key.pods.id, set()).add(key)
        return found.uses == 1

    def unwatch(self, key: Key) -> None:
        """Undo one watch."""
        found = self._found[key]
        found.uses -= 1
        if not found.uses:
            del self._found[key]
            self._of[key.pods.id].discard(key)
            if not self._of[key.pods.id]:
                del self._of[key.pods.id]

    def of(self, selector_id: str) -> Iterable[Key]:
        """The keys that ask among the pods of a selector."""
        return self._of.get(selector_id, ())

    def numbers(self, key: Key) -> Iterable[int]:
        """What a port's name stands for among its pods."""
        return self._found[key].by_number.keys()

    def uids(self, key: Key, number: int) -> Iterable[str]:
        """The pods whose port has a number."""
        found = self._found.get(key)
        return found.by_number.get(number, ()) if found else ()

    def set_pod(self, key: Key, uid: str, ports: Ports) -> bool:
        """A pod is among those of a key, with these ports; none: it isn't.

        :returns: True if the key has other numbers now.
        """
        found = self._found[key]
        before = found.of.get(uid, _NONE)
        now = ports.get(key.port, _NONE)
        if now == before:
            return False
        changed = False
        for number in now - before:
            changed |= number not in found.by_number
            found.by_number.setdefault(number, set()).add(uid)
        for number in before - now:
            found.by_number[number].discard(uid)
            if not found.by_number[number]:
                del found.by_number[number]
                changed = True
        if now:
            found.of[uid] = now
        else:
            del found.of[uid]
        return changed


def _named(rule):
    """The named ports of an egress rule."""
    if rule.direction is not model.Direction.EGRESS or not rule.ports:
        return ()
    return sorted(port for port in rule.ports
                  if isinstance(port, normal.NamedPort))


def _pods(peers: Optional[frozenset[selectors.Peer]]) -> Iterator[
        tuple[selectors.Pods, Optional[model.Block],
              Optional[selectors.Services]]]:
    """The pods among peers.

    With the block in which their address must be, and the services behind
    which it must be. What else there is among peers has no named ports.
    """
    if peers is None:
        yield selectors.Pods(), None, None
    for peer in peers or ():
        if isinstance(peer, selectors.Pods):
            yield peer, None, None
        elif isinstance(peer, selectors.Block) and not peer.block.outside:
            yield selectors.Pods(), peer.block, None
        elif isinstance(peer, selectors.Services):
            yield selectors.Pods(), None, peer
        elif (isinstance(peer, selectors.Entity)
              and peer.entity == entities.CLUSTER):
            yield selectors.Pods(), None, None


def _within(address, networks):
    parsed = _address(address)
    return any(parsed in network for network in networks)


_network = functools.lru_cache(maxsize=4096)(ipaddress.ip_network)
_address = functools.lru_cache(maxsize=65536)(ipaddress.ip_address)
