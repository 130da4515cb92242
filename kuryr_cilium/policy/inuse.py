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

"""The rulesets that endpoints are judged by, and where they are needed.

Endpoints that the same policies select, and whose named ports have the same
numbers, are judged by the same combination of policies; combinations of equal
content are one ruleset.
"""

import collections
import dataclasses
from typing import Callable, Iterable, Mapping, NamedTuple, Optional

from kuryr_cilium.policy import model
from kuryr_cilium.policy import named
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import rulesets


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A policy as it was set once; compared by identity.

    :ivar policy: named ports of its egress rules are resolved.
    :ivar directions: those in which it has a say.
    :ivar ports: named ports of its ingress rules.
    """

    policy: normal.Policy
    directions: frozenset[model.Direction]
    ports: frozenset[normal.NamedPort]


def version(policy: normal.Policy) -> Version:
    """A policy that is set now."""
    return Version(policy, policy.isolates.union(
        rule.direction for rule in policy.rules), named.own(policy))


class Combination(NamedTuple):
    """What judges one direction of an endpoint.

    :ivar ports: numbers of named ports that the policies ask for.
    """

    direction: model.Direction
    versions: frozenset[Version]
    ports: frozenset[tuple[normal.NamedPort, frozenset[int]]]


class Judging:
    """The policies that are about an endpoint; worked out once for many.

    :param versions: those policies.
    """

    def __init__(self, versions: frozenset[Version]):
        self._split = {
            direction: frozenset(version for version in versions
                                 if direction in version.directions)
            for direction in model.Direction}
        self._ports = frozenset().union(*(
            version.ports for version in versions))
        self._plain = tuple(self._combined(direction, frozenset())
                            for direction in model.Direction)

    def combinations(self, ports: named.Ports) -> tuple[Combination, ...]:
        """What judges each direction.

        :param ports: named ports of the endpoint.
        """
        ingress, egress = self._plain
        if self._ports and ports:
            asked = frozenset((port, ports[port]) for port in self._ports
                              if port in ports)
            if asked:
                ingress = self._combined(ingress.direction, asked)
        return ingress, egress

    def _combined(self, direction, ports):
        return Combination(direction, self._split[direction], ports)


@dataclasses.dataclass(slots=True, eq=False)
class _RuleSet:
    """A ruleset in use.

    :ivar peers: ids of the selectors that it names.
    :ivar names: the names of its groups, by the combination they are from.
    :ivar hosts: how many endpoints' directions use it, by node.
    """

    ruleset: model.RuleSet
    peers: frozenset[str]
    names: dict[Combination, tuple[tuple[str, ...], ...]]
    hosts: collections.Counter


@dataclasses.dataclass(slots=True, eq=False)
class _Made:
    """What a combination makes, and how many use it."""

    ruleset: Optional[model.RuleSet]
    uses: int = 0


class InUse:
    """Counts who uses which ruleset.

    :param sent: callable that returns the ids of the selectors that are
        sent for one.
    :param own_node: as in rulesets.build.
    """

    def __init__(self, sent: Callable[[str], Iterable[str]],
                 own_node: bool = False):
        self._sent = sent
        self._own_node = own_node
        self._made: dict[Combination, _Made] = {}
        self._rulesets: dict[str, _RuleSet] = {}
        # Selector id -> node -> how many of its rulesets name it.
        self._naming: dict[str, collections.Counter[str]] = {}

    def join(self, combination: Combination, host: str,
             changed: set[str]) -> str:
        """One more endpoint of a node is judged by a combination.

        :param changed: takes up the ids of rulesets that are new or have
            other names now.
        :returns: id of the ruleset.
        """
        made = self._made.get(combination)
        if made is None:
            made = _Made(rulesets.build(
                combination.direction,
                [version.policy for version in combination.versions],
                dict(combination.ports), self._own_node))
            self._made[combination] = made
        made.uses += 1
        if made.ruleset is None:
            return model.ALLOW_ALL
        used = self._rulesets.get(made.ruleset.id)
        if used is None:
            used = self._add(made.ruleset)
            changed.add(made.ruleset.id)
        used.hosts[host] += 1
        if used.hosts[host] == 1:
            for selector_id in used.peers:
                self._naming.setdefault(
                    selector_id, collections.Counter())[host] += 1
        if combination not in used.names:
            used.names[combination] = made.ruleset.names
            self._rename(used, changed)
        return made.ruleset.id

    def leave(self, combination: Combination, host: str,
              changed: set[str]) -> None:
        """Undo one join.

        :param changed: as in join, of those that are gone too.
        """
        made = self._made[combination]
        made.uses -= 1
        if not made.uses:
            del self._made[combination]
        if made.ruleset is None:
            return
        used = self._rulesets[made.ruleset.id]
        used.hosts[host] -= 1
        if not used.hosts[host]:
            del used.hosts[host]
            self._unname(used, host)
        if not used.hosts:
            del self._rulesets[made.ruleset.id]
            changed.add(made.ruleset.id)
        elif not made.uses:
            del used.names[combination]
            self._rename(used, changed)

    def get(self, ruleset_id: str) -> Optional[model.RuleSet]:
        """A ruleset; None for ALLOW_ALL and for what is not in use."""
        used = self._rulesets.get(ruleset_id)
        return used.ruleset if used else None

    def peers(self, ruleset_id: str) -> frozenset[str]:
        """Ids of the selectors that a ruleset in use needs to be sent."""
        return self._rulesets[ruleset_id].peers

    def hosts(self, ruleset_id: str) -> Mapping[str, int]:
        """Nodes where a ruleset is used."""
        used = self._rulesets.get(ruleset_id)
        return used.hosts if used else {}

    def naming(self, selector_id: str) -> Iterable[str]:
        """Nodes with rulesets that name a selector."""
        return self._naming.get(selector_id, ())

    def _add(self, ruleset):
        found = frozenset(
            selector_id for group in ruleset.groups
            for peer in group.peers or () for selector_id in self._sent(peer))
        used = _RuleSet(ruleset, found, {}, collections.Counter())
        self._rulesets[ruleset.id] = used
        return used

    def _unname(self, used, host):
        for selector_id in used.peers:
            naming = self._naming[selector_id]
            naming[host] -= 1
            if not naming[host]:
                del naming[host]
            if not naming:
                del self._naming[selector_id]

    def _rename(self, used, changed):
        names = tuple(tuple(sorted(set().union(*group)))
                      for group in zip(*used.names.values()))
        if names != used.ruleset.names:
            used.ruleset = dataclasses.replace(used.ruleset, names=names)
            changed.add(used.ruleset.id)
