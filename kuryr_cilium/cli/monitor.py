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

"""The command that shows flow events."""

import json
import sys

from cliff import command


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
    if event['service']:
        text += ' by service ' + event['service']
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
