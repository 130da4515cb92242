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

"""What the person at the terminal sees, and waiting for things to happen."""

import contextlib
import sys
import threading
import time

from kclab import settings

_lock = threading.Lock()
_started = time.monotonic()
_abort = threading.Event()


def say(text):
    """One line: seconds since the command began, then the text."""
    with _lock:
        print(f'{time.monotonic() - _started:7.1f} s  {text}',
              file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what):
    """Say what was done, and how long it took, once it is done."""
    begin = time.monotonic()
    yield
    took(what, begin)


def took(what, begin):
    """Say that something is done that began at a monotonic time."""
    say(f'{what:<44} {time.monotonic() - begin:6.1f} s')


def wait_for(probe, timeout, what, check=None):
    """Call probe until it returns something true, and return that.

    :param timeout: seconds.
    :param check: called in between; raises when waiting is in vain.
    :raises LabError: after the timeout, or when another job has failed.
    """
    begin = time.monotonic()
    pause, last = 0.02, None
    while True:
        try:
            found = probe()
            if found:
                return found
        except (OSError, ValueError, settings.LabError) as exc:
            last = exc
        if check:
            check()
        if _abort.is_set():
            raise Aborted(f'{what}: given up, something else has failed')
        if time.monotonic() - begin > timeout:
            reason = f' ({last})' if last else ''
            raise settings.LabError(
                f'{what}: not within {timeout:g} s{reason}')
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class Aborted(settings.LabError):
    """Waiting ended because another job failed; that one is reported."""


def together(*jobs):
    """Run jobs at the same time; the first failure stops all waiting.

    :param jobs: callables without arguments.
    :returns: their results in the same order.
    """
    results = [None] * len(jobs)
    failures = []

    def run(number, job):
        try:
            results[number] = job()
        except BaseException as exc:
            failures.append(exc)
            _abort.set()

    threads = [threading.Thread(target=run, args=job, daemon=True)
               for job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((f for f in failures if not isinstance(f, Aborted)),
                   failures[0])
    return results
