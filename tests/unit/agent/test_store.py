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

import dataclasses
import json
import os
import pathlib
import stat

import fixtures

from kuryr_cilium.agent import store
from tests import base
from tests.unit.agent import samples

OTHER_VIF = '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'


class TestStore(base.TestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'a' / 'endpoints'
        self.corrupt = []
        self.store = self.open()

    def open(self):
        return store.Store(self.path, self.corrupt.append)

    def test_what_was_put_is_there_after_a_restart(self):
        record = samples.record()
        self.store.put(record)
        again = self.open()
        self.assertEqual([record], again.list())
        self.assertEqual(record, again.get(*record.key))
        self.assertEqual(record, again.find('c1', 'eth0'))
        self.assertEqual([record], again.by_vif(samples.VIF))
        self.assertEqual(samples.VIF, record.vif_id)
        self.assertEqual(samples.VIF, record.load_vif().id)
        self.assertEqual('default/web', record.pod)

    def test_a_state_replaces_the_one_before(self):
        record = samples.record(state=store.PLUGGING)
        self.store.put(record)
        ready = dataclasses.replace(record, state=store.READY)
        self.store.put(ready)
        self.assertEqual([ready], self.open().list())
        self.assertEqual(1, len(list(self.path.iterdir())))

    def test_delete_is_idempotent_and_lasts(self):
        record = samples.record()
        self.store.put(record)
        self.store.delete(record)
        self.store.delete(record)
        self.assertEqual([], self.open().list())
        self.assertEqual([], list(self.path.iterdir()))

    def test_by_vif_finds_both_containers(self):
        one = samples.record(container='c1')
        two = samples.record(container='c2')
        other = samples.record(container='c3', vif_id=OTHER_VIF)
        for record in (one, two, other):
            self.store.put(record)
        self.assertCountEqual([one, two], self.store.by_vif(samples.VIF))
        self.assertIsNone(self.store.find('c1', 'net1'))
        self.assertIsNone(self.store.get('x', 'c1', 'eth0'))

    def test_a_key_is_not_a_path(self):
        record = samples.record(uid='../../x', container='../y/.')
        self.store.put(record)
        self.assertEqual([record], self.open().list())
        self.assertEqual(1, len(list(self.path.iterdir())))

    def test_only_root_reads_it(self):
        self.store.put(samples.record())
        for path in (self.path, *self.path.iterdir()):
            self.assertEqual(0, stat.S_IMODE(path.stat().st_mode) & 0o077)

    def test_corrupt_files_are_set_aside(self):
        good = samples.record(container='good')
        self.store.put(good)
        whole = json.loads(next(self.path.iterdir()).read_text())
        broken = {
            'half': json.dumps(whole)[:-20],
            'empty': '',
            'list': '[]',
            'version': json.dumps({**whole, 'version': 2}),
            'state': json.dumps({**whole, 'state': 'odd'}),
            'number': json.dumps({**whole, 'name': 3}),
            'vif': json.dumps({**whole, 'vif': '{}'}),
            'field': json.dumps({k: v for k, v in whole.items()
                                 if k != 'netns'}),
            'binary': b'\xff\xfe'.decode('latin-1'),
        }
        for name, text in broken.items():
            (self.path / f'{name}.json').write_text(text)
        again = self.open()
        self.assertEqual([good], again.list())
        self.assertCountEqual(
            [self.path / f'{name}.json.corrupt' for name in broken],
            self.corrupt)
        self.corrupt.clear()
        self.assertEqual([good], self.open().list())
        self.assertEqual([], self.corrupt)

    def test_a_write_that_was_broken_off_leaves_the_old(self):
        record = samples.record(state=store.PLUGGING)
        self.store.put(record)
        name = next(self.path.iterdir()).name
        (self.path / f'.{name}.new').write_text('{"uid": ')
        self.assertEqual([record], self.open().list())
        self.assertEqual([], self.corrupt)
        self.assertTrue(os.path.exists(self.path / name))
