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

import os
import pathlib

from cliff import app
from cliff import commandmanager
from oslo_config import cfg

from kuryr_cilium.cli import client
from kuryr_cilium.cli import cluster
from kuryr_cilium.cli import commands
from kuryr_cilium.cli import endpoints
from kuryr_cilium.cli import monitor
from kuryr_cilium.cli import node
from kuryr_cilium.cli import policies
from kuryr_cilium.cli import rulesets
from kuryr_cilium.cli import services
from kuryr_cilium.cli import trace
from kuryr_cilium.conf import agent as agent_conf
from kuryr_cilium.conf import kubernetes as kubernetes_conf
from kuryr_cilium.conf import policy as policy_conf
from kuryr_cilium.k8s import access
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.linux import netlink
from kuryr_cilium.policy import kinds

COMMANDS = {
    'status': commands.Status,
    'endpoint list': endpoints.EndpointList,
    'endpoint show': endpoints.EndpointShow,
    'policy list': policies.PolicyList,
    'policy show': policies.PolicyShow,
    'policy trace': trace.PolicyTrace,
    'ruleset list': rulesets.RulesetList,
    'service list': services.ServiceList,
    'service show': services.ServiceShow,
    'drop list': commands.DropList,
    'monitor': monitor.Monitor,
}

NAME = 'kuryr-cilium'


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
        parser.add_argument(
            '--kubeconfig', metavar='FILE',
            default=os.environ.get('KUBECONFIG', '').split(os.pathsep)[0],
            help='whose rights are used to list pods and policies (default: '
                 'KUBECONFIG in the environment, else those of the agent, '
                 'which may not list policies)')
        return parser

    def run(self, argv):
        # NOTE: without a command cliff would open a prompt.
        return super().run(argv or ['help'])

    def initialize_app(self, argv):
        self._conf = _conf(self.options.config_file)
        self.agent = client.AgentClient(
            self.options.socket or
            str(pathlib.Path(self._conf.agent.run_dir) / 'api.sock'))

    def node(self):
        """What is known of this node now; a new one knows nothing yet."""
        policy = self._conf.policy
        return node.Node(
            self.agent, self._cluster, netlink.addresses,
            kinds.Options(tuple(policy.exempt_namespaces),
                          policy.allow_egress_to_own_node))

    def _cluster(self):
        """List what policy is made of.

        :raises: exceptions.KubernetesError, KubernetesAccessInvalid.
        """
        if self.options.kubeconfig:
            api = k8s_client.Client(
                access.from_kubeconfig(self.options.kubeconfig),
                self._conf.kubernetes.timeout,
                self._conf.kubernetes.page_size, NAME)
        else:
            api = k8s_client.Client.from_conf(self._conf, NAME)
        try:
            return cluster.read(api)
        finally:
            api.close()


def _conf(config_file):
    conf = cfg.ConfigOpts()
    for options in (agent_conf, kubernetes_conf, policy_conf):
        options.register_opts(conf)
    conf([], project=NAME, prog=NAME,
         default_config_files=[config_file] if config_file else None)
    return conf
