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

"""tox -e differential -- [--services] --seed S --decisions N

Policies, or services. As root: programs and maps are loaded. The last line is
"N decisions, 0 differences"; a case that differs is printed and saved.
"""

import argparse
import os
import sys
import time

from tests.differential import kernel
from tests.differential import search
from tests.differential import services

_TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Whose differences are saved where, and run again by which test.
_SAVED = {
    False: (os.path.join(_TESTS, 'unit', 'policy', 'cases'),
            'tests/unit/policy/test_cases.py'),
    True: (os.path.join(_TESTS, 'functional', 'datapath', 'cases'),
           'tests/functional/datapath/test_services_flows.py')}


def main():
    parser = argparse.ArgumentParser(prog='differential',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('--services', action='store_true',
                        help='where packets to services go, not policies')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--decisions', type=int, default=20000)
    args = parser.parse_args()
    started = time.monotonic()
    # What hypothesis prints of a case is not for here.
    shown = sys.stdout

    def tell(count):
        print('%d decisions in %d states, %d %s in the middle of changes, '
              '%.0f s' % (count.decisions, count.states, count.between,
                          'of them' if args.services else 'more',
                          time.monotonic() - started), file=shown, flush=True)

    found = None
    if args.services:
        running = services.find(args.seed, args.decisions, tell)
        try:
            running.run()
        except search.Found as error:
            found = error
    else:
        with kernel.nodes(search.OWN) as (place, nodes):
            running = search.policies(args.seed, args.decisions, nodes,
                                      progress=tell)
            try:
                place.call(running.run)
            except search.Found as error:
                found = error
    tell(running.count)
    if found is not None:
        folder, test = _SAVED[args.services]
        path = os.path.join(folder, 'seed-%d.json' % args.seed)
        os.makedirs(folder, exist_ok=True)
        with open(path, 'w') as stream:
            stream.write(found.case.dumps())
        print(found.case.dumps())
        print('%s\nThe case is in %s; %s runs it again.' % (found, path,
                                                            test))
    print('%d decisions, %d differences' % (
        running.count.decisions, found is not None))
    return int(found is not None)


if __name__ == '__main__':
    sys.exit(main())
