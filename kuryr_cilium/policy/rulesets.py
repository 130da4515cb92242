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

"""From the policies of one endpoint to its ruleset in one direction.

Rules are merged before anything else: of those that have the same
precedence, verdict and L7 set, rules of equal ports unite their peers, then
rules of equal peers unite their ports. What a packet costs, and how many
entries a node writes, follows from the number of groups left.

If a policy isolates, what no group matches is dropped, so tiers behind the
policies' own are never asked and left out. If none does, the Baseline tier
follows, and a last group that allows everything.
"""

import collections
import hashlib
import json
from typing import Iterable, Mapping, Optional

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors

#: Of equal precedence, what denies is asked first.
_VERDICTS = (model.Verdict.DENY, model.Verdict.PASS, model.Verdict.ALLOW)
_RANKS = {verdict: rank for rank, verdict in enumerate(_VERDICTS)}

#: What lets an isolated pod reach its own node, where the operator wants it.
OWN_NODE = normal.Policy(
    'own-node', 'option/allow_egress_to_own_node', None, frozenset(),
    (normal.Rule(model.Direction.EGRESS,
                 frozenset([selectors.Entity(entities.HOST)])),))

_DEFAULT = model.RuleGroup(model.Tier.DEFAULT, 0, model.Verdict.ALLOW)

#: A named port -> its numbers on the subject; of ingress rules.
Numbers = Mapping[normal.NamedPort, Iterable[int]]


def build(direction: model.Direction, policies: Iterable[normal.Policy],
          numbers: Numbers = {}, own_node: bool = False
          ) -> Optional[model.RuleSet]:
    """What all policies that select an endpoint make together.

    :param policies: named ports of egress rules are resolved.
    :param numbers: what named ports of ingress rules stand for; a name that
        is not there matches nothing.
    :param own_node: whether isolated pods may reach their own node.
    :returns: None if there is nothing to decide: everything is allowed. A
        ruleset without groups denies everything.
    """
    policies = list(policies)
    isolated = any(direction in policy.isolates for policy in policies)
    if isolated and own_node:
        policies.append(OWN_NODE)
    classes = collections.defaultdict(list)
    for policy in policies:
        for rule in policy.rules:
            if rule.direction is not direction or (
                    isolated and rule.tier > model.Tier.NETWORK_POLICY):
                continue
            ports = _ranges(_resolved(rule.ports, numbers))
            if ports is None or ports:
                if rule.peers is None or rule.peers:
                    classes[rule.tier, rule.priority, _RANKS[rule.verdict],
                            rule.l7set].append(
                                (rule.peers, ports, _name(policy, rule)))
    groups = []
    for key in sorted(classes):
        tier, priority, verdict, l7set = key
        merged = []
        for peers, ports, names in _merge(classes[key]):
            group = model.RuleGroup(tier, priority, _VERDICTS[verdict],
                                    peers, ports, l7set)
            merged.append((_plain(group), group, tuple(sorted(names))))
        groups += sorted(merged, key=lambda item: item[0])
    if not isolated:
        if not groups:
            return None
        groups.append((_plain(_DEFAULT), _DEFAULT, ()))
    return model.RuleSet(
        _hash(direction, [plain for plain, _group, _names in groups]),
        direction, tuple(group for _plain, group, _names in groups),
        tuple(names for _plain, _group, names in groups))


def ruleset_id(direction: model.Direction,
               groups: Iterable[model.RuleGroup]) -> str:
    """Hash of what a ruleset decides; who wrote it is no part of it."""
    return _hash(direction, [_plain(group) for group in groups])


def _hash(direction, groups):
    content = json.dumps([direction.value, groups], separators=(',', ':'))
    return hashlib.sha256(content.encode()).hexdigest()


def _name(policy, rule):
    return '%s %s' % (policy.name, rule.name) if rule.name else policy.name


def _resolved(ports, numbers):
    """Ports with numbers in place of names."""
    if ports is None or not any(
            isinstance(item, normal.NamedPort) for item in ports):
        return ports
    found = set()
    for item in ports:
        if isinstance(item, normal.NamedPort):
            found.update(model.PortRange(item.protocol, number, number)
                         for number in numbers.get(item, ()))
        else:
            found.add(item)
    return found


def _merge(rules):
    """Merge (peers, ports, name) of equal precedence.

    Peers become sets of ids.
    """
    by_ports = collections.defaultdict(list)
    for peers, ports, name in rules:
        by_ports[ports].append((peers, name))
    by_peers = collections.defaultdict(list)
    for ports, found in by_ports.items():
        peers = _unite(peers for peers, _name in found)
        by_peers[peers].append((ports, {name for _peers, name in found}))
    merged = {}
    for peers, found in by_peers.items():
        if peers is not None:
            peers = frozenset([peer.id for peer in peers])
        ports = _unite(ports for ports, _names in found)
        merged[peers] = (_ranges(ports), set().union(
            *(names for _ports, names in found)))
    if None in merged and merged[None][0] is None:
        # Every peer, every port: the others decide nothing.
        merged = {None: merged[None]}
    return [(peers, ports, names)
            for peers, (ports, names) in merged.items()]


def _unite(sets):
    """The union, where None stands for everything."""
    sets = list(sets)
    if None in sets:
        return None
    return sets[0] if len(sets) == 1 else frozenset().union(*sets)


def _ranges(ports):
    """The canonical form of ports: ranges that do not touch."""
    if ports is None:
        return None
    if len(ports) == 1:
        item, = ports
        return frozenset(ports) if item.protocol else None
    united = []
    for item in sorted(ports):
        if not item.protocol:
            return None
        last = united[-1] if united else None
        if (last and last.protocol == item.protocol
                and item.first <= last.last + 1):
            if item.last > last.last:
                united[-1] = model.PortRange(item.protocol, last.first,
                                             item.last)
        else:
            united.append(item)
    return frozenset(united)


def _plain(group):
    """A group as what JSON has; it also gives groups a fixed order."""
    return [int(group.tier), group.priority, _RANKS[group.verdict],
            group.l7set,
            ['any'] if group.peers is None else sorted(group.peers),
            ['any'] if group.ports is None else
            sorted([item.protocol, item.first, item.last]
                   for item in group.ports)]
