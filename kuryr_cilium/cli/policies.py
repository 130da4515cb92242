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

"""The commands that show the policies of this node."""

from cliff import columns as cliff_columns
from cliff import lister
from cliff import show

from kuryr_cilium.cli import columns
from kuryr_cilium.cli import endpoints
from kuryr_cilium.cli import inforce
from kuryr_cilium import exceptions


class PolicyList(lister.Lister):
    """List the cluster's policies: whom they select here, if they hold."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--namespace',
                            help='only policies of this namespace')
        return parser

    def take_action(self, parsed_args):
        return (('kind', 'namespace', 'name', 'endpoints', 'state', 'why'), [
            (p.kind, p.namespace, p.name, len(p.endpoints), p.state, p.why)
            for p in _policies(self.app.node())
            if parsed_args.namespace in (None, p.namespace)])


class PolicyShow(show.ShowOne):
    """Show one policy: the pods that it selects here, what it costs."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'policy', metavar='KIND/NAMESPACE/NAME',
            help='KIND/NAME of a kind that is in no namespace')
        return parser

    def take_action(self, parsed_args):
        node = self.app.node()
        policy = _find(_policies(node), parsed_args.policy)
        return zip(*(
            ('kind', policy.kind), ('namespace', policy.namespace),
            ('name', policy.name), ('uid', policy.uid),
            ('state', policy.state), ('why', policy.why),
            ('problems', columns.Lines(policy.problems)),
            ('ingress', columns.Lines(policy.ingress)),
            ('egress', columns.Lines(policy.egress)),
            ('rulesets', _Entries([
                {'ruleset': ruleset, **node.entries(ruleset)}
                for ruleset in policy.rulesets])),
        ))


class _Entries(cliff_columns.FormattableColumn):

    def human_readable(self):
        return '\n'.join('%s: %s' % (item['ruleset'][:12], ', '.join(
            f'{name} {count}' for name, count in item.items()
            if name != 'ruleset')) for item in self._value)


def _policies(node):
    if node.cluster is None:
        raise exceptions.ClusterNotAsked(reason=node.not_asked)
    return inforce.policies(node.cluster, node.compiled, node.endpoints)


def _find(policies, wanted):
    by_path = {policy.path.lower(): policy for policy in policies}
    found = by_path.get(wanted.lower())
    if found is None:
        raise exceptions.PolicyUnknown(
            policy=wanted, near=endpoints.near(
                wanted, [policy.path for policy in policies]))
    return found
