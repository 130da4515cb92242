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

"""What every test shares."""

import logging
import os
import time

from oslotest import base


# Else it logs each message of the kernel's, and hides what a test did.
logging.getLogger('pyroute2').setLevel(logging.INFO)

#: How much slower than a usual one the machine is (tools/vm emulates one).
_SLOWNESS = float(os.environ.get('KURYR_CILIUM_TEST_SLOWNESS') or 1)


class TestCase(base.BaseTestCase):
    """The base of all tests."""

    def assertEventually(self, predicate, timeout=10.0, message=None):
        """Fail unless predicate() becomes true within timeout seconds."""
        return wait_until(predicate, timeout, message)


def scaled(seconds):
    """A deadline of so many seconds, on this machine."""
    return seconds * _SLOWNESS


def wait_until(predicate, timeout=10.0, message=None, interval=0.02):
    """Wait for a condition.

    :param predicate: called until what it returns is true; a callable
        without arguments.
    :param timeout: seconds, on a machine of the usual speed.
    :param message: what was waited for, text or a callable that returns it.
    :param interval: seconds between two calls.
    :returns: what predicate returned.
    :raises: AssertionError after timeout.
    """
    timeout = scaled(timeout)
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            text = message() if callable(message) else message
            raise AssertionError('not within %s s: %s' % (
                timeout, text or getattr(predicate, '__name__', predicate)))
        time.sleep(interval)
