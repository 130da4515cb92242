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

"""From what the controller sends to a view that can be enforced. Pure.

What is missing denies: an endpoint whose ruleset is not there is judged by
DENY_ALL, and a ruleset that names a selector that is not there is taken for
missing, since a rule with fewer peers may allow more than it should (a deny
rule) as well as less.
"""

import dataclasses
import itertools
from typing import Iterable, Mapping

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """An object of the view.

    :ivar digest: of the wire form as it was received, by which the
        controller compares.
    """

    value: objects.Object
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Assembled:
    """A view with what is wrong with it, for the log."""

    view: model.View
    problems: tuple[str, ...]


def merge(held: Mapping[str, Held], changed: Mapping[str, objects.Object],
          digests: Mapping[str, str],
          removed: Iterable[str]) -> dict[str, Held]:
    """What is held after a whole answer of the controller."""
    merged = dict(held)
    for key in removed:
        merged.pop(key, None)
    for key, value in changed.items():
        merged[key] = Held(value, digests[key])
    return merged


def assemble(epoch: int, held: Mapping[str, Held]) -> Assembled:
    """The view of what is held, completed so that what is missing denies."""
    return Assembler().assemble(epoch, held)


class Assembler:
    """Makes one view after another; looks only at what is different.

    Objects that did not change are the same ones in the next view.
    """

    def __init__(self):
        self._held: Mapping[str, Held] = {}
        self._endpoints: dict[str, model.Endpoint] = {}
        self._rulesets: dict[str, model.RuleSet] = {}
        # Ruleset id -> selectors that tell its peers.
        self._named: dict[str, set[str]] = {}
        self._selectors: dict[str, model.Selector] = {}
        # Ids of those that mean only what is outside of the cluster.
        self._outside: set[str] = set()
        # Selector id -> key of a part that is missing.
        self._lacking: dict[str, str] = {}

    def assemble(self, epoch: int, held: Mapping[str, Held]) -> Assembled:
        """The view of what is held, completed so that what is missing denies.

        :param held: must not be changed afterwards.
        """
        self._take(held)
        problems = ['selector:%s: %s is missing' % lacking
                    for lacking in self._lacking.items()]
        rulesets = dict(self._rulesets)
        for name, named in self._named.items():
            missing = self._missing(named)
            if missing:
                del rulesets[name]
                problems.append('ruleset:%s: selector %s is missing' % (
                    name, min(missing)))
        known = {model.ALLOW_ALL, model.DENY_ALL, *rulesets}
        endpoints = dict(self._endpoints)
        for uid, endpoint in self._endpoints.items():
            if endpoint.ingress not in known or endpoint.egress not in known:
                endpoints[uid] = _closed(endpoint, known)
                problems.append('endpoint:%s (%s/%s): a ruleset is missing, '
                                'it denies' % (uid, endpoint.namespace,
                                               endpoint.name))
        return Assembled(
            model.View(epoch, True, endpoints, rulesets,
                       dict(self._selectors)), tuple(problems))

    def _take(self, held):
        """Take over what is different."""
        former, self._held = self._held, held
        # Selectors are put together when all of their parts are known.
        heads = set()
        for key in former.keys() - held.keys():
            value = former[key].value
            if isinstance(value, model.Endpoint):
                del self._endpoints[value.uid]
            elif isinstance(value, model.RuleSet):
                del self._rulesets[value.id], self._named[value.id]
            else:
                heads.update(_head(value))
        for key, item in held.items():
            if former.get(key) is item:
                continue
            value = item.value
            if isinstance(value, model.Endpoint):
                self._endpoints[value.uid] = value
            elif isinstance(value, model.RuleSet):
                self._rulesets[value.id] = value
                self._named[value.id] = entities.needed(_peers(value))
            else:
                heads.update(_head(value))
        for name in heads:
            self._put_together(name)

    def _put_together(self, name):
        """Make a selector of its head and its parts."""
        self._selectors.pop(name, None)
        self._lacking.pop(name, None)
        self._outside.discard(name)
        head = self._held.get('selector:' + name)
        if head is None:
            return
        selector = head.value
        if selector.parts:
            keys = [objects.key(model.Members(name, number))
                    for number in range(selector.parts)]
            missing = next((key for key in keys if key not in self._held),
                           None)
            if missing is not None:
                self._lacking[name] = missing
                return
            selector = dataclasses.replace(selector, parts=0, members=tuple(
                itertools.chain.from_iterable(
                    self._held[key].value.members for key in keys)))
        self._selectors[name] = selector
        if selector.block is not None and selector.block.outside:
            self._outside.add(name)

    def _missing(self, named):
        """Selectors that are needed, but not there."""
        if not named.isdisjoint(self._outside):
            named = named | entities.needed((entities.WORLD,))
        if named <= self._selectors.keys():
            return ()
        return named - self._selectors.keys()


def _head(value):
    """The id of the selector that an object is a part of."""
    if isinstance(value, model.Selector):
        yield value.id
    elif isinstance(value, model.Members):
        yield value.selector


def _peers(ruleset):
    named = set()
    for group in ruleset.groups:
        named |= group.peers or frozenset()
    return named


def _closed(endpoint, known):
    """The endpoint with DENY_ALL in place of rulesets that aren't there."""
    return dataclasses.replace(endpoint, **{
        direction: model.DENY_ALL for direction in ('ingress', 'egress')
        if getattr(endpoint, direction) not in known})
