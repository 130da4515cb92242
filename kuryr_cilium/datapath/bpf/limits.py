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

"""What fits: limits counted before anything is written; pure.

The maps hold two generations, so each may fill half of one. What does not
fit is refused by whole rulesets; the endpoints judged by them deny
everything, and nobody else notices. Rulesets in force come before new ones,
and small ones before large ones.
"""

import dataclasses
from typing import Callable, Iterable, Mapping, Sequence

from kuryr_cilium.datapath.bpf import peers
from kuryr_cilium import exceptions
from kuryr_cilium.policy import blocks
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import model


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How much one generation may hold on this node.

    :ivar prefixes: rows in kc_cidr. A third of the map: those of a view and
        of the one before are there at once, and those of a new generation if
        that failed. (Tries of older kernels refuse any write once full.)
    :ivar covering: blocks that prefixes lie in, of all prefixes together;
        memory of this process.
    :ivar port_rows: likewise, of two views.
    :ivar ruleset_peer_rows: rows of one ruleset in kc_rs_peer.
    """

    endpoints: int = 4096
    rulesets: int = 8192
    classes: int = 65536
    addresses: int = 131072
    prefixes: int = 10922
    covering: int = 262144
    groups: int = 65536
    port_rows: int = 65535
    peer_rows: int = 262144
    ruleset_peer_rows: int = compiler.MAX_PEER_ROWS


@dataclasses.dataclass(slots=True)
class Admission:
    """Which rulesets may be in force.

    :ivar tables: ruleset id -> compiled.
    :ivar refused: ruleset id -> why not.
    """

    tables: dict[str, compiler.Table]
    refused: dict[str, str]


def admit(wanted: Iterable[str], rulesets: Mapping[str, model.RuleSet],
          selectors: peers.Selectors,
          live: Mapping[str, compiler.Table], extra_addresses: int,
          limits: Limits) -> Admission:
    """Decide which rulesets fit, before classes are known.

    :param wanted: ids that endpoints name.
    :param rulesets: of the view.
    :param selectors: of the view.
    :param live: compiled rulesets that are in force.
    :param extra_addresses: addresses beside those of selectors.
    """
    refused: dict[str, str] = {}
    tables: dict[str, compiler.Table] = {}
    for ruleset in sorted(wanted):
        try:
            tables[ruleset] = live.get(ruleset) or _compile(
                ruleset, rulesets)
            _check_selectors(tables[ruleset], selectors)
        except exceptions.KuryrCiliumException as error:
            tables.pop(ruleset, None)
            refused[ruleset] = str(error)
    checks: dict[str, Callable[..., bool]] = {
        'rulesets': lambda found, named: len(found) <= limits.rulesets,
        'rule groups': lambda found, named: sum(
            len(table.groups) for table in found) <= limits.groups,
        'port prefixes': lambda found, named: sum(
            table.port_rows for table in found) <= limits.port_rows,
        'blocks of addresses': lambda found, named: _fits_blocks(
            named, limits),
        'peer addresses': lambda found, named: _fits_addresses(
            named, extra_addresses, limits),
        'peer classes': lambda found, named: _fits_classes(
            named, extra_addresses, limits)}
    named = _named(tables.values(), selectors)
    if all(fits(tables.values(), named) for fits in checks.values()):
        return Admission(tables, refused)
    sizes = {ruleset: _count(_named((table,), selectors))
             for ruleset, table in tables.items()}
    order = sorted(tables, key=lambda ruleset: (
        ruleset not in live, sizes[ruleset], ruleset))
    for what, fits in checks.items():
        fitting = largest_prefix(
            [tables[name] for name in order],
            lambda found: fits(found, _named(found, selectors)))
        for ruleset in order[fitting:]:
            del tables[ruleset]
            refused[ruleset] = full(what)
        order = order[:fitting]
    return Admission(tables, refused)


def largest_prefix(items: Sequence,
                   fits: Callable[[Sequence], bool]) -> int:
    """How many of the first items fit; more never fit where fewer don't."""
    if fits(items):
        return len(items)
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(items[:middle]):
            low = middle
        else:
            high = middle
    return low


def full(what: str) -> str:
    """Why an endpoint denies everything when the node's room is used up."""
    return (f'this node has no room for more {what}: merge policies, or '
            'spread the pods that they select over more nodes')


def _compile(ruleset, rulesets):
    if ruleset not in rulesets:
        raise exceptions.ViewUnusable(reason=f'ruleset {ruleset} is missing')
    return compiler.compile_ruleset(rulesets[ruleset])


def _check_selectors(table, selectors):
    needed = peers.needed((table,), selectors.outside)
    # NOTE: a missing one could hide a deny rule's peers.
    missing = needed.difference(selectors.peers)
    if missing:
        raise exceptions.ViewUnusable(
            reason=f'selector {min(missing)} of ruleset {table.id} is '
                   'missing')
    broken = needed & selectors.broken
    if broken:
        raise exceptions.ViewUnusable(
            reason=f'selector {min(broken)} of ruleset {table.id} has a '
                   'block that is none, or another one than before')


def _named(tables, selectors):
    """The selectors of some rulesets."""
    return {name: selectors.peers[name]
            for name in peers.needed(tables, selectors.outside)}


def _count(named):
    """At most so many addresses and prefixes have rows."""
    return sum(
        len(found.addresses) + (1 + len(found.block.excepts)
                                if found.block else 0)
        for found in named.values())


def _blocks(named):
    return [found.block for found in named.values() if found.block]


def _fits_blocks(named, limits):
    found = _blocks(named)
    most = sum(1 + len(block.excepts) for block in found)
    if most <= limits.prefixes and most * len(found) <= limits.covering:
        return True
    size = blocks.size(found)
    return (size.prefixes <= limits.prefixes
            and size.entries <= limits.covering)


def _fits_addresses(named, extra, limits):
    if _count(named) + extra <= limits.addresses:
        return True
    found = set().union(*(found.addresses for found in named.values()))
    for block in _blocks(named):
        found.update(part.name for part in (block.cidr, *block.excepts)
                     if part.single)
    return len(found) + extra <= limits.addresses


def _fits_classes(named, extra, limits):
    if _count(named) + extra <= limits.classes:
        return True
    size = blocks.size(_blocks(named))
    coverage = blocks.Coverage()
    coverage.update({name: found.block for name, found in named.items()
                     if found.block})
    sets: dict[str, list[str]] = {}
    for selector in sorted(named):
        for address in named[selector].addresses:
            sets.setdefault(address, []).append(selector)
    return len({(tuple(found), coverage.of(address))
                for address, found in sets.items()}
               ) + extra + size.prefixes + size.addresses <= limits.classes
