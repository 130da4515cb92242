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

import json

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium import exceptions
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects
from kuryr_cilium.rpc import sync
from tests import base


def selector(number, size=0):
    return model.Selector('s%d' % number, 'x' * size)


views = st.dictionaries(
    st.integers(0, 30), st.integers(0, 3), max_size=30).map(lambda found: {
        'selector:s%d' % number: selector(number, size)
        for number, size in found.items()})


class Controller:
    """A controller whose view changes between two pages."""

    def __init__(self, views, page_objects=3, synced=True):
        self.views = list(views)
        self.current = {}
        self.synced = synced
        self.answers = []
        self.pager = sync.Pager(self.view, page_objects=page_objects)

    def view(self, host):
        if self.views:
            self.current = self.views.pop(0)
        return 5, self.synced, self.current

    def call(self, have, cursor):
        # What travels is JSON.
        answer = json.loads(json.dumps(self.pager.sync(
            {}, 'node-a', json.loads(json.dumps(have)), cursor)))
        self.answers.append(answer)
        return answer


def applied(have, result):
    """What an agent has after a sync."""
    after = dict(have)
    for key in result.removed:
        del after[key]
    after.update(result.changed)
    return after


def digests(view):
    return {key: objects.digest(obj) for key, obj in view.items()}


class SyncTestCase(base.TestCase):

    @hypothesis.given(views, st.lists(views, min_size=1, max_size=5),
                      st.integers(1, 7))
    def test_ends_level_with_the_last_view(self, had, controllers, page):
        controller = Controller(controllers, page)
        result = sync.collect(controller.call, digests(had))
        self.assertTrue(result.synced)
        self.assertEqual(5, result.epoch)
        self.assertEqual(controller.current, applied(had, result))
        self.assertEqual(digests(dict(result.changed)), result.digests)
        self.assertTrue(all(len(answer['changed']) <= page
                            for answer in controller.answers))

    @hypothesis.given(views)
    def test_nothing_travels_where_nothing_changed(self, view):
        result = sync.collect(Controller([view]).call, digests(view))
        self.assertEqual(({}, {}, frozenset()), (
            result.changed, result.digests, result.removed))

    def test_no_content_before_the_replica_has_listed_all(self):
        controller = Controller([{'selector:s1': selector(1)}], synced=False)
        result = sync.collect(controller.call, {'selector:s9': 'x'})
        self.assertEqual(sync.SyncResult(5, False, {}, {}, frozenset()),
                         result)

    def test_pages_are_bounded_in_bytes(self):
        view = {'selector:s%d' % n: selector(n, 2000) for n in range(4)}
        controller = Controller([view])
        controller.pager = sync.Pager(controller.view, page_bytes=2500)
        sync.collect(controller.call, {})
        self.assertEqual([1, 1, 1, 1], [
            len(answer['changed']) for answer in controller.answers])

    def test_digests_are_as_received(self):
        newer = dict(objects.dump(selector(1)), version='1.3', more='field')
        answer = {'epoch': 1, 'synced': True, 'changed': [newer],
                  'removed': [], 'cursor': None}
        result = sync.collect(lambda have, cursor: answer, {})
        self.assertEqual({'selector:s1': selector(1)}, result.changed)
        self.assertEqual({'selector:s1': objects.digest(newer)},
                         result.digests)

    def test_digest_follows_the_object(self):
        pager = sync.Pager(None)
        for obj in (selector(1, 1), selector(1, 2), selector(1, 1)):
            for _twice in range(2):
                self.assertEqual(objects.digest(obj),
                                 pager.digest('selector:s1', obj))

    def test_answers_that_make_no_sense(self):
        good = {'epoch': 1, 'synced': True, 'changed': [], 'removed': [],
                'cursor': None}
        for answer in (None, [], {}, dict(good, epoch='1'),
                       dict(good, synced=1), dict(good, changed={}),
                       dict(good, removed='x'), dict(good, changed=['x']),
                       dict(good, changed=[{'kind': 'selector'}])):
            self.assertRaises(exceptions.InvalidWireObject, sync.collect,
                              lambda have, cursor: answer, {})
