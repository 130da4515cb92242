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

"""The commands that show the agent's state and what it dropped."""

from cliff import lister
from cliff import show

from kuryr_cilium.cli import columns


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
            ('checks', columns.Fields(status['checks'])),
            ('view', columns.Fields(status['view'])),
            ('endpoints', columns.Fields(status['endpoints'])),
            ('releases_waiting', status['releases_waiting']),
        ))


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
