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


"""A ruleset as it is in the maps, and what changes of it write; pure."""

import dataclasses
import functools
from typing import Iterable, Mapping, Optional

from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import classes
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities


@dataclasses.dataclass(slots=True)
class Live:
    """A ruleset in the maps.

    :ivar peers: class -> bits, where a row is needed.
    :ivar count: rows in kc_rs_peer.
    """

    number: int
    table: compiler.Table
    peers: dict[int, int] = dataclasses.field(default_factory=dict)
    count: int = 0

    def __post_init__(self):
        self.count = sum(len(rows.pages(bits)) for bits in (
            *self.peers.values(),
            *(self.table.base_bits(entity) for entity in entities.Entity)))

    def writes(self) -> Iterable[rows.Write]:
        yield from rows.ruleset_rows(self.number, self.table)
        yield from rows.peers_rows(self.number, self.peers)

    def set_peer(self, class_: int, bits: Optional[int]) -> None:
        """Note the row of a class; None: it has none (any more)."""
        before = self.peers.pop(class_, None)
        if before is not None:
            self.count -= len(rows.pages(before))
        if bits is not None:
            self.peers[class_] = bits
            self.count += len(rows.pages(bits))


class Created:
    """The rows that rulesets in force need for classes that are new.

    :param numbers: of the classes.
    """

    def __init__(self, numbers: Iterable[int],
                 definitions: Mapping[int, classes.Definition]):
        self._definitions = definitions
        self._index = classes.Index()
        for number in numbers:
            self._index.add(number, definitions[number])
        self._found: dict[int, dict[int, int]] = {}

    def of(self, live: Live) -> dict[int, int]:
        """Class -> bits."""
        found = self._found.get(live.number)
        if found is None:
            found = self._found[live.number] = peer_table(
                live.table, self._index.naming(live.table.selectors.keys()),
                self._definitions)
        return found


def peer_bits(table: compiler.Table,
              definition: classes.Definition) -> Optional[int]:
    """The row that a class needs, None if its entity's row serves."""
    names = table.selectors.keys()
    if (names.isdisjoint(definition.selectors)
            and names.isdisjoint(definition.covering)):
        return None
    base = table.base_bits(definition.entity)
    bits = (base | table.named(definition.selectors)
            | table.named(definition.covering))
    return None if bits == base else bits


def peer_table(table: compiler.Table, numbers: Iterable[int],
               definitions: Mapping[int, classes.Definition]
               ) -> dict[int, int]:
    """The rows that some classes need: :func:`peer_bits` of many."""
    base = {entity: table.base_bits(entity) for entity in entities.Entity}
    # Many definitions have the same sets in them.
    named = functools.cache(table.named)
    found = {}
    for number in numbers:
        entity, selectors, covering = definitions[number]
        bits = base[entity] | named(selectors) | named(covering)
        if bits != base[entity]:
            found[number] = bits
    return found


def spans_keys(live: Live, changed: Mapping[int, Optional[int]]) -> bool:
    """Whether a row in force would change in more than one key.

    A packet could read some of them before and some after: then the ruleset
    is written anew under another number, and flipped to.
    """
    return any(len(rewrite(live, class_, bits)) > 1
               for class_, bits in changed.items())


def rewrite(live: Live, class_: int,
            bits: Optional[int]) -> list[rows.Write]:
    """Writes that change the row of a class; None: no row is needed."""
    had = live.peers.get(class_)
    before, after = ({} if value is None else {
        (write.table, write.key): write
        for write in rows.peer_rows(live.number, class_, value)}
        for value in (had, bits))
    writes = [write for key, write in after.items()
              if before.get(key) != write]
    writes += [rows.delete(write) for key, write in before.items()
               if key not in after]
    return writes
