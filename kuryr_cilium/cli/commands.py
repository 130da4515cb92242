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

"""The commands that show what the agent says."""

import json
import sys

from cliff import columns
from cliff import command
from cliff import lister
from cliff import show

from kuryr_cilium import exceptions


class _List(columns.FormattableColumn):
    """A list: one below the other for people."""

    def human_readable(self):
        return '\n'.join(self._value)


class _Status(columns.FormattableColumn):
    """A mapping: one "name: value" a line for people."""

    def human_readable(self):
        return '\n'.join(f'{name}: {value}'
                         for name, value in self._value.items())


class Status(show.ShowOne):
    """Show whether the agent of this node is ready, and its policy view."""

    def take_action(self, parsed_args):
        status = self.app.agent.get('/v1/status')
        return zip(*(
            ('host', status['host']),
            ('version', status['version']),
            ('pid', status['pid']),
            ('uptime_seconds', status['uptime_seconds']),
            ('ready', status['ready']),
            ('checks', _Status(status['checks'])),
            ('view', _Status(status['view'])),
            ('endpoints', _Status(status['endpoints'])),
            ('releases_waiting', status['releases_waiting']),
        ))


class EndpointList(lister.Lister):
    """List the pods that are plugged on this node."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--namespace', help='only pods of this namespace')
        return parser

    def take_action(self, parsed_args):
        endpoints = self.app.agent.get('/v1/endpoints')
        return (('namespace', 'name', 'state', 'addresses', 'mac', 'port_id',
                 'ingress', 'egress'), [
            (e['namespace'], e['name'], e['state'], _List(e['addresses']),
             e['mac'], e['port_id'], _judged(e['ingress']),
             _judged(e['egress']))
            for e in endpoints
            if parsed_args.namespace in (None, e['namespace'])])


class EndpointShow(show.ShowOne):
    """Show one pod that is plugged on this node."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'pod', metavar='NAMESPACE/NAME',
            help='the pod; its UID or the id of its Neutron port will do')
        return parser

    def take_action(self, parsed_args):
        wanted = parsed_args.pod
        if '/' not in wanted:
            named = 'default/' + wanted
        else:
            named = wanted
        for endpoint in self.app.agent.get('/v1/endpoints'):
            pod = '%(namespace)s/%(name)s' % endpoint
            if named == pod or wanted in (endpoint['uid'],
                                          endpoint['port_id']):
                endpoint['addresses'] = _List(endpoint['addresses'])
                for direction in ('ingress', 'egress'):
                    endpoint[direction] = _Status(endpoint[direction])
                return zip(*endpoint.items())
        raise exceptions.NotFound(what='Pod ' + named,
                                  command='kuryr-cilium endpoint list')


class PolicyList(lister.Lister):
    """List the rulesets of this node with the policies they come from."""

    def take_action(self, parsed_args):
        rulesets = self.app.agent.get('/v1/policies')
        return (('direction', 'policies', 'endpoints', 'rules'), [
            (r['direction'], _List(r['policies']), _List(r['endpoints']),
             _Rules(r['rules'])) for r in rulesets])


class _Rules(columns.FormattableColumn):

    def human_readable(self):
        if not self._value:
            return 'nothing is allowed'
        return '\n'.join('%s %s on %s' % (
            rule['verdict'], ' or '.join(rule['peers']),
            ', '.join(rule['ports'])) for rule in self._value)


class DropList(lister.Lister):
    """List the packets that were dropped, by reason."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--all', action='store_true',
                            help='also reasons for which none was dropped')
        return parser

    def take_action(self, parsed_args):
        drops = self.app.agent.get('/v1/drops')
        return ('reason', 'packets'), sorted(
            (item for item in drops.items() if item[1] or parsed_args.all),
            key=lambda item: (-item[1], item[0]))


class Monitor(command.Command):
    """Show flow events: first verdicts and drops, oldest first."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--follow', action='store_true',
                            help='go on as events come (Ctrl-C ends it)')
        parser.add_argument('--drops', action='store_true',
                            help='only what was dropped')
        parser.add_argument(
            '--pod', metavar='NAMESPACE/NAME',
            help='only events of this pod, as sender or receiver')
        parser.add_argument('--since', type=int, default=0, metavar='NUMBER',
                            help='only events after the one of this number')
        parser.add_argument('-f', '--format', default='text',
                            choices=('text', 'json'),
                            help='json: one object a line')
        return parser

    def take_action(self, parsed_args):
        events = self.app.agent.events(
            parsed_args.follow, parsed_args.since,
            'drop' if parsed_args.drops else None)
        try:
            for event in events:
                if parsed_args.pod in (None, event['pod'],
                                       event['source_pod'],
                                       event['destination_pod']):
                    self._print(event, parsed_args.format)
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # Whoever read it has seen enough: "kuryr-cilium monitor | head".
            sys.stdout = None
            return 0
        return 0

    def _print(self, event, form):
        print(json.dumps(event) if form == 'json' else line(event),
              file=self.app.stdout, flush=True)


def line(event: dict) -> str:
    """An event as a line for people."""
    text = '%s  %-5s %-7s %-6s %s -> %s' % (
        event['time'], event['verdict'], event['direction'],
        event['protocol'], _side(event, 'source'),
        _side(event, 'destination'))
    if event['reason']:
        text += '  (%s)' % event['reason']
    if event['policies']:
        text += '  [%s]' % ', '.join(event['policies'])
    return text


def _side(event, side):
    address, port, pod = (event[side], event[side + '_port'],
                          event[side + '_pod'])
    if not address:
        return pod or '?'
    if port:
        address = f'[{address}]:{port}' if ':' in address else (
            f'{address}:{port}')
    return f'{pod} {address}' if pod else address


def _judged(side):
    """What judges a direction, in a few words."""
    if side['policies']:
        return _List(side['policies'])
    return _List([side['verdict'] + (f': {side["why"]}' if side['why']
                                     else '')])
