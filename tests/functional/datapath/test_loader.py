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

"""Compiling, loading, pinning; and libbpf underneath."""

import errno
import os
import shutil
import socket
import struct
import tempfile

import fixtures

from kuryr_cilium.datapath.bpf import cgroups
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import links
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import uplinks
from kuryr_cilium import exceptions
from tests import base
from tests.functional.datapath import bench
from tests.functional.datapath import scene
from tests.functional.datapath import wire


class LoaderCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.object = os.path.join(self.folder, loader.OBJECT)
        with open(self.object, 'wb') as stream:
            stream.write(bench.compiled())
        path = tempfile.mkdtemp(prefix='kdp-bpffs-')
        self.addCleanup(os.rmdir, path)
        scene.run('mount', '-t', 'bpf', 'kdp', path)
        self.addCleanup(scene.run, 'umount', path)
        self.pins = os.path.join(path, 'some', 'where')

    def compile(self, statement):
        """Make the object one with a program of one statement."""
        source = os.path.join(self.folder, 'other.bpf.c')
        with open(source, 'w') as stream:
            stream.write('''
                #include <linux/bpf.h>
                #include <bpf/bpf_helpers.h>
                SEC("tc") int other(struct __sk_buff *skb)
                {
                    %s;
                }
                char _license[] SEC("license") = "GPL";''' % statement)
        scene.run('sh', os.path.join(loader._SOURCES, 'build.sh'),
                  self.object, source)

    def load(self):
        loaded = loader.load(self.object, self.pins)
        self.addCleanup(loaded.close)
        return loaded


class TestLoad(LoaderCase):

    def test_kernel(self):
        loader.check_kernel()

    def test_maps_outlive_the_process(self):
        key, value = layout.U32.pack(1), layout.U32.pack(7)
        with loader.load(self.object, self.pins) as loaded:
            libbpf.map_update(loaded.maps['kc_if_v1'], key, value)
        again = self.load()
        self.assertEqual(value, libbpf.map_lookup(again.maps['kc_if_v1'],
                                                  key))
        self.assertEqual(
            {'noop', *cgroups.HOOKS, *(hook.program for hook in (
                *links.HOOKS, *uplinks.HOOKS))},
            set(again.programs))
        # Maps without a version are not pinned.
        self.assertEqual({name for name in again.maps
                          if name.endswith('_v%d' % layout.VERSION)},
                         set(os.listdir(self.pins)))
        self.assertIn('kc_scratch', again.maps)

    def test_programs_use_the_pinned_maps(self):
        with loader.load(self.object, self.pins) as loaded:
            drops = loaded.maps['kc_drops_v1']
            for used in (loaded, self.load()):
                libbpf.test_run(used.programs['from_pod'], bytes(60))
            count = sum(number for number, in layout.U64.iter_unpack(
                libbpf.map_lookup(drops, layout.U32.pack(
                    layout.Reason.NO_ENDPOINT))))
        self.assertEqual(2, count)

    def test_a_pin_that_was_lost_is_made_again(self):
        self.load()
        os.unlink(os.path.join(self.pins, 'kc_if_v1'))
        self.load()
        self.assertIn('kc_if_v1', os.listdir(self.pins))

    def test_another_map_under_the_name(self):
        loaded = self.load()
        path = os.path.join(self.pins, 'kc_if_v1')
        os.unlink(path)
        libbpf.obj_pin(loaded.maps['kc_ct_v1'], path)
        error = self.assertRaises(exceptions.DatapathError, self.load)
        self.assertIn(path, str(error))

    def test_no_bpf_file_system(self):
        self.pins = os.path.join(self.folder, 'pins')
        error = self.assertRaises(exceptions.DatapathError, self.load)
        self.assertIn('mount -t bpf', str(error))
        self.pins = '/proc/pins'
        self.assertRaises(exceptions.DatapathError, self.load)

    def test_no_object(self):
        os.unlink(self.object)
        error = self.assertRaises(exceptions.DatapathError, self.load)
        self.assertIn('No such file', str(error))
        with open(self.object, 'w') as stream:
            stream.write('nonsense')
        self.assertRaises(exceptions.DatapathError, self.load)

    def test_what_the_verifier_says(self):
        self.compile('return *(int *)(long)skb->data')
        error = self.assertRaises(exceptions.DatapathError, self.load)
        self.assertIn('invalid access to packet', str(error))


class TestCompile(LoaderCase):

    def path(self, **options):
        arguments = {'object_file': '', 'cache_dir': os.path.join(
            self.folder, 'cache'), 'clang': 'clang', **options}
        return loader.object_path(**arguments)

    def test_configured(self):
        self.assertEqual('/x.o', self.path(object_file='/x.o'))

    def test_compiled_once(self):
        package = os.path.join(self.folder, 'package')
        shutil.copytree(loader._SOURCES, os.path.join(package, 'src'))
        self.useFixture(fixtures.MonkeyPatch(
            'kuryr_cilium.datapath.bpf.loader._PACKAGE', package))
        path = self.path()
        made = os.stat(path)
        self.assertEqual(path, self.path(clang='/nowhere/clang'))
        self.assertEqual(made, os.stat(path))
        self.assertEqual([os.path.basename(path)],
                         os.listdir(os.path.dirname(path)))
        # What came with the package is used first.
        beside = os.path.join(package, loader.OBJECT)
        shutil.copy(path, beside)
        self.assertEqual(beside, self.path())

    def test_failed(self):
        output = os.path.join(self.folder, 'out', loader.OBJECT)
        for clang in ('/nowhere/clang', 'false'):
            error = self.assertRaises(exceptions.DatapathError,
                                      loader.compile_object, output, clang)
            self.assertIn('Install clang', str(error))
        self.assertEqual([], os.listdir(os.path.dirname(output)))


class TestMaps(LoaderCase):

    def setUp(self):
        super().setUp()
        self.maps = self.load().maps
        self.fd = self.maps['kc_if_v1']

    def items(self, name='kc_if_v1'):
        return dict(libbpf.map_items(self.maps[name]))

    def keys(self, count):
        return [layout.U32.pack(number) for number in range(count)]

    def test_info(self):
        self.assertEqual((1, 4, 4, 8192, 'kc_if_v1'),
                         libbpf.map_info(self.fd))

    def test_single(self):
        key = layout.U32.pack(1)
        self.assertIsNone(libbpf.map_lookup(self.fd, key))
        self.assertFalse(libbpf.map_delete(self.fd, key))
        libbpf.map_update(self.fd, key, key)
        error = self.assertRaises(OSError, libbpf.map_update, self.fd, key,
                                  key, libbpf.NOEXIST)
        self.assertEqual(errno.EEXIST, error.errno)
        self.assertEqual(key, libbpf.map_lookup(self.fd, key))
        self.assertTrue(libbpf.map_delete(self.fd, key))

    def test_batches(self):
        keys = self.keys(5000)
        libbpf.map_update_batch(self.fd, b''.join(keys), b''.join(keys),
                                len(keys))
        self.assertEqual({key: key for key in keys}, self.items())
        # Some of them are gone already.
        for key in keys[::7]:
            libbpf.map_delete(self.fd, key)
        left = len(keys) - len(keys[::7])
        self.assertEqual(left, libbpf.map_delete_batch(
            self.fd, b''.join(keys), len(keys)))
        self.assertEqual({}, self.items())
        libbpf.map_update_batch(self.fd, b'', b'', 0)
        self.assertEqual(0, libbpf.map_delete_batch(self.fd, b'', 0))

    def test_full(self):
        keys = self.keys(8193)
        self.assertRaises(OSError, libbpf.map_update_batch, self.fd,
                          b''.join(keys), b''.join(keys), len(keys))

    def test_tries(self):
        fd = self.maps['kc_rs_port_v1']
        value = layout.Bits((1, 0, 0, 0), 1).pack()
        keys = [layout.RsPortKey(64, 1, 0, 6, port).pack()
                for port in range(3000)]
        libbpf.map_update_batch(fd, b''.join(keys), value * len(keys),
                                len(keys))
        self.assertEqual({key: value for key in keys},
                         self.items('kc_rs_port_v1'))
        self.assertEqual(len(keys), libbpf.map_delete_batch(
            fd, b''.join(keys), len(keys)))

    def test_per_cpu(self):
        value = libbpf.map_lookup(self.maps['kc_drops_v1'],
                                  layout.U32.pack(1))
        self.assertEqual(8 * libbpf.num_cpus(), len(value))


class TestLinks(LoaderCase):

    def setUp(self):
        super().setUp()
        self.name = 'kdp%d' % (os.getpid() % 100000)
        self.peer = self.name + 'p'
        scene.run('ip', 'link', 'add', self.name, 'type', 'veth', 'peer',
                  'name', self.peer)
        self.addCleanup(scene.run, 'ip', 'link', 'del', self.name)
        self.index = socket.if_nametoindex(self.name)
        self.programs = self.load().programs
        self.path = os.path.join(self.pins, 'link')

    def test_pinned_and_updated(self):
        link = libbpf.link_create(self.programs['from_pod'], self.index,
                                  libbpf.TCX_INGRESS)
        libbpf.obj_pin(link, self.path)
        os.close(link)
        again = libbpf.obj_get(self.path)
        self.addCleanup(os.close, again)
        self.assertEqual(
            (self.index, libbpf.TCX_INGRESS,
             libbpf.program_id(self.programs['from_pod'])),
            libbpf.link_info(again))
        libbpf.link_update(again, self.programs['to_pod'])
        self.assertEqual(libbpf.program_id(self.programs['to_pod']),
                         libbpf.link_info(again).program)

    def test_before_all_others(self):
        """What passes everything, and was there first, is asked later."""
        ours = self.load()
        self.compile('return skb->len ? 0 : 2')
        for program in (self.load().programs['other'],
                        ours.programs['from_pod']):
            link = libbpf.link_create(program, self.index,
                                      libbpf.TCX_INGRESS)
            self.addCleanup(os.close, link)
        for device in (self.name, self.peer):
            scene.run('ip', 'link', 'set', device, 'up')
        sender = wire.Sender(self.Here, self.peer)
        self.addCleanup(sender.close)

        def dropped():
            sender.send(bytes(60))
            return any(libbpf.map_lookup(
                ours.maps['kc_drops_v1'],
                layout.U32.pack(layout.Reason.NO_ENDPOINT)))

        base.wait_until(dropped, 10)

    class Here:
        """This namespace, as a scene's place."""

        @staticmethod
        def run(function, *args):
            return function(*args)

    def test_no_device(self):
        self.assertRaises(OSError, libbpf.link_create,
                          self.programs['noop'], 1 << 20, libbpf.TCX_INGRESS)

    def test_only_links_are_links(self):
        self.assertRaises(OSError, libbpf.link_info, self.programs['noop'])


class TestRingBuffer(LoaderCase):

    def test_events(self):
        loaded = self.load()
        seen = []
        ring = libbpf.RingBuffer(loaded.maps['kc_events_v1'], seen.append)
        self.addCleanup(ring.close)
        self.assertEqual(0, ring.poll(0))
        frame = struct.pack('>12xH46x', 0x1234)
        libbpf.test_run(loaded.programs['to_pod'], frame)
        self.assertEqual(1, ring.poll(1000))
        event = layout.Event.unpack(seen[0])
        self.assertEqual((layout.Reason.NO_ENDPOINT, 0x1234, 60),
                         (event.reason, event.ethertype, event.length))
