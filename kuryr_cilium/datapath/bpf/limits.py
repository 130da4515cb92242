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

from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium import exceptions
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import model


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How much one generation may hold on this node.

    :ivar ruleset_peer_rows: rows of one ruleset in kc_rs_peer.
    """

    endpoints: int = 4096
    rulesets: int = 8192
    classes: int = 65536
    addresses: int = 131072
    groups: int = 65536
    port_rows: int = 65536
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
          selectors: Mapping[str, frozenset[str]],
          live: Mapping[str, compiler.Table], extra_addresses: int,
          limits: Limits) -> Admission:
    """Decide which rulesets fit, before classes are known.

    :param wanted: ids that endpoints name.
    :param rulesets: of the view.
    :param selectors: addresses by selector id, of the view.
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
    sizes = {ruleset: sum(len(selectors.get(selector, ()))
                          for selector in table.selectors)
             for ruleset, table in tables.items()}
    order = sorted(tables, key=lambda ruleset: (
        ruleset not in live, sizes[ruleset], ruleset))
    for what, fits in (
            ('rulesets', lambda ids: len(ids) <= limits.rulesets),
            ('rule groups', lambda ids: sum(
                len(tables[i].groups) for i in ids) <= limits.groups),
            ('port prefixes', lambda ids: sum(
                port_rows(tables[i]) for i in ids) <= limits.port_rows),
            ('peer addresses', lambda ids: _fits_addresses(
                ids, tables, selectors,
                limits.addresses - extra_addresses)),
            ('peer classes', lambda ids: _fits_classes(
                ids, tables, selectors, extra_addresses, limits))):
        fitting = largest_prefix(order, fits)
        for ruleset in order[fitting:]:
            del tables[ruleset]
            refused[ruleset] = full(what)
        order = order[:fitting]
    return Admission(tables, refused)


def largest_prefix(items: Sequence[str],
                   fits: Callable[[Sequence[str]], bool]) -> int:
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


def port_rows(table: compiler.Table) -> int:
    """Rows of a ruleset in kc_rs_port."""
    return sum(len(rows.pages(bits)) for bits in table.ports.values())


def full(what: str) -> str:
    """Why an endpoint denies everything when the node's room is used up."""
    return (f'this node has no room for more {what}: merge policies, or '
            'spread the pods that they select over more nodes')


def _compile(ruleset, rulesets):
    if ruleset not in rulesets:
        raise exceptions.ViewUnusable(reason=f'ruleset {ruleset} is missing')
    return compiler.compile_ruleset(rulesets[ruleset])


def _check_selectors(table, selectors):
    for selector in table.selectors:
        # NOTE: entity selectors are never sent, see policy/entities.py. A
        # missing one could hide a deny rule's peers.
        if selector not in selectors and not selector.startswith('entity:'):
            raise exceptions.ViewUnusable(
                reason=f'selector {selector} of ruleset {table.id} is '
                       'missing')


def _named(ids, tables):
    return {selector for ruleset in ids
            for selector in tables[ruleset].selectors}


def _count(named, selectors):
    return sum(len(selectors.get(selector, ())) for selector in named)


def _fits_addresses(ids, tables, selectors, limit):
    named = _named(ids, tables)
    if _count(named, selectors) <= limit:
        return True
    found = set()
    for selector in named:
        found.update(selectors.get(selector, ()))
    return len(found) <= limit


def _fits_classes(ids, tables, selectors, extra, limits):
    named = _named(ids, tables)
    if _count(named, selectors) + extra <= limits.classes:
        return True
    sets: dict[str, list[str]] = {}
    for selector in sorted(named):
        for address in selectors.get(selector, ()):
            sets.setdefault(address, []).append(selector)
    return len({tuple(found) for found in sets.values()}) + extra \
        <= limits.classes
