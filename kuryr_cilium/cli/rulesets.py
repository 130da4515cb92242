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

"""The commands that show the rulesets of this node."""

from cliff import columns as cliff_columns
from cliff import lister

from kuryr_cilium.cli import columns


class RulesetList(lister.Lister):
    """List the rulesets of this node with the policies they come from."""

    def take_action(self, parsed_args):
        node = self.app.node()
        return (('direction', 'ruleset', 'policies', 'endpoints', 'rules',
                 'entries'), [
            (r['direction'], columns.Short(r['ruleset']),
             columns.Lines(r['policies']), columns.Lines(r['endpoints']),
             _Rules(r['rules']),
             columns.Fields(node.entries(r['ruleset'])))
            for r in node.described])


class _Rules(cliff_columns.FormattableColumn):

    def human_readable(self):
        if not self._value:
            return 'nothing is allowed'
        return '\n'.join('%s %s on %s' % (
            rule['verdict'], ' or '.join(rule['peers']),
            ', '.join(rule['ports'])) for rule in self._value)
