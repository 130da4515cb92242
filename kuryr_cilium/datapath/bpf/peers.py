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


"""From the selectors of a view to what peer classes are made of; pure."""

import dataclasses
from typing import Iterable, Mapping, Optional

from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import blocks
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model

#: What an address is of which selectors say different things: the node
#: itself, then another node, then the world, then a pod.
_RANK = {entities.Entity.POD: 0, entities.Entity.WORLD: 1,
         entities.Entity.REMOTE_NODE: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Peers:
    """What a selector of a view says.

    :ivar addresses: of its members.
    :ivar told: entity by address where it says more than that they are
        those of some pods: of members that are no pods, and of every member
        of a selector that names an entity.
    :ivar block: what it matches beside its members; None if nothing.
    """

    addresses: frozenset[str] = frozenset()
    told: Mapping[str, entities.Entity] = dataclasses.field(
        default_factory=dict)
    block: Optional[blocks.Parsed] = None

    @property
    def outside(self) -> bool:
        """Whether only the world's addresses are meant."""
        return self.block is not None and self.block.outside


def needed(tables: Iterable[compiler.Table],
           selectors: Mapping[str, Peers]) -> set[str]:
    """Ids of the selectors whose members some rulesets need."""
    named = set().union(*(table.needed for table in tables))
    return entities.needed(named, {name for name in named
                                   if name in selectors
                                   and selectors[name].outside}) | named


def read(selector: model.Selector) -> Peers:
    """Read a selector.

    What is no address is left out (nothing can be sent from it).

    :raises: ValueError if its block is none: rather nothing is in force
        than a rule that lacks peers.
    """
    addresses = set()
    told: dict[str, entities.Entity] = {}
    names_entity = entities.is_entity(selector.id)
    for member in selector.members:
        found = [address for address in map(rows.canonical, member.addresses)
                 if address is not None]
        addresses.update(found)
        if member.entity is entities.Entity.POD:
            if names_entity:
                for address in found:
                    told.setdefault(address, member.entity)
        else:
            for address in found:
                if _rank(told.get(address)) < _rank(member.entity):
                    told[address] = member.entity
    return Peers(frozenset(addresses), told,
                 blocks.parse(selector.block) if selector.block else None)


class Told:
    """The entities of addresses, as far as they are told."""

    def __init__(self):
        self._nodes: frozenset[str] = frozenset()
        self._told: dict[str, Mapping[str, entities.Entity]] = {}

    def update(self, changed: Mapping[str, Mapping[str, entities.Entity]],
               nodes: Iterable[str]
               ) -> dict[str, Optional[entities.Entity]]:
        """Take over what selectors tell, and the addresses of this node.

        :param changed: by selector id; what says nothing is forgotten.
        :returns: what is different: entity by address, None if nothing is
            told any more.
        """
        nodes = frozenset(nodes)
        touched = set(nodes ^ self._nodes)
        for name, told in changed.items():
            before = self._told.get(name, {})
            touched.update(address for address in told.keys() | before.keys()
                           if told.get(address) != before.get(address))
        before = {address: self.of(address) for address in touched}
        self._nodes = nodes
        for name, told in changed.items():
            if told:
                self._told[name] = told
            else:
                self._told.pop(name, None)
        now = {address: self.of(address) for address in touched}
        return {address: entity for address, entity in now.items()
                if entity != before[address]}

    def of(self, address: str) -> Optional[entities.Entity]:
        """What stands behind an address; None if nothing is told."""
        if address in self._nodes:
            return entities.Entity.HOST
        return max((told[address] for told in self._told.values()
                    if address in told), key=_rank, default=None)


def _rank(entity):
    return -1 if entity is None else _RANK.get(entity, len(_RANK))
