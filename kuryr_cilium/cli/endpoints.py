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

"""The commands that show the pods of this node."""

import collections
import difflib

from cliff import lister
from cliff import show

from kuryr_cilium.cli import columns
from kuryr_cilium import exceptions

DIRECTIONS = ('ingress', 'egress')


class EndpointList(lister.Lister):
    """List the pods that are plugged on this node."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--namespace', help='only pods of this namespace')
        return parser

    def take_action(self, parsed_args):
        endpoints = self.app.agent.get('/v1/endpoints')
        return (('namespace', 'name', 'state', 'addresses', 'mac', 'port_id',
                 'ingress', 'egress', 'connections'), [
            (e['namespace'], e['name'], e['state'],
             columns.Lines(e['addresses']), e['mac'], e['port_id'],
             _judged(e['ingress']), _judged(e['egress']), e['connections'])
            for e in endpoints
            if parsed_args.namespace in (None, e['namespace'])])


class EndpointShow(show.ShowOne):
    """Show one pod that is plugged on this node, and what it costs."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'pod', metavar='NAMESPACE/NAME',
            help='the pod; its UID, one of its addresses or the id of its '
                 'Neutron port will do')
        return parser

    def take_action(self, parsed_args):
        node = self.app.node()
        endpoint = dict(_find(node.endpoints, parsed_args.pod))
        endpoint['addresses'] = columns.Lines(endpoint['addresses'])
        for direction in DIRECTIONS:
            side = endpoint[direction]
            endpoint[direction] = columns.Fields({
                **side, 'entries': node.entries(side['ruleset'])})
        endpoint['recent_drops'] = columns.Fields(
            self._drops(endpoint['uid']))
        return zip(*endpoint.items())

    def _drops(self, uid):
        """Events of drops that the agent still remembers, by reason."""
        return dict(collections.Counter(
            '%(direction)s %(reason)s' % event
            for event in self.app.agent.events(verdict='drop')
            if event['uid'] == uid).most_common())


def _judged(side):
    """What judges a direction, in a few words."""
    if side['policies']:
        return columns.Lines(side['policies'])
    if side['verdict'] == 'by policy':
        # A policy without rules leaves no name in a ruleset.
        return columns.Lines(['isolated, without rules'])
    return columns.Lines([side['verdict'] + (
        f': {side["why"]}' if side['why'] else '')])


def _find(endpoints, wanted):
    named = wanted if '/' in wanted else 'default/' + wanted
    names = {}
    for endpoint in endpoints:
        name = '%(namespace)s/%(name)s' % endpoint
        names[name] = endpoint
        if (wanted in (endpoint['uid'], endpoint['port_id'])
                or wanted in endpoint['addresses']):
            return endpoint
    if named in names:
        return names[named]
    raise exceptions.NotFound(what='Pod ' + named + near(named, names),
                              command='kuryr-cilium endpoint list')


def near(name, names):
    """Names that may have been meant, for a message."""
    found = difflib.get_close_matches(name, list(names), 3)
    return ' (near it: %s)' % ', '.join(found) if found else ''
