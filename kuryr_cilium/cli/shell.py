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

"""The operator's command line of a node."""

import pathlib

from cliff import app
from cliff import commandmanager
from oslo_config import cfg

from kuryr_cilium.cli import client
from kuryr_cilium.cli import commands
from kuryr_cilium.conf import agent as agent_conf

COMMANDS = {
    'status': commands.Status,
    'endpoint list': commands.EndpointList,
    'endpoint show': commands.EndpointShow,
    'policy list': commands.PolicyList,
    'drop list': commands.DropList,
    'monitor': commands.Monitor,
}


class Shell(app.App):
    """``kuryr-cilium``.

    :ivar agent: the agent of this node.
    """

    # NOTE: cliff writes every message to a file otherwise.
    DEFAULT_VERBOSE_LEVEL = 1

    def __init__(self, version, **kwargs):
        manager = commandmanager.CommandManager()
        for name, command in COMMANDS.items():
            manager.add_command(name, command)
        super().__init__(
            description='Look into the kuryr-cilium agent of this node.',
            version=version, command_manager=manager, deferred_help=True,
            **kwargs)
        self.agent = None

    def build_option_parser(self, description, version,
                            argparse_kwargs=None):
        parser = super().build_option_parser(description, version,
                                             argparse_kwargs)
        parser.add_argument(
            '--config-file', metavar='FILE',
            help='configuration of the agent, for [agent] run_dir (default: '
                 '/etc/kuryr-cilium/kuryr-cilium.conf if it is there)')
        parser.add_argument(
            '--socket', metavar='PATH',
            help='the agent\'s api.sock itself')
        return parser

    def run(self, argv):
        # NOTE: without a command cliff would open a prompt.
        return super().run(argv or ['help'])

    def initialize_app(self, argv):
        path = self.options.socket or _socket(self.options.config_file)
        self.agent = client.AgentClient(path)


def _socket(config_file):
    conf = cfg.ConfigOpts()
    agent_conf.register_opts(conf)
    conf([], project='kuryr-cilium', prog='kuryr-cilium',
         default_config_files=[config_file] if config_file else None)
    return str(pathlib.Path(conf.agent.run_dir) / 'api.sock')
