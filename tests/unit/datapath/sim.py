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

"""The maps in memory, read as the programs read them; and an oracle."""

import collections
import functools
import ipaddress
import itertools

from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model

Entity = entities.Entity


class Maps:
    """What the kernel holds; its history write by write."""

    def __init__(self):
        self.rows = {}
        self.epoch = 0

    def write(self, write):
        key = write.table, write.key
        if write.value is None:
            assert key in self.rows, 'delete of nothing: %s' % (key,)
            del self.rows[key]
        else:
            self.rows[key] = write.value

    def copy(self):
        copied = Maps()
        copied.rows = dict(self.rows)
        copied.epoch = self.epoch
        return copied


def run(maps, planned):
    """Carry a plan out.

    :returns: a list of segments (between two grace periods), each a list of
        the states of the maps after each write.
    """
    segments = [[maps.copy()]]
    for step in planned.walk():
        if step.phase is plan.Phase.GRACE:
            segments.append([maps.copy()])
        if step.phase is plan.Phase.EPOCH:
            maps.epoch += 1
            segments[-1].append(maps.copy())
        for write in step.writes:
            maps.write(write)
            segments[-1].append(maps.copy())
    return segments


def read(states, number, direction, peer, protocol, port):
    """A packet's way through the maps.

    :param states: callable; each call gives the maps as they are at the
        time of the next lookup.
    :returns: 'allow' or 'deny'.
    """
    row = states().rows.get((rows.ENDPOINT, number))
    if row is None:
        return 'deny'
    ruleset = row.ingress if direction == 'ingress' else row.egress
    if ruleset in (rows.RULESET_NONE, rows.RULESET_DENY):
        return 'deny'
    if ruleset == rows.RULESET_ALLOW:
        return 'allow'
    space = row.space6 if ':' in peer else row.space4
    found = states().rows.get((rows.ADDR, rows.AddrKey(space, peer)))
    class_, entity = found or longest_prefix(states(), space, peer) or (4, 4)
    found = states().rows.get((rows.PEER, rows.PeerKey(ruleset, class_, 0)))
    if found is None:
        class_ = entity
        found = states().rows[rows.PEER, rows.PeerKey(ruleset, class_, 0)]
    bits = {0: found.words}
    ports = longest(states(), ruleset, 0, protocol, port)
    if ports is None:
        return 'deny'
    tier_start = 0
    for page in range(compiler.MAX_PAGES):
        if not found.mask & ports.mask & 1 << page:
            continue
        if page:
            key = rows.PEER, rows.PeerKey(ruleset, class_, page)
            bits[page] = states().rows[key].words
            port_words = longest(states(), ruleset, page, protocol,
                                 port).words
        else:
            port_words = ports.words
        common = join(bits[page]) & join(port_words)
        for bit in range(compiler.PAGE_BITS):
            at = page * compiler.PAGE_BITS + bit
            if not common >> bit & 1 or at < tier_start:
                continue
            group = states().rows[rows.GROUP, rows.GroupKey(ruleset, at)]
            if group.verdict != 'pass':
                return group.verdict
            tier_start = group.next_tier
    return 'deny'


def join(words):
    return sum(word << 64 * place for place, word in enumerate(words))


def longest(maps, ruleset, page, protocol, port):
    for length in range(16, -1, -1):
        key = compiler.PortKey(
            protocol, port >> 16 - length << 16 - length, length)
        row = maps.rows.get((rows.PORT, rows.PortKey(ruleset, page, key)))
        if row is not None:
            return row
    return maps.rows.get(
        (rows.PORT, rows.PortKey(ruleset, page, compiler.ANY_PORT)))


@functools.lru_cache
def networks(address):
    """Texts of all the prefixes of an address, the longest first."""
    parsed = ipaddress.ip_network(address)
    return [str(parsed.supernet(new_prefix=length))
            for length in range(parsed.prefixlen - 1, -1, -1)]


def longest_prefix(maps, space, address):
    for network in networks(address):
        row = maps.rows.get((rows.CIDR, rows.CidrKey(space, network)))
        if row is not None:
            return row
    return None


def entity_of(selectors, nodes, peer):
    """What stands behind an address, by the selectors of entities.

    :param selectors: by id.
    """
    if peer in nodes:
        return Entity.HOST
    for name, entity in (('entity:remote-node', Entity.REMOTE_NODE),
                         ('entity:cluster', Entity.POD)):
        if name in selectors and any(
                peer in member.addresses
                for member in selectors[name].members):
            return entity
    return Entity.WORLD


@functools.lru_cache(maxsize=None)
def in_block(block, peer):
    """Whether a block holds an address."""
    parsed = ipaddress.ip_address(peer)
    return parsed in ipaddress.ip_network(block.cidr) and not any(
        parsed in ipaddress.ip_network(part) for part in block.excepts)


def matches(selectors, nodes, name, peer):
    """Whether a selector matches an address."""
    entity = {'entity:host': (Entity.HOST,),
              'entity:remote-node': (Entity.REMOTE_NODE,),
              'entity:cluster': (Entity.HOST, Entity.REMOTE_NODE,
                                 Entity.POD),
              'entity:world': (Entity.WORLD,)}.get(name)
    if entity:
        return entity_of(selectors, nodes, peer) in entity
    selector = selectors[name]
    return any(peer in member.addresses for member in selector.members) or (
        selector.block is not None and in_block(selector.block, peer)
        and not (selector.block.outside
                 and entity_of(selectors, nodes, peer) != Entity.WORLD))


def oracle(ruleset, selectors, nodes, peer, protocol, port):
    """Judge by the text of a ruleset.

    :param selectors: by id.
    """
    passed = None
    for group in ruleset.groups:
        if group.tier == passed:
            continue
        if group.peers is not None and not any(
                matches(selectors, nodes, name, peer)
                for name in group.peers):
            continue
        if group.ports is not None and not any(
                item.protocol in (0, protocol)
                and item.first <= port <= item.last
                for item in group.ports):
            continue
        if group.verdict is not model.Verdict.PASS:
            return group.verdict.value
        passed = group.tier
    return 'deny'


def verdict(view, selectors, nodes, name, peer, protocol, port):
    if name == model.ALLOW_ALL:
        return 'allow'
    if name == model.DENY_ALL:
        return 'deny'
    return oracle(view.rulesets[name], selectors, nodes, peer, protocol,
                  port)


def make_view(memberships, rulesets, judged, fastpath=(), blocks=None,
              remote=()):
    """A view.

    :param memberships: selector id -> addresses.
    :param blocks: selector id -> model.Block.
    :param remote: addresses that are other nodes'.
    :param rulesets: direction -> id -> groups.
    :param judged: pod UID -> (ingress, egress).
    """
    return model.View(
        1, True,
        {uid: model.Endpoint(
            uid, 'ns', uid, 'node', 'vif-' + uid, 'fa:16:3e:00:00:01',
            'net', ('10.0.0.%d' % place,), ingress, egress,
            uid in fastpath)
         for place, (uid, (ingress, egress)) in
         enumerate(sorted(judged.items()), 1)},
        {name: model.RuleSet(name, direction, groups)
         for direction, found in rulesets.items()
         for name, groups in found.items()},
        {name: model.Selector(name, name, tuple(
            model.Member('uid-' + address, (address,), Entity.REMOTE_NODE
                         if address in remote else Entity.POD)
            for address in sorted(memberships.get(name, ()))),
            (blocks or {}).get(name))
         for name in {*memberships, *(blocks or {})}})


def make_local(number, uid, active=True):
    return endpoints.Local(
        number, uid, 'vif-' + uid, 100 + number, 200 + number,
        'fa:16:3e:00:00:01', ('10.1.0.%d' % number, 'fd00::%d' % number), 1,
        active=active)


def allocator():
    counters = collections.defaultdict(lambda: itertools.count(16))
    return lambda kind: next(counters[kind])
