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

"""Reads a policy as a node does: parsed, a ruleset, compiled."""

import ipaddress

from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.policy import rulesets
from kuryr_cilium.policy import selectors

INGRESS, EGRESS = model.Direction.INGRESS, model.Direction.EGRESS
TCP, UDP = 6, 17
POD, WORLD = entities.Entity.POD, entities.Entity.WORLD
REMOTE_NODE = entities.Entity.REMOTE_NODE


class Peer:
    """Who sends or is sent to.

    :param namespace: its labels, with its name; None if it is no pod.
    """

    def __init__(self, address, entity=WORLD, namespace=None, **labels):
        self.address = ipaddress.ip_address(address)
        self.entity = entity
        self.namespace = namespace
        self.labels = labels

    def selected(self, selector):
        if isinstance(selector, selectors.Block):
            block = selector.block
            if block.outside and self.entity != WORLD:
                return False
            within, *parts = map(ipaddress.ip_network,
                                 (block.cidr, *block.excepts))
            return self.address in within and not any(
                self.address in part for part in parts)
        if self.namespace is None:
            return False
        return selector.matches(self.namespace['name'], self.namespace,
                                self.labels)


def allows(policies, peer, port=80, protocol=TCP, direction=INGRESS):
    """What a subject of all these policies may do."""
    table = compiler.compile_ruleset(rulesets.build(direction, policies))
    matched = {selector.id for policy in policies for rule in policy.rules
               for selector in rule.peers or () if peer.selected(selector)}
    group = compiler.judge(table, matched, peer.entity, protocol, port)
    return group is not None and group.verdict is model.Verdict.ALLOW
