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
"""

import collections
import hashlib
import json
from typing import Iterable, Optional

from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal

#: Of equal precedence, what denies is asked first.
_VERDICTS = (model.Verdict.DENY, model.Verdict.PASS, model.Verdict.ALLOW)


def build(direction: model.Direction,
          policies: Iterable[normal.Policy]) -> Optional[model.RuleSet]:
    """What all policies that select an endpoint make together.

    :returns: None if none of them isolates in this direction: everything is
        allowed. A ruleset without groups denies everything.
    """
    policies = [policy for policy in policies
                if direction in policy.isolates]
    if not policies:
        return None
    classes = collections.defaultdict(list)
    for policy in policies:
        for rule in policy.rules:
            if rule.direction is direction:
                key = (rule.tier, rule.priority,
                       _VERDICTS.index(rule.verdict), rule.l7set)
                classes[key].append((rule.peers, _ranges(rule.ports),
                                     {policy.name}))
    groups = []
    for key in sorted(classes):
        tier, priority, verdict, l7set = key
        merged = [
            (model.RuleGroup(tier, priority, _VERDICTS[verdict], peers,
                             ports, l7set), tuple(sorted(names)))
            for peers, ports, names in _merge(classes[key])]
        groups += sorted(merged, key=lambda item: _plain(item[0]))
    return model.RuleSet(
        ruleset_id(direction, [group for group, _names in groups]), direction,
        tuple(group for group, _names in groups),
        tuple(names for _group, names in groups))


def ruleset_id(direction: model.Direction,
               groups: Iterable[model.RuleGroup]) -> str:
    """Hash of what a ruleset decides; who wrote it is no part of it."""
    content = json.dumps(
        [direction.value, [_plain(group) for group in groups]],
        separators=(',', ':'))
    return hashlib.sha256(content.encode()).hexdigest()


def _merge(rules):
    """Merge (peers, ports, names) of equal precedence.

    Peers become sets of ids.
    """
    rules = [(None if peers is None else
              frozenset(peer.id for peer in peers), ports, names)
             for peers, ports, names in rules]
    by_ports = collections.defaultdict(list)
    for peers, ports, names in rules:
        by_ports[ports].append((peers, names))
    by_peers = collections.defaultdict(list)
    for ports, found in by_ports.items():
        peers = _unite(peers for peers, _names in found)
        by_peers[peers].append(
            (ports, set().union(*(names for _peers, names in found))))
    merged = {}
    for peers, found in by_peers.items():
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
    united = set()
    for found in sets:
        if found is None:
            return None
        united |= found
    return frozenset(united)


def _ranges(ports):
    """The canonical form of ports: ranges that do not touch."""
    if ports is None or any(not item.protocol for item in ports):
        return None
    united = []
    for item in sorted(ports):
        last = united[-1] if united else None
        if (last and last.protocol == item.protocol
                and item.first <= last.last + 1):
            united[-1] = model.PortRange(item.protocol, last.first,
                                         max(last.last, item.last))
        else:
            united.append(item)
    return frozenset(united)


def _plain(group):
    """A group as what JSON has; it also gives groups a fixed order."""
    return [int(group.tier), group.priority,
            _VERDICTS.index(group.verdict), group.l7set,
            ['any'] if group.peers is None else sorted(group.peers),
            ['any'] if group.ports is None else
            [[item.protocol, item.first, item.last]
             for item in sorted(group.ports)]]
