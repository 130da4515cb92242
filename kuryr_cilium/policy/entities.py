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

"""What a peer is when no selector says more: the four entities.

An entity's value is the number of its reserved class in the datapath: a
(ruleset, class) without a row of its own is judged by the row of the class
of the peer's entity.
"""

import enum
from typing import Iterable

#: Classes below this number are reserved.
FIRST_CLASS = 16

#: Selectors that name entities. Their ids are fixed. What they match follows
#: from the entity of a peer alone; their members, where they are sent, tell
#: the entity of addresses.
CLUSTER = 'entity:cluster'
HOST = 'entity:host'
REMOTE_NODE = 'entity:remote-node'
WORLD = 'entity:world'


class Entity(enum.IntEnum):
    """What stands behind an address."""

    POD = 1
    HOST = 2
    REMOTE_NODE = 3
    WORLD = 4


#: The entity selectors that match a peer of an entity.
SELECTORS = {
    Entity.POD: frozenset((CLUSTER,)),
    Entity.HOST: frozenset((CLUSTER, HOST)),
    Entity.REMOTE_NODE: frozenset((CLUSTER, REMOTE_NODE)),
    Entity.WORLD: frozenset((WORLD,)),
}

#: What a node must have been sent to tell which peers an entity selector
#: matches. Its own addresses it knows by itself; what is in the world is what
#: is in neither of the others.
_TOLD_BY = {
    HOST: frozenset(),
    REMOTE_NODE: frozenset((REMOTE_NODE,)),
    CLUSTER: frozenset((CLUSTER, REMOTE_NODE)),
    WORLD: frozenset((CLUSTER, REMOTE_NODE)),
}


def is_entity(selector: str) -> bool:
    """Whether an id is that of a selector that names an entity."""
    return selector in _TOLD_BY


def needed(selectors: Iterable[str]) -> set[str]:
    """Ids of the selectors whose members tell what some selectors match."""
    found = set()
    for selector in selectors:
        if selector in _TOLD_BY:
            found |= _TOLD_BY[selector]
        else:
            found.add(selector)
    return found
