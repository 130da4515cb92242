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

"""The command that says what becomes of a packet, and why."""

import argparse
import dataclasses
import shlex
import time

from cliff import columns as cliff_columns
from cliff import show

from kuryr_cilium.cli import columns
from kuryr_cilium.cli import places
from kuryr_cilium.cli import reached
from kuryr_cilium.cli import services
from kuryr_cilium.cli import tracing
from kuryr_cilium import exceptions

#: Seconds until a difference is looked at again: it may be a change that is
#: just being made.
RECHECK = 1.0

_ICMP = ('icmp', 'icmpv6')
_PREFIXES = {places.NODE: 'node/', reached.SERVICE: 'service/'}

#: Exit code when what must agree does not.
FAULT = 2


class PolicyTrace(show.ShowOne):
    """Show what becomes of a packet, and which rule decides.

    Asked are the maps of this node, what the controller compiles of the
    API's objects, and an oracle. Exits with 2 if they do not agree.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--from', dest='source', required=True, metavar='PLACE',
            help='NAMESPACE/NAME of a pod, node/NAME, or an address')
        parser.add_argument(
            '--to', dest='destination', required=True, metavar='PLACE',
            help='likewise, or service/NAMESPACE/NAME; ADDRESS:PORT, too')
        parser.add_argument(
            '--protocol', default='tcp', choices=sorted(tracing.PROTOCOLS),
            help='default: tcp')
        parser.add_argument('--port', type=_number(1, 65535),
                            help='destination port of TCP, UDP, SCTP')
        parser.add_argument(
            '--icmp-type', type=_number(0, 255), metavar='TYPE',
            help='type of ICMP or ICMPv6; default: echo request')
        return parser

    def run(self, parsed_args):
        self._faults = []
        return super().run(parsed_args) or (FAULT if self._faults else 0)

    def take_action(self, parsed_args):
        traced, not_asked = self._trace(parsed_args)
        if traced.faults:
            time.sleep(RECHECK)
            traced, not_asked = self._trace(parsed_args)
        self._faults = traced.faults
        if isinstance(traced, reached.Reached):
            sides = [('backends', _Backends([
                _backend(backend, parsed_args)
                for backend in traced.backends]))]
        else:
            sides = [(name, _Side(_side(getattr(traced, name), parsed_args)))
                     for name in ('egress', 'ingress')]
        return zip(*(
            ('from', _Place(_place(traced.source))),
            ('to', _Place(_place(traced.destination))),
            ('protocol', traced.packet.protocol),
            ('port', columns.Maybe(traced.packet.port)),
            ('icmp_type', columns.Maybe(traced.packet.icmp_type)),
            ('verdict', traced.verdict),
            *sides,
            ('not_asked', not_asked),
            ('faults', _Faults(traced.faults)),
        ))

    def _trace(self, parsed_args):
        node = self.app.node()
        finder = places.Finder(node.host, node.addresses, node.endpoints,
                               node.cluster, node.not_asked)
        known = reached.Services(lambda: services.known(self.app),
                                 self._who_answers)
        source = finder.find(parsed_args.source)
        text, port = reached.address_and_port(parsed_args.destination)
        destination = known.named(text)
        if destination is not None and parsed_args.port is None and (
                parsed_args.protocol not in _ICMP):
            port = known.port(destination, parsed_args.protocol)
        packet = _packet(parsed_args, port)
        destination = destination or finder.find(text)
        tracer = tracing.Tracer(node.host, self._ask, node.compiled,
                                node.oracle)
        if destination.kind == reached.SERVICE or (
                source.kind == places.POD
                and destination.kind != places.POD):
            found = known.trace(source, destination, packet, finder.find,
                                tracer.trace)
            if found is not None:
                return found, node.not_asked
        if destination.kind == reached.SERVICE or not any(
                source.of_version(version)
                and destination.of_version(version)
                for version in packet.versions):
            raise exceptions.NoPath(
                source=source, destination=destination,
                addresses=', '.join(source.addresses) or 'none',
                others=', '.join(destination.addresses) or 'none',
                packet=packet)
        return tracer.trace(source, destination, packet), node.not_asked

    def _who_answers(self, address, port, protocol):
        return self.app.agent.get('/v1/backends', address=address, port=port,
                                  protocol=protocol)

    def _ask(self, uid, direction, peer, protocol, port):
        return self.app.agent.get(
            '/v1/trace', uid=uid, direction=direction, peer=peer,
            protocol=protocol, port=port)


class _Place(cliff_columns.FormattableColumn):

    def human_readable(self):
        value = self._value
        if value['kind'] == places.ADDRESS:
            return value['addresses'][0]
        name = _PREFIXES.get(value['kind'], '') + value['name']
        text = '%s (%s)' % (name, ', '.join(value['addresses']))
        if value['kind'] == places.POD and value['node']:
            text += ' on node ' + value['node']
        return text


class _Backends(cliff_columns.FormattableColumn):

    def human_readable(self):
        lines = []
        for backend in self._value:
            address = backend['address']
            lines.append('%s:%d %s: %s' % (
                '[%s]' % address if ':' in address else address,
                backend['port'], backend['to']['name'] or 'no pod',
                backend['verdict']))
            for name in ('egress', 'ingress'):
                side = _Side(backend[name]).human_readable()
                first, *rest = side.splitlines()
                lines += ['  %s %s' % (name, first), *(
                    '  ' + line for line in rest)]
        return '\n'.join(lines) or 'none is ready: the sender is told'


class _Faults(cliff_columns.FormattableColumn):

    def human_readable(self):
        return '\n'.join(self._value) or 'none'


class _Side(cliff_columns.FormattableColumn):

    def human_readable(self):
        lines = []
        if self._value['judged'] == tracing.NOWHERE:
            return 'not judged: ' + self._value['why']
        if self._value['judged'] == tracing.ELSEWHERE:
            lines += [self._value['why'] + ', ask there:',
                      '  ' + self._value['run']]
        for check in self._value['checks']:
            lines += _lines(check)
        return '\n'.join(lines)


def _lines(check):
    """A check for people: what the others say only if it differs."""
    first = None
    for name in ('loaded', 'compiled', 'oracle'):
        decision = check[name]
        if decision is None:
            continue
        said = decision['text']
        if first is None:
            first = said
            yield 'with %s: %s' % (check['peer'], said)
            if name == 'loaded' and check['details']:
                yield '  loaded:   ' + _details(check['details'])
            else:
                yield '  %-9s the same' % (name + ':')
        elif said == first:
            yield '  %-9s the same' % (name + ':')
        else:
            yield '  %-9s %s' % (name + ':', said)
    if first is None:
        yield 'with %s: unknown here' % check['peer']


def _details(details):
    """What was looked up in the maps."""
    found = ['ruleset %s' % details['ruleset'],
             'class %s (%s)' % (details['class'], details['entity'])]
    if details['prefix']:
        found.append('by prefix ' + details['prefix'])
    if details['bit'] is not None:
        found.append('group %s' % details['bit'])
    return ', '.join(found)


def _place(place):
    return {'kind': place.kind, 'name': place.name, 'node': place.node,
            'uid': place.uid, 'addresses': list(place.addresses)}


def _backend(backend, parsed_args):
    return {'address': backend.address, 'port': backend.port,
            'to': _place(backend.traced.destination),
            'verdict': backend.traced.verdict,
            'egress': _side(backend.traced.egress, parsed_args),
            'ingress': _side(backend.traced.ingress, parsed_args)}


def _side(side, parsed_args):
    return {
        'pod': side.place.name if side.place.kind == places.POD else '',
        'judged': side.judged, 'node': side.node, 'why': side.why,
        'run': _command(parsed_args) if side.judged == tracing.ELSEWHERE
        else '',
        'checks': [{
            'peer': check.peer,
            'loaded': _decision(check.loaded, check),
            'details': dict(check.details),
            'compiled': _decision(check.compiled, check),
            'oracle': _decision(check.oracle, check),
            'isolated_by': list(check.isolated_by),
            'fault': check.fault,
        } for check in side.checks]}


def _decision(decision, check):
    if decision is None:
        return None
    return {**dataclasses.asdict(decision), 'rules': list(decision.rules),
            'text': tracing.text(decision, check)}


def _command(parsed_args):
    """The same question, for another node."""
    words = ['kuryr-cilium', 'policy', 'trace', '--from', parsed_args.source,
             '--to', parsed_args.destination,
             '--protocol', parsed_args.protocol]
    if parsed_args.port is not None:
        words += ['--port', str(parsed_args.port)]
    if parsed_args.icmp_type is not None:
        words += ['--icmp-type', str(parsed_args.icmp_type)]
    return shlex.join(words)


def _packet(parsed_args, port):
    """The packet; a port that the destination names is its port."""
    protocol = parsed_args.protocol
    if None not in (port, parsed_args.port) and port != parsed_args.port:
        raise exceptions.TraceInvalid(
            reason='--to names port %d and --port %d: leave one out' % (
                port, parsed_args.port))
    port = parsed_args.port if port is None else port
    if protocol in _ICMP:
        if port is not None:
            raise exceptions.TraceInvalid(
                reason='%s has no ports: leave --port out, or give '
                       '--icmp-type' % protocol)
        default = 8 if protocol == 'icmp' else 128
        return tracing.Packet(
            protocol, None, default if parsed_args.icmp_type is None
            else parsed_args.icmp_type)
    if parsed_args.icmp_type is not None:
        raise exceptions.TraceInvalid(
            reason='--icmp-type needs --protocol icmp or icmpv6')
    if port is None:
        raise exceptions.TraceInvalid(
            reason='give --port, the destination port of %s' % protocol)
    return tracing.Packet(protocol, port)


def _number(least, most):
    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                'must be a number from %d to %d' % (least, most))
        return number

    return parse
