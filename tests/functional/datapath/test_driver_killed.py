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

"""A process that ends at any of its writes, and what the next one makes."""

import contextlib
import itertools
import threading
from unittest import mock

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps
from tests import base
from tests.functional.datapath import scene

CALLS = ('map_update', 'map_update_batch', 'map_delete_batch', 'link_create',
         'link_update', 'obj_pin')


class Killed(BaseException):
    """The process ended here."""


@contextlib.contextmanager
def killed_before(number):
    """End at the given write to the kernel, counted from 0."""
    count = itertools.count()

    def wrap(call):
        def wrapped(*args, **kwargs):
            collects = threading.current_thread().name == 'kc-collector'
            if not collects and next(count) == number:
                raise Killed()
            return call(*args, **kwargs)
        return wrapped

    with contextlib.ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(
                libbpf, name, wrap(getattr(libbpf, name))))
        yield


class TestKilled(base.TestCase):

    def setUp(self):
        super().setUp()
        self.scene = self.useFixture(scene.Scene())
        self.a, self.b = self.scene.pods
        self.view = scene.standard_view(self.a, self.b)

    def bring_up(self):
        """What an agent does at its start, with both pods ready."""
        driver = self.scene.driver()
        for pod in self.scene.pods:
            if not self.scene.node.run(driver.adopt, pod.attachment):
                self.scene.node.run(driver.attach, pod.attachment)
            # A detach() that was begun has set them down.
            self.scene.bring_up(pod)
        driver.apply(self.view)
        for pod in self.scene.pods:
            driver.activate(pod.attachment.vif_id)
        self.scene.node.run(driver.sweep)
        return driver

    def assertWhole(self, driver):
        with scene.Stream(self.a, 4, self.b, 7) as stream:
            stream.flows(3)
        self.assertEqual(set(driver._planner.tables()), {
            (table, key) for table in maps.PLANNED
            for key in driver._maps.keys(table)})
        vifs = {pod.attachment.vif_id for pod in self.scene.pods}
        self.assertEqual(vifs, driver._links.known())
        self.assertEqual(4, len(driver._maps.interfaces()))

    def play(self, operation, before=lambda driver: None):
        """Let a process end at each write of an operation.

        :param operation: called with a driver that has all in force.
        :param before: done to the driver first, and not interrupted.
        """
        # Nothing that must not pass ever does, whatever happens meanwhile.
        with scene.Echo(self.b, 4, 9) as closed, \
                scene.Stream(self.a, 4, self.b, 9), \
                scene.Echo(self.b, 4, 7) as echo, \
                scene.Stream(self.scene.stranger, 4, self.b, 7):
            for number in itertools.count():
                driver = self.bring_up()
                before(driver)
                try:
                    with killed_before(number):
                        self.scene.node.run(operation, driver)
                except Killed:
                    driver.stop()
                    driver = self.bring_up()
                    self.assertWhole(driver)
                    driver.stop()
                else:
                    driver.stop()
                    break
        self.assertEqual([], closed.received)
        self.assertEqual({self.a.v4}, {peer for peer, _ in echo.received})
        self.assertGreater(number, 1)

    def detach(self, driver):
        self.scene.node.run(driver.detach, self.b.attachment.vif_id)

    def test_attach(self):
        self.play(lambda driver: driver.attach(self.b.attachment),
                  self.detach)

    def test_attach_again(self):
        self.play(lambda driver: driver.attach(self.b.attachment))

    def test_activate(self):
        def attach(driver):
            self.scene.attach(driver, self.b)

        self.play(lambda driver: driver.activate(self.b.attachment.vif_id),
                  attach)

    def test_detach(self):
        self.play(lambda driver: driver.detach(self.b.attachment.vif_id))

    def test_apply(self):
        ruleset = scene.allow('sel-a', 'sel-b', ports=((17, 7),))
        endpoints = {**self.view.endpoints, 'uid-b': self.b.endpoint(
            ruleset.id, ruleset.id)}
        other = scene.view(endpoints.values(), (ruleset,), {
            'sel-a': (self.a,), 'sel-b': (self.a, self.b)})
        self.play(lambda driver: driver.apply(other))
