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

"""What was compiled, read in Python: views, and their tables."""

import ipaddress
from typing import NamedTuple

from kuryr_cilium.agent import view as agent_view
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.policy.oracle import cluster as oracle
from kuryr_cilium.rpc import objects
from tests.differential import cases


class Read(NamedTuple):
    """A verdict.

    :ivar names: of the rules that decide, where the tables tell.
    """

    allowed: bool
    names: tuple[str, ...] = ()


def view_of(world, host):
    """The view of a node as its agent assembles it, over the wire's form."""
    held = {}
    for obj in world.view(host).values():
        wire = objects.dump(obj)
        held[objects.key(obj)] = agent_view.Held(
            objects.load(wire), objects.digest(wire))
    assembled = agent_view.assemble(1, held)
    assert not assembled.problems, assembled.problems
    return assembled.view


def own_addresses(present, host):
    """The addresses of a node."""
    return {address for node in cases.of_kind(present, 'Node')
            if node['metadata']['name'] == host
            for address in oracle.node_addresses(node)}


class Reader:
    """Reads the view of a node by its definition.

    :param own: the node's own addresses.
    """

    def __init__(self, view, own):
        self._view = view
        self._own = own
        self._tables = {}
        self._found = {}
        self._members = {}
        self._blocks = []
        for selector in view.selectors.values():
            for member in selector.members:
                for address in member.addresses:
                    self._members.setdefault(address, []).append(
                        (selector.id, member.entity))
            if selector.block is not None:
                self._blocks.append((selector.id, *_networks(
                    selector.block)))

    def knows(self, uid):
        return uid in self._view.endpoints

    def judge(self, question):
        endpoint = self._view.endpoints[question.uid]
        ruleset = getattr(endpoint, question.direction)
        if ruleset in (model.ALLOW_ALL, model.DENY_ALL):
            return Read(ruleset == model.ALLOW_ALL)
        table = self._tables.get(ruleset)
        if table is None:
            table = compiler.compile_ruleset(self._view.rulesets[ruleset])
            self._tables[ruleset] = table
        selectors, entity = self._peer(question.peer)
        group = compiler.judge(table, selectors, entity, question.protocol,
                               question.port)
        if group is None:
            return Read(False)
        return Read(group.verdict is model.Verdict.ALLOW,
                    self._view.rulesets[ruleset].names[group.bit])

    def _peer(self, text):
        """The selectors that match an address, and its entity."""
        if text not in self._found:
            members = self._members.get(text, ())
            # What entity it is says the address, not who lists it: to
            # itself a node is no remote one.
            selectors = {name for name, _ in members
                         if not name.startswith('entity:')}
            entity = entities.Entity.WORLD
            known = {found for _, found in members}
            if text in self._own:
                entity = entities.Entity.HOST
            elif known:
                entity = min(known, key=_precedence)
            address = ipaddress.ip_address(text)
            selectors.update(
                name for name, network, excepts, outside in self._blocks
                if address in network and
                (entity == entities.Entity.WORLD or not outside)
                and not any(address in part for part in excepts))
            self._found[text] = frozenset(selectors), entity
        return self._found[text]


def _networks(block):
    """A block, and whether only what is outside the cluster is meant."""
    return (ipaddress.ip_network(block.cidr),
            [ipaddress.ip_network(part) for part in block.excepts],
            block.outside)


def _precedence(entity):
    order = (entities.Entity.HOST, entities.Entity.REMOTE_NODE,
             entities.Entity.WORLD, entities.Entity.POD)
    return order.index(entity)
