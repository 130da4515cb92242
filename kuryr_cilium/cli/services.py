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

"""The commands that show the services that pods of this node reach."""

from cliff import columns as cliff_columns
from cliff import lister
from cliff import show

from kuryr_cilium.cli import columns
from kuryr_cilium.cli import endpoints
from kuryr_cilium import exceptions


class ServiceList(lister.Lister):
    """List the services that pods of this node reach."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--namespace',
                            help='only services of this namespace')
        return parser

    def take_action(self, parsed_args):
        return (('namespace', 'name', 'addresses', 'external', 'ports',
                 'backends', 'policies', 'state'), [
            (s['namespace'], s['name'], columns.Lines(s['addresses']),
             columns.Lines(s['external']),
             columns.Lines([_port(port) for port in s['ports']]), _backends(s),
             columns.Lines(_policies(s)), s['state'])
            for s in known(self.app)
            if parsed_args.namespace in (None, s['namespace'])])


class ServiceShow(show.ShowOne):
    """Show one service: its addresses, ports and backends."""

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'service', metavar='NAMESPACE/NAME',
            help='the service; one of its addresses will do')
        return parser

    def take_action(self, parsed_args):
        service = dict(_find(known(self.app), parsed_args.service))
        for field in ('addresses', 'external'):
            service[field] = columns.Lines(service[field])
        service['ports'] = _Ports(service['ports'])
        service['source_ranges'] = _Ranges(service['source_ranges'])
        return zip(*service.items())


class _Ports(cliff_columns.FormattableColumn):

    def human_readable(self):
        return '\n'.join(line for port in self._value for line in (
            _port(port), *map(_backend, port['backends'])))


class _Ranges(cliff_columns.FormattableColumn):

    def human_readable(self):
        return '\n'.join(_ranges(self._value))


def known(app):
    """What the agent says of all services.

    :raises: exceptions.ServicesOff
    """
    answer = app.agent.get('/v1/services')
    if not answer['enabled']:
        raise exceptions.ServicesOff()
    if answer['trouble']:
        app.stderr.write('The services may be out of date: %s\n' %
                         answer['trouble'])
    return answer['services']


def _find(services, wanted):
    named = wanted if '/' in wanted else 'default/' + wanted
    names = {}
    for service in services:
        names['%(namespace)s/%(name)s' % service] = service
        if wanted in service['addresses']:
            return service
    if named in names:
        return names[named]
    raise exceptions.NotFound(
        what='Service ' + named + endpoints.near(named, names),
        command='kuryr-cilium service list')


def _port(port):
    text = '%(protocol)s/%(port)d' % port
    if port['name']:
        text += ' ' + port['name']
    if port['node_port']:
        text += ', node port %(node_port)d' % port
    return text


def _policies(service):
    """What is not so by default."""
    found = ['%s Local' % name for name in ('internal', 'external')
             if service[name + '_traffic_policy'] == 'Local']
    if service['source_ranges'] is not None:
        found += ['from ' + text for text in _ranges(
            service['source_ranges'])]
    return found


def _ranges(ranges):
    if ranges is None:
        return ['everybody']
    return ranges or ['nobody']


def _backends(service):
    """How many addresses serve a port of it, ready or draining."""
    return len({backend['address'] for port in service['ports']
                for backend in port['backends']})


def _backend(backend):
    address = backend['address']
    if ':' in address:
        address = '[%s]' % address
    text = '  %s:%d %s' % (address, backend['port'], backend['state'])
    return text + (' on ' + backend['node'] if backend['node'] else '')
