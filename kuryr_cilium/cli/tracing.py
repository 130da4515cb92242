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

"""Judging a path at both ends, by three that must agree. Pure.

What is *loaded* in the node's maps decides. What the controller *compiles*
of the API's objects should be loaded, and the *oracle* reads the same
objects slowly, by the specifications alone. Where they differ, something is
wrong: the node is behind, its maps are damaged, or the compiler errs.
"""

import dataclasses
from typing import Any, Callable, Mapping, Optional

from kuryr_cilium.cli import compiled as compiled_
from kuryr_cilium.cli import places
from kuryr_cilium.policy import model

Decision = compiled_.Decision

PROTOCOLS = {'icmp': model.ICMP, 'icmpv6': model.ICMPV6, **{
    name.lower(): number for name, number in model.PROTOCOLS.items()}}
_VERSIONS = {'icmp': (4,), 'icmpv6': (6,)}

#: Where a direction is judged.
HERE = 'here'
ELSEWHERE = 'elsewhere'
NOWHERE = 'nowhere'

ALLOW = 'allow'
DENY = 'deny'
MIXED = 'mixed'
UNKNOWN = 'unknown'

RESTART = ('Restart kuryr-cilium-agent on this node: it writes all entries '
           'anew. Then report it')


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow.

    :ivar protocol: one of PROTOCOLS.
    :ivar port: destination port; None of ICMP.
    :ivar icmp_type: None of anything else.
    """

    protocol: str
    port: Optional[int] = None
    icmp_type: Optional[int] = None

    def __str__(self):
        if self.icmp_type is not None:
            return '%s type %d' % (self.protocol, self.icmp_type)
        return '%s/%d' % (self.protocol, self.port)

    @property
    def number(self) -> int:
        """IANA number of the protocol."""
        return PROTOCOLS[self.protocol]

    @property
    def key(self) -> int:
        """What stands for the port where packets are judged."""
        return self.port if self.icmp_type is None else self.icmp_type << 8

    @property
    def versions(self) -> tuple[int, ...]:
        """Address families that it can be of."""
        return _VERSIONS.get(self.protocol, (4, 6))


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One direction of a pod with one address of the other end.

    :ivar loaded: by the node's maps; None if they are elsewhere.
    :ivar details: what was looked up in the maps.
    :ivar compiled: None if the API server was not asked.
    :ivar oracle: None likewise.
    :ivar isolated_by: names of the policies because of which only what a
        rule allows passes, as far as the API server was asked.
    :ivar limited: why the endpoint denies everything against its policies.
    :ivar fault: what is wrong and what to do, '' if nothing is.
    """

    peer: str
    version: int
    loaded: Optional[Decision] = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compiled: Optional[Decision] = None
    oracle: Optional[Decision] = None
    isolated_by: tuple[str, ...] = ()
    limited: str = ''
    fault: str = ''

    @property
    def decision(self) -> Optional[Decision]:
        """What counts: what is loaded, or should be if that isn't seen."""
        return self.loaded or self.compiled


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """One direction of a path.

    :ivar judged: HERE, ELSEWHERE or NOWHERE.
    :ivar why: why it is not judged here.
    :ivar node: the node where it is judged.
    """

    direction: str
    place: places.Place
    judged: str
    why: str = ''
    node: str = ''
    checks: tuple[Check, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Traced:
    """A path with what is said of it."""

    source: places.Place
    destination: places.Place
    packet: Packet
    egress: Side
    ingress: Side

    @property
    def faults(self) -> list[str]:
        """What is wrong."""
        return [check.fault for side in (self.egress, self.ingress)
                for check in side.checks if check.fault]

    @property
    def verdict(self) -> str:
        """ALLOW, DENY, MIXED (by address) or UNKNOWN (judged elsewhere)."""
        found = {self._verdict(version) for version in self.packet.versions
                 if self.source.of_version(version)
                 and self.destination.of_version(version)}
        return found.pop() if len(found) == 1 else MIXED

    def _verdict(self, version):
        verdicts = set()
        for side in (self.egress, self.ingress):
            if side.judged != NOWHERE:
                verdicts |= {_verdict(check) for check in side.checks
                             if check.version == version} or {UNKNOWN}
        return next((verdict for verdict in (DENY, UNKNOWN)
                     if verdict in verdicts), ALLOW)


class Tracer:
    """Asks the three.

    :param host: name of this node.
    :param ask: (uid, direction, peer, protocol, port) -> what the agent
        says of what is loaded.
    :param compiled: None if the API server was not asked.
    :param oracle: (direction, the pod's place, the peer's place, its
        address, packet) -> Decision; None if the API server was not asked.
    """

    def __init__(self, host: str, ask: Callable[..., Mapping[str, Any]],
                 compiled: Optional[compiled_.Compiled] = None,
                 oracle: Optional[Callable[..., Decision]] = None):
        self._host = host
        self._ask = ask
        self._compiled = compiled
        self._oracle = oracle

    def trace(self, source: places.Place, destination: places.Place,
              packet: Packet) -> Traced:
        """Judge the first packet from one end to the other."""
        return Traced(
            source, destination, packet,
            self._side(model.Direction.EGRESS, source, destination, packet),
            self._side(model.Direction.INGRESS, destination, source, packet))

    def _side(self, direction, subject, peer, packet):
        if subject.kind == places.ADDRESS and self._compiled is None:
            return Side(direction.value, subject, ELSEWHERE,
                        '%s may be a pod\'s, which the API server was not '
                        'asked; if so, that is judged on its node' % subject)
        why = nowhere(direction, subject, peer)
        if why:
            return Side(direction.value, subject, NOWHERE, why)
        here = subject.node == self._host
        checks = tuple(
            self._check(direction, subject, peer, address, version, packet,
                        here)
            for version in packet.versions if subject.of_version(version)
            for address in peer.of_version(version))
        if here:
            return Side(direction.value, subject, HERE, '', self._host,
                        checks)
        return Side(direction.value, subject, ELSEWHERE,
                    'the maps that judge it are on node %s' % subject.node,
                    subject.node, checks)

    def _check(self, direction, subject, peer, address, version, packet,
               here):
        check = Check(address, version, limited=subject.endpoint[
            direction.value]['why'] if subject.endpoint else '')
        if here and subject.endpoint is None:
            check = dataclasses.replace(
                check, loaded=Decision('drop', 'no-endpoint'))
        elif here:
            answer = self._ask(subject.uid, direction.value, address,
                               packet.number, packet.key)
            check = dataclasses.replace(
                check, loaded=_loaded(answer), details=answer)
        if self._compiled is not None:
            check = dataclasses.replace(
                check,
                compiled=self._compiled.judge(
                    subject.uid, direction, address, packet.number,
                    packet.key, peer.kind == places.NODE
                    and peer.node == subject.node),
                isolated_by=tuple(sorted(
                    policy.name
                    for policy in self._compiled.selecting(subject.uid)
                    if direction in policy.isolates)))
        if self._oracle is not None:
            check = dataclasses.replace(check, oracle=self._oracle(
                direction, subject, peer, address, packet))
        return dataclasses.replace(check, fault=fault(
            direction, subject, check))


def fault(direction: model.Direction, subject: places.Place,
          check: Check) -> str:
    """What is wrong with what the three say, '' if nothing is.

    An endpoint that is being set up, or that denies everything because a
    limit was exceeded, differs and is no fault.
    """
    loaded, compiled, oracle = check.loaded, check.compiled, check.oracle
    where = '%s of %s %s %s: ' % (
        direction.value, subject,
        'to' if direction is model.Direction.EGRESS else 'from', check.peer)
    if loaded is not None and loaded.reason == 'tables':
        return where + ('an entry of the loaded ruleset is missing, so it '
                        'drops. %s.' % RESTART)
    endpoint = subject.endpoint
    excused = loaded is not None and (
        loaded.reason == 'own-node' or endpoint is None
        or endpoint['state'] != 'ready'
        or endpoint[direction.value]['why'])
    if loaded is not None and compiled is not None and not excused:
        if loaded.ruleset != compiled.ruleset:
            return where + (
                'what is loaded (%s) is not what the controller compiles '
                '(%s). The node is behind, or has another view: look at '
                '"view" and at the check "policy" of "kuryr-cilium status", '
                'and at the log of kuryr-cilium-agent; if both are well, '
                'compare the options [policy] of the controllers with those '
                'of this node, and the versions.' % (
                    text(loaded, check), text(compiled, check)))
        if _content(loaded) != _content(compiled):
            return where + (
                'the ruleset is the right one, but its entries in the maps '
                'say "%s" where "%s" was compiled. %s.' % (
                    text(loaded, check), text(compiled, check), RESTART))
    judged = compiled or (None if excused else loaded)
    if judged is not None and oracle is not None and (
            _meaning(judged) != _meaning(oracle)
            or judged.rules and oracle.rules
            and _policies(judged).isdisjoint(_policies(oracle))):
        return where + (
            'the compiler says "%s", and the oracle, which reads the '
            'policies by their specification, says "%s". One of them errs: '
            'report it with the output of this command with -f json and '
            'the policies that select the pod.' % (
                text(judged, check), text(oracle, check)))
    return ''


def text(decision: Decision, check: Check) -> str:
    """A decision in words."""
    if decision.rules:
        shown = ', '.join(decision.rules[:3])
        if len(decision.rules) > 3:
            shown += ' and %d more' % (len(decision.rules) - 3)
        return '%s by %s%s' % (
            decision.verdict, shown,
            ', tier %s' % decision.tier if decision.tier else '')
    if decision.tier == model.Tier.DEFAULT.name.lower():
        return 'allow: no rule decides, and no policy isolates it'
    if decision.reason == 'own-node':
        return 'allow: the node itself sends it'
    if decision.verdict == ALLOW:
        return 'allow: no policy isolates it'
    if decision.reason == 'policy':
        return 'drop: no rule allows it' + (
            '; isolated by ' + ', '.join(check.isolated_by)
            if check.isolated_by else '')
    if decision.ruleset == model.DENY_ALL:
        return 'deny: everything' + (
            ', since ' + check.limited if check.limited else '')
    return '%s: %s' % (decision.verdict, decision.reason or 'no rule')


def _loaded(answer):
    return Decision(answer['verdict'], answer['reason'] or '',
                    tuple(answer['rule'] or ()),
                    str(answer['tier'] or '').lower(),
                    answer['ruleset_id'] or '')


def _content(decision):
    return (decision.verdict, frozenset(decision.rules), decision.tier)


def _meaning(decision):
    """What a decision and the oracle's have in common if both are right.

    Of equal precedence the oracle names every rule that matches, and a
    group every rule that was merged into it.
    """
    tier = decision.tier if decision.rules else ''
    return decision.verdict == ALLOW, tier


def _policies(decision):
    return {rule.partition(' ')[0] for rule in decision.rules}


def _verdict(check):
    if check.decision is None:
        return UNKNOWN
    return ALLOW if check.decision.verdict == ALLOW else DENY


def nowhere(direction, subject, peer):
    """Why no policy judges a direction, '' if one does."""
    if subject.kind != places.POD:
        does = ('sends' if direction is model.Direction.EGRESS
                else 'receives')
        return '%s is no pod: policy does not judge what it %s' % (
            subject, does)
    if peer.kind == places.POD and peer.uid == subject.uid:
        return 'what a pod sends to itself does not leave it'
    if (direction is model.Direction.INGRESS and peer.kind == places.NODE
            and peer.node == subject.node):
        return ('what a node itself sends to its own pods is always allowed '
                '(kubelet\'s probes)')
    return ''
