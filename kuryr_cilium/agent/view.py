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
from typing import Iterable, Mapping, Optional

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


def assemble(epoch: int, held: Mapping[str, Held],
             former: Mapping[str, Held] = {},
             view: Optional[model.View] = None) -> Assembled:
    """The view of what is held, completed so that what is missing denies.

    :param former: what was held when another view was assembled.
    :param view: that view; selectors whose parts are the same are taken
        from it.
    """
    problems = []
    endpoints, rulesets, selectors = {}, {}, {}
    for item in held.values():
        value = item.value
        if isinstance(value, model.Endpoint):
            endpoints[value.uid] = value
        elif isinstance(value, model.RuleSet):
            rulesets[value.id] = value
        elif isinstance(value, model.Selector):
            if value.parts:
                value = _whole(value, held, former, view, problems)
            if value is not None:
                selectors[value.id] = value
    outside = {name for name, selector in selectors.items()
               if selector.block is not None and selector.block.outside}
    for ruleset in list(rulesets.values()):
        missing = (entities.needed(_peers(ruleset), outside)
                   - selectors.keys())
        if missing:
            del rulesets[ruleset.id]
            problems.append('ruleset:%s: selector %s is missing' % (
                ruleset.id, min(missing)))
    for endpoint in list(endpoints.values()):
        closed = _closed(endpoint, rulesets)
        if closed is not endpoint:
            endpoints[endpoint.uid] = closed
            problems.append('endpoint:%s (%s/%s): a ruleset is missing, it '
                            'denies' % (endpoint.uid, endpoint.namespace,
                                        endpoint.name))
    return Assembled(
        model.View(epoch, True, endpoints, rulesets, selectors),
        tuple(problems))


def _whole(head, held, former, view, problems):
    """A selector with the members of its parts; None if one is missing."""
    keys = [objects.key(model.Members(head.id, number))
            for number in range(head.parts)]
    missing = next((key for key in keys if key not in held), None)
    if missing is not None:
        problems.append('selector:%s: %s is missing' % (head.id, missing))
        return None
    if view is not None and head.id in view.selectors and all(
            held[key] is former.get(key)
            for key in (objects.key(head), *keys)):
        return view.selectors[head.id]
    members = [member for key in keys for member in held[key].value.members]
    members.sort(key=lambda member: member.uid)
    return dataclasses.replace(head, members=tuple(members), parts=0)


def _peers(ruleset):
    named = set()
    for group in ruleset.groups:
        named |= group.peers or frozenset()
    return named


def _closed(endpoint, rulesets):
    """The endpoint with DENY_ALL in place of rulesets that aren't there."""
    known = (model.ALLOW_ALL, model.DENY_ALL)
    missing = {
        direction: model.DENY_ALL for direction in ('ingress', 'egress')
        if getattr(endpoint, direction) not in known and
        getattr(endpoint, direction) not in rulesets}
    return dataclasses.replace(endpoint, **missing) if missing else endpoint
