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

import threading
import time

import fixtures as fixtures_
import prometheus_client

from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures


class Seen:
    """A handler that remembers."""

    def __init__(self):
        self.changes = []
        self.objects = {}
        self.threads = set()

    def __call__(self, change, obj):
        meta = obj['metadata']
        self.threads.add(threading.current_thread())
        self.changes.append((change, meta['name']))
        if change == reflector.DELETED:
            if self.objects[meta['uid']]['metadata']['name'] != meta['name']:
                raise AssertionError('a deletion with another name')
            del self.objects[meta['uid']]
        else:
            if (change == reflector.ADDED) != (
                    meta['uid'] not in self.objects):
                raise AssertionError('%s of %s' % (change, meta))
            self.objects[meta['uid']] = obj

    @property
    def names(self):
        return sorted(obj['metadata']['name']
                      for obj in list(self.objects.values()))


class TestReflector(base.TestCase):

    def setUp(self):
        super().setUp()
        self.kube = fixtures.shared()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self)
        self.seen = Seen()

    def path(self, name=None):
        return resources.PODS.path(self.namespace, name)

    def create(self, *names, **kwargs):
        for name in names:
            self.api.create(self.path(), fixtures.pod(name, **kwargs))

    def delete(self, name):
        self.api.delete(self.path(name), {'gracePeriodSeconds': 0})

    def follow(self, page_size=500, handler=None, **kwargs):
        made = reflector.Reflector(
            self.kube.client(page_size=page_size), resources.PODS,
            handler or self.seen, namespace=self.namespace, **kwargs)
        made.start()
        self.addCleanup(made.stop)
        return made

    def assertNames(self, *names, timeout=30):
        self.assertEventually(
            lambda: self.seen.names == sorted(names), timeout,
            lambda: '%s instead of %s' % (self.seen.names, names))

    def test_pages_and_changes(self):
        names = ['p%d' % number for number in range(8)]
        self.create(*names)
        followed = self.follow(page_size=3)
        self.assertTrue(followed.synced.wait(10))
        self.assertNames(*names)
        self.api.merge_patch(self.path('p0'),
                             {'metadata': {'labels': {'a': 'b'}}})
        self.assertEventually(
            lambda: ('MODIFIED', 'p0') in self.seen.changes)
        self.delete('p1')
        self.create('x')
        self.assertNames('x', *(set(names) - {'p1'}))
        self.assertEventually(lambda: followed.check() is None)
        self.assertTrue(followed.current(0))
        for obj in self.seen.objects.values():
            self.assertNotIn('managedFields', obj['metadata'])
        self.assertEqual(1, len(self.seen.threads))

    def test_field_and_label_selectors(self):
        self.create('a', node='node-1', app='x')
        self.create('b', node='node-2', app='x')
        self.create('c', node='node-1')
        self.follow(field_selector='spec.nodeName=node-1',
                    label_selector='app=x')
        self.assertNames('a')
        # What the selector no longer matches is gone for this reflector.
        self.api.merge_patch(self.path('a'),
                             {'metadata': {'labels': {'app': 'y'}}})
        self.assertNames()

    def test_server_stops_and_starts(self):
        self.create('a', 'b')
        followed = self.follow()
        self.assertTrue(followed.synced.wait(10))
        self.assertEventually(lambda: followed.check() is None)
        errors = _errors('KubernetesUnavailable')
        self.kube.stop_server()
        try:
            self.assertEventually(followed.check)
            self.assertTrue(followed.current(60))
            self.assertFalse(followed.current(0))
            self.assertEventually(
                lambda: _errors('KubernetesUnavailable') >= errors + 2)
            # Not more than a few attempts a second.
            self.assertLess(_errors('KubernetesUnavailable'), errors + 10)
        finally:
            self.kube.start_server()
        self.create('c')
        self.assertNames('a', 'b', 'c')
        self.assertEventually(lambda: followed.check() is None)
        # Nothing was delivered twice.
        self.assertEqual(3, len(self.seen.changes))

    def test_version_too_old(self):
        self.create('kept', 'gone', 'replaced')
        followed = self.follow()
        self.assertTrue(followed.synced.wait(10))
        self.assertEventually(lambda: followed.check() is None)
        lists = _lists()
        # A version from before a compaction, in a server that was started
        # after it: 410.
        followed.stop()
        self.delete('gone')
        self.delete('replaced')
        self.create('replaced', 'new')
        self.kube.compact()
        self.kube.stop_server()
        self.kube.start_server()
        late = reflector.Reflector(self.kube.client(), resources.PODS,
                                   self.seen, namespace=self.namespace)
        late._known = followed._known
        late._version = followed._version
        late.start()
        self.addCleanup(late.stop)
        self.assertNames('kept', 'new', 'replaced')
        self.assertEqual(lists + 1, _lists())
        self.assertIn(('DELETED', 'gone'), self.seen.changes)
        self.assertIn(('DELETED', 'replaced'), self.seen.changes)

    def test_list_whose_pages_expire(self):
        self.create(*('p%d' % number for number in range(5)))

        def slow(change, obj):
            self.seen(change, obj)
            if len(self.seen.changes) == 2:
                self.create('late')
                self.kube.compact()

        self.follow(page_size=2, handler=slow)
        self.assertNames('late', *('p%d' % number for number in range(5)))

    def test_handler_that_fails_stops_nothing(self):
        def fail(change, obj):
            if obj['metadata']['name'] == 'bad':
                raise ValueError('a fault')
            self.seen(change, obj)

        self.create('bad', 'good')
        followed = self.follow(handler=fail)
        self.assertNames('good')
        self.create('later')
        self.assertNames('good', 'later')
        self.assertTrue(followed.alive())

    def test_stops_at_once(self):
        for frozen in (False, True):
            followed = self.follow()
            self.assertTrue(followed.synced.wait(10))
            self.assertEventually(lambda: followed.check() is None)
            if frozen:
                self.kube.freeze_server()
                self.addCleanup(self.kube.thaw_server)
            began = time.monotonic()
            followed.stop()
            self.assertLess(time.monotonic() - began, 1)
            self.assertFalse(followed.alive())

    def test_silent_server_is_given_up(self):
        followed = self.follow(silence_seconds=1)
        self.assertTrue(followed.synced.wait(10))
        self.kube.freeze_server()
        try:
            self.assertEventually(
                lambda: 'no answer' in (followed.check() or ''))
        finally:
            self.kube.thaw_server()
        self.create('a')
        self.assertNames('a')


class TestOptional(base.TestCase):
    """A kind that the server may have or not."""

    RESOURCE = resources.CILIUM_NETWORK_POLICIES

    def setUp(self):
        super().setUp()
        self.kube = fixtures.shared()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self)
        self.seen = Seen()
        self.log = self.useFixture(fixtures_.FakeLogger())

    def follow(self):
        made = reflector.Reflector(
            self.kube.client(), self.RESOURCE, self.seen, optional=True,
            absent_seconds=0.2)
        made.start()
        self.addCleanup(made.stop)
        self.assertTrue(made.synced.wait(10))
        return made

    def create(self, name):
        self.api.create(self.RESOURCE.path(self.namespace), {
            'apiVersion': self.RESOURCE.api_version,
            'kind': self.RESOURCE.kind, 'metadata': {'name': name}})

    def test_comes_and_goes(self):
        followed = self.follow()
        self.assertIsNone(followed.check())
        self.assertTrue(followed.current(0))
        for _number in range(2):
            self.kube.define(self, self.RESOURCE)
            self.create('a')
            self.assertEventually(lambda: self.seen.names == ['a'], 30)
            self.kube.undefine(self.RESOURCE)
            self.assertEventually(lambda: self.seen.names == [], 30)
            self.assertEventually(lambda: followed.check() is None, 30)
        self.assertEqual(1, self.log.output.count(
            'The cluster has no ciliumnetworkpolicies'))

    def test_of_another_version_is_said_once(self):
        followed = self.follow()
        self.kube.define(self, self.RESOURCE, ['v3', 'v4'])
        self.assertEventually(
            lambda: 'ciliumnetworkpolicies are not enforced: the cluster has '
            'them as cilium.io/v3, cilium.io/v4, kuryr-cilium reads '
            'cilium.io/v2' in self.log.output, 30, lambda: self.log.output)
        asked = _sample('kuryr_cilium_kubernetes_reflector_lists_total',
                        resource='ciliumnetworkpolicies')
        self.assertEventually(lambda: _sample(
            'kuryr_cilium_kubernetes_reflector_lists_total',
            resource='ciliumnetworkpolicies') >= asked + 3)
        self.assertIsNone(followed.check())
        self.assertEqual(1, self.log.output.count('are not enforced'))

    def test_a_list_that_is_not_found_takes_nothing_back(self):
        self.kube.define(self, self.RESOURCE)
        self.create('a')
        followed = self.follow()
        self.assertEventually(lambda: followed.check() is None)
        # The server does have the kind, whatever this path leads to.
        followed._path += '/nothing/here'
        followed._version = None
        followed._client.close()
        followed._client = self.kube.client()
        self.addCleanup(followed._client.close)
        self.kube.stop_server()
        self.kube.start_server()
        self.assertEventually(followed.check, 30)
        self.assertEqual(['a'], self.seen.names)


def _sample(name, **labels):
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0


def _errors(kind):
    return _sample('kuryr_cilium_kubernetes_reflector_errors_total',
                   resource='pods', error=kind)


def _lists():
    return _sample('kuryr_cilium_kubernetes_reflector_lists_total',
                   resource='pods')
