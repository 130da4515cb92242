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

#: Classes below this number are reserved.
FIRST_CLASS = 16

#: Selectors that name entities. Their ids are fixed, and they are never
#: sent: what they match follows from the entity alone.
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
