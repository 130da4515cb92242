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

"""tox -e differential -- --seed S --decisions N

As root: programs and maps are loaded. The last line is "N decisions, 0
differences"; a case that differs is printed and saved.
"""

import argparse
import os
import sys
import time

from tests.differential import kernel
from tests.differential import search

FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'unit',
                      'policy', 'cases')


def main():
    parser = argparse.ArgumentParser(prog='differential',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--decisions', type=int, default=20000)
    args = parser.parse_args()
    started = time.monotonic()
    # What hypothesis prints of a case is not for here.
    shown = sys.stdout

    def tell(count):
        print('%d decisions in %d states, %d more in the middle of changes, '
              '%.0f s' % (count.decisions, count.states, count.between,
                          time.monotonic() - started), file=shown, flush=True)

    with kernel.nodes(search.OWN) as (place, nodes):
        running = search.Search(args.seed, args.decisions, nodes,
                                progress=tell)
        found = None
        try:
            place.call(running.run)
        except search.Found as error:
            found = error
    tell(running.count)
    if found is not None:
        path = os.path.join(FOLDER, 'seed-%d.json' % args.seed)
        os.makedirs(FOLDER, exist_ok=True)
        with open(path, 'w') as stream:
            stream.write(found.case.dumps())
        print(found.case.dumps())
        print('%s\nThe case is in %s; tests/unit/policy/test_cases.py runs '
              'it again.' % (found, path))
    print('%d decisions, %d differences' % (
        running.count.decisions, found is not None))
    return int(found is not None)


if __name__ == '__main__':
    sys.exit(main())
