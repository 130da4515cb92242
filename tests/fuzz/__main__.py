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

"""Runs a fuzzer: ``python -m tests.fuzz policy --runs N --seed S``.

The last line is ``N runs, M failures``.
"""

import argparse
import json
import resource
import signal
import sys
import time
import traceback

from tests.fuzz import policy

#: A run that computes for longer hangs, in seconds.
DEADLINE = 5
#: What the process may have used at the end, in KiB.
MEMORY = 512 * 1024
#: Failures that are shown.
SHOWN = 5


class Hangs(Exception):
    """A run has not ended in time."""


def main():
    parser = argparse.ArgumentParser(prog='fuzz')
    parser.add_argument('what', choices=('policy',))
    parser.add_argument('--runs', type=int, default=10000)
    parser.add_argument('--seed', default='0')
    args = parser.parse_args()
    signal.signal(signal.SIGVTALRM, _hangs)
    started = time.monotonic()
    failures, step = 0, max(1, args.runs // 10)
    for number in range(args.runs):
        example = policy.example(args.seed, number)
        signal.setitimer(signal.ITIMER_VIRTUAL, DEADLINE)
        try:
            policy.check(*example)
        except Exception:
            failures += 1
            if failures <= SHOWN:
                traceback.print_exc()
                print('run %d of seed %s: %s %s' % (
                    number, args.seed, example[0],
                    json.dumps(example[1])[:4000]), file=sys.stderr)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if not (number + 1) % step:
            print('%d of %d runs, %d failures, %.0f s' % (
                number + 1, args.runs, failures,
                time.monotonic() - started), flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print('%d MiB of memory, %.1f s' % (used // 1024,
                                        time.monotonic() - started))
    if used > MEMORY:
        print('more memory than %d MiB' % (MEMORY // 1024), file=sys.stderr)
        failures += 1
    print('%d runs, %d failures' % (args.runs, failures))
    return 1 if failures else 0


def _hangs(_signal, _frame):
    raise Hangs('more than %d s' % DEADLINE)


if __name__ == '__main__':
    sys.exit(main())
