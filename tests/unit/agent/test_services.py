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

"""Services on disk that come into force, and what is told of them."""

import itertools
import pathlib

import fixtures
import prometheus_client

from kuryr_cilium.agent import services
from kuryr_cilium.agent import view
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions
from kuryr_cilium.lb import model
from kuryr_cilium.lb import plan
from kuryr_cilium.rpc import objects
from tests import base
from tests.unit.agent import samples


class Datapath(samples.Datapath):
    """Plans services, and writes nothing."""

    def __init__(self):
        super().__init__()
        self.table = plan.Table('node-a', '', itertools.count(1).__next__,
                                plan.Limits(backends=2))
        self.broken = None

    def serve(self, found, node, nodes):
        if self.broken:
            raise self.broken
        gone = dict.fromkeys(self.table.services.keys() - found.keys())
        self.table.update({**gone, **found})
        return self.table.refused

    def conflicts(self):
        return self.table.conflicts()


class Controller(samples.Controller):
    """Answers services() from what the test puts into it."""

    def services(self, host, have, keys=None):
        answer = self.sync_all(host, have)
        if keys is None:
            return answer
        changed = {key: answer.changed[key] for key in keys
                   if key in answer.changed}
        return answer._replace(changed=changed, digests={
            key: answer.digests[key] for key in changed})


class Ports:
    """Keeps what health check ports are told."""

    def __init__(self):
        self.told = []

    def update(self, found, refused):
        self.told.append((sorted(found), sorted(refused)))

    def fail(self):
        self.told.append(None)


def service(name, *backends, external=()):
    address = '172.30.0.%d' % ord(name)
    return model.Service('n1', name, name, (address,), external, (
        model.Port('', 6, 80, 30080, tuple(
            model.Backend(address, 80) for address in backends)),))


class TestServices(base.TestCase):

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.file = viewfile.ViewFile(folder / 'services.json')
        self.datapath, self.ports = Datapath(), Ports()
        self.services = services.Services(
            'node-a', None, self.datapath, self.file, ports=self.ports)

    def bring(self, *found):
        """What was logged while services come into force."""
        before = len(self.log.output)
        self.file.save(1, {
            objects.key(item): view.Held(item, objects.digest(item))
            for item in found})
        self.services.load()
        return self.log.output[before:]

    def metric(self, name):
        return prometheus_client.REGISTRY.get_sample_value(
            'kuryr_cilium_services_' + name)

    def test_conflicts_are_told_once(self):
        old = service('a', external=('198.51.100.1',))
        new = service('b', external=('198.51.100.1',))
        third = service('c', external=('198.51.100.1',))
        for found, told, count in (
                ((old,), '', 0),
                ((old, new), 'n1/b is in force without an address: '
                 '0.0.0.0:30080 is taken by the service n1/a', 1),
                ((old, new), '', 1),
                ((new, third), 'n1/c is in force without an address: '
                 '0.0.0.0:30080 is taken by the service n1/b', 1),
                ((third,), '', 0)):
            text = self.bring(*found)
            self.assertIn(told, text)
            if not told:
                self.assertEqual('', text)
            self.assertEqual(count, self.metric('conflicts'))
        self.assertEqual([['n1/c']], [names for names, _ in
                                      self.ports.told[-1:]])

    def test_refusals_are_told_to_balancers(self):
        text = self.bring(service('a', '10.0.0.1', '10.0.0.2', '10.0.0.3'))
        self.assertIn('Service n1/a is refused', text)
        self.assertEqual(1, self.metric('refused'))
        self.assertEqual([(['n1/a'], ['n1/a'])], self.ports.told)

    def test_what_can_not_be_written(self):
        self.datapath.broken = exceptions.DatapathError(reason='no memory')
        self.assertIn('no memory', self.bring(service('a')))
        self.assertEqual([None], self.ports.told)

    def test_a_change_that_is_undone_while_it_comes_into_force(self):
        controller, serve = Controller(service('a')), self.datapath.serve
        watched = services.Services('node-a', controller, self.datapath,
                                    self.file, 600.0, ports=self.ports)
        self.addCleanup(watched.stop)
        watched.start()
        base.wait_until(lambda: watched.trouble() is None, 5, 'a pull')

        def undo(*args):
            self.datapath.serve = serve
            controller.remove(service('b'))
            # That is what this node holds until the change is in force.
            watched.hint(1, {'service:n1/b': None})
            return serve(*args)

        self.datapath.serve = undo
        controller.put(service('b'))
        watched.hint(1, {'service:n1/b': 'x'})
        base.wait_until(lambda: self.datapath.serve == serve and
                        watched.current().keys() == {'n1/a'}, 5,
                        'what was undone is gone')
