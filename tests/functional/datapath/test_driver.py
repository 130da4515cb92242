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

"""The BPF driver on the kernel, with packets."""

import dataclasses
import functools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

from kuryr_cilium.datapath.bpf import driver as bpf
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from tests import base
from tests.functional.datapath import scene

FAMILIES = (4, 6)


class DriverCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.scene = self.useFixture(scene.Scene())
        self.a, self.b = self.scene.pods
        self.stranger = self.scene.stranger

    def bring_up(self, view=None):
        driver = self.scene.driver()
        self.scene.attach(driver, self.a, self.b)
        driver.apply(view or scene.standard_view(self.a, self.b))
        for pod in self.scene.pods:
            driver.activate(pod.attachment.vif_id)
        return driver

    def assertDropped(self, driver, reason, source, family, target, port):
        """Send until drops are counted; nothing may arrive."""
        sender = source.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(sender.close)
        before = driver.drops()[reason]

        def dropped():
            sender.sendto(b'drop me', (target.address(family), port))
            return driver.drops()[reason] >= before + 5

        with scene.Echo(target, family, port) as echo:
            base.wait_until(dropped, 10, lambda: driver.drops())
        self.assertEqual([], echo.received)

    def assertPasses(self, source, family, target, port):
        with scene.Echo(target, family, port), \
                scene.Stream(source, family, target, port) as stream:
            stream.flows()

    def rows(self, driver):
        return {table: set(driver._maps.keys(table))
                for table in maps.PLANNED}


class TestDriver(DriverCase):

    def test_attached_drops_everything(self):
        driver = self.scene.driver()
        self.scene.attach(driver, self.a, self.b)
        # Frames that the kernel sends by itself (DAD, MLD) are dropped too.
        for source, target in ((self.a, self.stranger), (self.stranger,
                                                         self.a),
                               (self.a, self.b)):
            sender = source.socket(4, socket.SOCK_DGRAM)
            self.addCleanup(sender.close)
            before = driver.drops()['not-ready']

            def dropped():
                sender.sendto(b'drop me', (target.v4, 7))
                return driver.drops()['not-ready'] > before

            with scene.Echo(target, 4, 7) as echo:
                base.wait_until(dropped, 10, lambda: driver.drops())
            self.assertEqual([], echo.received)

    def test_open_connections_are_counted(self):
        driver = self.bring_up()
        self.assertEqual({'uid-a': 0, 'uid-b': 0}, driver.connections())
        with scene.Server(self.b, 4, 7):
            with scene.connect(self.a, 4, self.b, 7) as sock:
                self.assertTrue(scene.answers(sock))
                self.assertEventually(lambda: driver.connections() == {
                    'uid-a': 1, 'uid-b': 1}, message=driver.connections)

    def test_unknown_to_the_view_is_not_activated(self):
        driver = self.scene.driver()
        self.scene.attach(driver, self.a)
        vif = self.a.attachment.vif_id
        self.assertRaises(exceptions.EndpointUnknown, driver.activate, vif)
        driver.apply(scene.view(()))
        self.assertRaises(exceptions.EndpointUnknown, driver.activate, vif)
        self.assertRaises(exceptions.EndpointUnknown, driver.activate, 'no')

    def test_policy_decides(self):
        for fastpath in (False, True):
            driver = self.bring_up(
                scene.standard_view(self.a, self.b, fastpath))
            for family in FAMILIES:
                self.assertPasses(self.a, family, self.b, 7)
                self.assertDropped(driver, 'policy', self.a, family, self.b,
                                   9)
                self.assertDropped(driver, 'policy', self.stranger, family,
                                   self.b, 7)
                self.assertPasses(self.stranger, family, self.a, 7)
                self.assertPasses(self.b, family, self.stranger, 7)
                with scene.Server(self.b, family, 7):
                    with scene.connect(self.a, family, self.b, 7) as sock:
                        self.assertTrue(scene.answers(sock))
            for pod in self.scene.pods:
                self.scene.node.run(driver.detach, pod.attachment.vif_id)

    def test_change_cuts_open_connections(self):
        driver = self.bring_up()
        allowed = scene.standard_view(self.a, self.b)
        closed = model.View(
            1, True, {**allowed.endpoints, 'uid-b': self.b.endpoint(
                model.DENY_ALL, model.ALLOW_ALL)}, {}, {})
        for family in FAMILIES:
            with scene.Server(self.b, family, 7), \
                    scene.connect(self.a, family, self.b, 7) as sock, \
                    scene.Echo(self.b, family, 7) as echo, \
                    scene.Stream(self.a, family, self.b, 7) as stream:
                self.assertTrue(scene.answers(sock))
                stream.flows()
                driver.apply(closed)
                received = len(echo.received)
                before = driver.drops()['policy-changed']
                base.wait_until(
                    lambda: driver.drops()['policy-changed'] > before + 20,
                    10, driver.drops)
                # One may have been on its way when the view was applied.
                self.assertLessEqual(len(echo.received), received + 1)
                # What the server sends by itself is dropped as well.
                echo._socket.sendto(b'9999', echo.received[-1][1] and (
                    self.a.address(family), stream._socket.getsockname()[1]))
                self.assertFalse(scene.answers(sock, timeout=0.5))
                driver.apply(allowed)
                stream.flows()
            with scene.Server(self.b, family, 7), \
                    scene.connect(self.a, family, self.b, 7) as sock:
                self.assertTrue(scene.answers(sock))

    def test_membership_decides_on_open_connections(self):
        driver = self.bring_up()
        allowed = scene.standard_view(self.a, self.b)
        with scene.Echo(self.b, 4, 7) as echo, \
                scene.Stream(self.a, 4, self.b, 7) as stream:
            stream.flows()
            driver.apply(model.View(
                1, True, allowed.endpoints, allowed.rulesets,
                {'sel-a': model.Selector('sel-a', 'sel-a')}))
            received = len(echo.received)
            before = driver.drops()['policy-changed']
            base.wait_until(
                lambda: driver.drops()['policy-changed'] > before + 20, 10)
            self.assertLessEqual(len(echo.received), received + 1)
            driver.apply(allowed)
            stream.flows()

    def test_attach_again_drops_everything(self):
        driver = self.bring_up()
        self.assertPasses(self.a, 4, self.b, 7)
        self.scene.attach(driver, self.b)
        self.assertDropped(driver, 'not-ready', self.a, 4, self.b, 7)
        driver.activate(self.b.attachment.vif_id)
        self.assertPasses(self.a, 4, self.b, 7)
        self.assertEqual({pod.attachment.vif_id: pod.attachment
                          for pod in self.scene.pods}, driver.attachments())

    def test_new_devices_of_the_same_name(self):
        driver = self.bring_up()
        self.scene.unplug(self.b)
        self.scene.plug(self.b)
        self.scene.attach(driver, self.b)
        self.assertDropped(driver, 'not-ready', self.a, 4, self.b, 7)
        driver.activate(self.b.attachment.vif_id)
        self.assertPasses(self.a, 4, self.b, 7)

    def test_nothing_is_left(self):
        driver = self.bring_up()
        for family in FAMILIES:
            self.assertPasses(self.a, family, self.b, 7)
        driver.apply(scene.view(()))
        for pod in self.scene.pods:
            self.scene.node.run(driver.detach, pod.attachment.vif_id)
            self.scene.node.run(driver.detach, pod.attachment.vif_id)
        self.scene.node.run(driver.detach, 'unknown')
        self.assertEqual({}, driver.attachments())
        self.assertEqual([], os.listdir(
            os.path.join(self.scene.bpffs, 'kc', 'links')))
        fds = driver._loaded.maps

        def left():
            found = {}
            for name in fds:
                if name.startswith(('kc_meta', 'kc_drops', 'kc_rate',
                                    'kc_events', 'kc_scratch', 'kc_led')):
                    continue
                count = sum(1 for _ in libbpf.map_items(fds[name]))
                if count:
                    found[name] = count
            # The node's own addresses are what is left.
            return found if found != {
                'kc_addr_v1': 2, 'kc_here_v1': 2, 'kc_exit_v1': 2,
                'kc_netns_v1': 1} else None

        base.wait_until(lambda: not left(), 10, left)

    def test_events_have_names(self):
        driver = self.bring_up()
        found = []
        reader = threading.Thread(
            target=lambda: found.extend(driver.events()), daemon=True)
        reader.start()
        for family in FAMILIES:
            self.assertPasses(self.a, family, self.b, 7)
            self.assertDropped(driver, 'policy', self.stranger, family,
                               self.b, 7)

        def seen(family):
            told = {(event.uid, event.direction, event.verdict, event.reason,
                     event.rule) for event in found
                    if event.destination == self.b.address(family)
                    and event.destination_port == 7
                    and event.protocol == 17}
            name = next(iter(scene.standard_view(
                self.a, self.b).rulesets.values())).names[0]
            return told == {
                ('uid-a', 'egress', 'allow', '', ()),
                ('uid-b', 'ingress', 'allow', '', name),
                ('uid-b', 'ingress', 'drop', 'policy', ())}

        base.wait_until(lambda: all(map(seen, FAMILIES)), 10, lambda: found)
        driver.stop()
        reader.join(5)
        self.assertFalse(reader.is_alive())

    def test_explains_by_what_is_loaded(self):
        driver = self.bring_up()
        view = scene.standard_view(self.a, self.b)
        (name, ruleset), = view.rulesets.items()

        def explain(pod, peer, port, direction=model.Direction.INGRESS):
            found = driver.explain(pod.uid, direction, peer, 17, port)
            return (found.verdict, found.reason, found.ruleset_id, found.bit,
                    found.rule, found.tier)

        for family in FAMILIES:
            peer = self.a.address(family)
            self.assertEqual(
                ('allow', '', name, 0, ruleset.names[0], 'network_policy'),
                explain(self.b, peer, 7))
            self.assertEqual(('drop', 'policy', name, None, (), ''),
                             explain(self.b, peer, 9))
            self.assertEqual(
                ('allow', 'own-node', name, None, (), ''),
                explain(self.b, self.scene.node.address(family), 9))
        self.assertEqual(
            ('allow', '', model.ALLOW_ALL, None, (), ''),
            explain(self.b, '192.0.2.9', 9, model.Direction.EGRESS))
        found = driver.explain('uid-b', model.Direction.INGRESS, self.a.v4,
                               6, 7)
        self.assertEqual(('pod', ''), (found.entity, found.prefix))
        self.assertEqual(
            [(found.ruleset, name, 'ingress', ('uid-b',), 1, 2, 5)],
            [dataclasses.astuple(entry) for entry in driver.entries()])
        # What is loaded counts, and not what should be.
        libbpf.map_delete(
            driver._maps.fd(maps.rows.GROUP),
            layout.RsGroupKey(found.ruleset, 0).pack())
        self.assertEqual('tables', explain(self.b, self.a.v4, 7)[1])
        for arguments, field in (
                (('uid-b', '10.0.0.01', 17, 7), 'peer'),
                (('uid-b', 'fd00:0::1', 17, 7), 'peer'),
                (('uid-b', '10.0.0.1', 256, 7), 'protocol'),
                (('uid-b', '10.0.0.1', 17, None), 'port'),
                (('uid-b', '10.0.0.1', 17, 65536), 'port')):
            uid, *rest = arguments
            self.assertIn(field, str(self.assertRaises(
                ValueError, driver.explain, uid, model.Direction.INGRESS,
                *rest)))
        self.assertRaises(exceptions.NotFound, driver.explain, 'uid-x',
                          model.Direction.INGRESS, '10.0.0.1', 17, 7)

    def test_blocks(self):
        driver = self.bring_up()
        ruleset = scene.allow('b4', 'b6')
        blocks = {
            'b4': model.Block('10.0.0.0/8', (self.stranger.v4 + '/32',)),
            'b6': model.Block('::/0', ('fd50::100/120', 'fd50::200/120'))}
        driver.apply(model.View(
            1, True,
            {pod.uid: pod.endpoint(ruleset.id if pod is self.b
                                   else model.ALLOW_ALL, model.ALLOW_ALL)
             for pod in (self.a, self.b)}, {ruleset.id: ruleset},
            {name: model.Selector(name, name, (), block)
             for name, block in blocks.items()}))
        for family, block in ((4, '10.0.0.0/8'), (6, '::/0')):
            self.assertPasses(self.a, family, self.b, 7)
            self.assertDropped(driver, 'policy', self.stranger, family,
                               self.b, 7)
            found = driver.explain(
                'uid-b', model.Direction.INGRESS, self.a.address(family), 17,
                7)
            self.assertEqual(('allow', 'world', block), (
                found.verdict, found.entity, found.prefix))
        found = driver.explain('uid-b', model.Direction.INGRESS,
                               'fd50::205', 17, 7)
        self.assertEqual(('drop', 'fd50::200/120'),
                         (found.verdict, found.prefix))
        driver.apply(scene.standard_view(self.a, self.b))
        self.assertPasses(self.a, 4, self.b, 7)
        self.assertEqual([], list(driver._maps.keys('kc_cidr')))

    def test_failed_write_leads_to_a_new_generation(self):
        driver = self.bring_up()
        spaces = driver._planner.spaces
        wanted = scene.standard_view(self.a, self.b)
        ruleset = scene.allow('sel-a', ports=((17, 9),))
        other = model.View(
            1, True, {**wanted.endpoints, 'uid-b': self.b.endpoint(
                ruleset.id, model.ALLOW_ALL)},
            {ruleset.id: ruleset}, wanted.selectors)
        write = maps.Maps.write

        def fail(self, writes):
            writes = list(writes)
            if any(write.table == 'kc_endpoint' for write in writes):
                raise exceptions.DatapathError(reason='no memory')
            write(self, writes)

        with mock.patch.object(maps.Maps, 'write', fail):
            self.assertRaises(exceptions.DatapathError, driver.apply, other)
        self.assertPasses(self.a, 4, self.b, 7)
        driver.apply(other)
        self.assertNotEqual(spaces, driver._planner.spaces)
        self.assertPasses(self.a, 4, self.b, 9)
        self.assertDropped(driver, 'policy', self.a, 4, self.b, 7)
        planned = set(driver._planner.tables())
        self.assertEqual(planned, {
            (table, key) for table, keys in self.rows(driver).items()
            for key in keys})

    def test_sweep_of_connections(self):
        driver = self.bring_up()
        with scene.Echo(self.b, 4, 7), \
                scene.Stream(self.a, 4, self.b, 7) as stream:
            stream.flows()
            number = driver._locals[self.b.attachment.vif_id].number
            fds = {table: driver._maps.fd(table) for table in (
                maps.CONNECTIONS, maps.HALF_OPEN, maps.CONNECTION_COUNT)}

            def entry(endpoint, port, protocol, age, flags):
                key = layout.CtKey(endpoint, protocol, 0, 7, port,
                                   '10.50.0.77')
                value = layout.Ct(time.monotonic_ns() - age * 10 ** 9, 0, 0,
                                  0, 0, 0, 0, flags, 0)
                return key.pack(), value.pack()

            replied = layout.CtFlag.REPLIED
            kept = [entry(number, port, 17, 0, replied)
                    for port in range(1, 6000)]
            kept.append(entry(number, 6001, 6, 300, replied))
            gone = [entry(number, 7000, 17, 181, replied),
                    entry(number, 7001, 6, 11,
                          replied | layout.CtFlag.CLOSING)]
            gone += [entry(999999, port, 17, 0, replied)
                     for port in range(1, 6000)]
            for key, value in kept + gone:
                libbpf.map_update(fds[maps.CONNECTIONS], key, value)
            half_open = entry(number, 1, 6, 61, 0)
            behind = entry(number, 2, 17, 61, replied | layout.CtFlag.OPEN)
            for key, value in half_open, behind:
                libbpf.map_update(fds[maps.HALF_OPEN], key, value)
            libbpf.map_update(fds[maps.CONNECTION_COUNT],
                              layout.U32.pack(number), layout.U64.pack(77777))
            self.scene.node.run(driver.sweep)
            left = {key for key, _ in libbpf.map_items(
                fds[maps.CONNECTIONS])}
            self.assertEqual(set(), {key for key, _ in kept} - left)
            self.assertEqual(set(), {key for key, _ in gone} & left)
            for key, _value in half_open, behind:
                self.assertIsNone(libbpf.map_lookup(fds[maps.HALF_OPEN],
                                                    key))
            # The stream's own is one more.
            self.assertEqual(6001, layout.U64.unpack(libbpf.map_lookup(
                fds[maps.CONNECTION_COUNT], layout.U32.pack(number)))[0])
            stream.flows()

    def test_what_cannot_be_attached(self):
        driver = self.scene.driver()
        replace = functools.partial(dataclasses.replace, self.a.attachment)
        for wrong, error in (
                (replace(kc='kc99'), exceptions.LinkError),
                (replace(addresses=('10.0.0.1',) * 9),
                 exceptions.VIFNotSupported),
                (replace(addresses=('10.0.0.01',)),
                 exceptions.VIFNotSupported),
                (replace(addresses=()), exceptions.VIFNotSupported),
                (replace(mac='02:00'), exceptions.VIFNotSupported),
                (replace(mac='nonsense'), exceptions.VIFNotSupported)):
            self.assertRaises(error, self.scene.node.run, driver.attach,
                              wrong)
        self.assertEqual({}, driver.attachments())

    def test_stopped_driver_touches_nothing(self):
        driver = self.bring_up()
        driver.stop()
        driver.stop()
        for call in (driver.sweep, driver.drops,
                     lambda: driver.activate('unknown'),
                     lambda: driver.apply(scene.view(()))):
            self.assertRaises((exceptions.DatapathError,
                               exceptions.EndpointUnknown), call)

    def test_unsynced_view_is_refused(self):
        driver = self.scene.driver()
        self.assertRaises(exceptions.ViewUnusable, driver.apply,
                          model.View(1, False, {}, {}, {}))


class TestRestart(DriverCase):

    def process(self):
        """A process with a driver that has the standard view in force."""
        arguments = [self.scene.node.name, self.scene.conf.datapath.pin_dir,
                     self.scene.conf.datapath.cache_dir]
        for pod in self.scene.pods:
            arguments += [pod.name, str(pod.number), pod.uid]
        process = subprocess.Popen(
            [sys.executable, '-m', 'tests.functional.datapath.process',
             *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertTrue(select.select([process.stdout], [], [], 60)[0])
        return process, process.stdout.readline().strip()

    def test_killed_and_started_again(self):
        process, said = self.process()
        self.assertEqual('ready [False, False]', said)
        for pod in self.scene.pods:
            self.scene.bring_up(pod)
        with scene.Server(self.b, 4, 7), \
                scene.connect(self.a, 4, self.b, 7) as sock, \
                scene.Echo(self.b, 4, 7) as echo, \
                scene.Echo(self.b, 6, 7) as echo6, \
                scene.Echo(self.b, 4, 9) as closed, \
                scene.Stream(self.a, 4, self.b, 7) as stream, \
                scene.Stream(self.a, 6, self.b, 7) as stream6, \
                scene.Stream(self.a, 4, self.b, 9), \
                scene.Stream(self.stranger, 4, self.b, 7):
            stream.flows()
            stream6.flows()
            for _ in range(3):
                process.send_signal(signal.SIGKILL)
                process.wait()
                stream.flows()
                process, said = self.process()
                self.assertEqual('ready [True, True]', said)
                stream.flows()
                stream6.flows()
                self.assertTrue(scene.answers(sock))
            self.assertEqual(([], []), (stream.lost(), stream6.lost()))
        self.assertEqual([], closed.received)
        self.assertEqual({self.a.v4}, {peer for peer, _ in echo.received})
        self.assertEqual({self.a.v6}, {peer for peer, _ in echo6.received})

    def test_stop_leaves_policy_in_force(self):
        driver = self.bring_up()
        with scene.Echo(self.b, 4, 7), \
                scene.Stream(self.a, 4, self.b, 7) as stream:
            stream.flows()
            driver.stop()
            stream.flows()
            other = self.scene.driver()
            self.assertEqual({}, other.attachments())
            for pod in self.scene.pods:
                self.assertTrue(self.scene.node.run(other.adopt,
                                                    pod.attachment))
            stream.flows()
            other.apply(scene.standard_view(self.a, self.b))
            self.scene.node.run(other.sweep)
            stream.flows()
            self.assertEqual([], stream.lost())
        self.assertDropped(other, 'policy', self.a, 4, self.b, 9)

    def test_attached_only_is_not_adopted(self):
        driver = self.scene.driver()
        self.scene.attach(driver, self.a, self.b)
        driver.stop()
        other = self.scene.driver()
        self.assertFalse(self.scene.node.run(other.adopt, self.a.attachment))
        self.scene.attach(other, self.a)
        other.apply(scene.standard_view(self.a, self.b))
        other.activate(self.a.attachment.vif_id)
        self.assertPasses(self.a, 4, self.stranger, 7)

    def test_lost_link_is_not_adopted(self):
        driver = self.bring_up()
        driver.stop()
        self.scene.unplug(self.b)
        self.scene.plug(self.b)
        other = self.scene.driver()
        adopted = [self.scene.node.run(other.adopt, pod.attachment)
                   for pod in self.scene.pods]
        self.assertEqual([True, False], adopted)
        self.scene.attach(other, self.b)
        other.apply(scene.standard_view(self.a, self.b))
        self.assertDropped(other, 'not-ready', self.a, 4, self.b, 7)
        other.activate(self.b.attachment.vif_id)
        self.assertPasses(self.a, 4, self.b, 7)

    def test_what_nobody_adopts_is_swept(self):
        self.bring_up().stop()
        other = self.scene.driver()
        self.assertTrue(self.scene.node.run(other.adopt, self.a.attachment))
        self.scene.node.run(other.sweep)
        self.assertPasses(self.a, 4, self.b, 7)
        other.apply(scene.standard_view(self.a, self.b))
        self.scene.node.run(other.sweep)
        self.assertEqual({self.a.attachment.vif_id}, other._links.known())
        self.assertEqual(1, len(self.rows(other)['kc_endpoint']))
        self.assertEqual(2, len(other._maps.interfaces()))

    def test_pin_dir_is_no_bpf_file_system(self):
        conf = scene.make_conf('/tmp/%s' % self.scene.node.name,
                               self.scene.conf.datapath.cache_dir)
        self.addCleanup(os.rmdir, conf.datapath.pin_dir)
        error = self.assertRaises(exceptions.DatapathError,
                                  bpf.BPFDriver(conf).start, ())
        self.assertIn('mount -t bpf', str(error))
