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

"""Run one benchmark on the lab: python -m benchmarks NAME [--json FILE].

The lab has to be up, but for those that need none. The benchmark runs beside
the lab's control plane.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time

from benchmarks import lab

NAMES = ('cni', 'policy', 'datapath', 'compile', 'node', 'services')
#: These need no lab.
ALONE = ('compile', 'node', 'services')


def main():
    parser = argparse.ArgumentParser(prog='benchmarks',
                                     description=__doc__.splitlines()[0])
    parser.add_argument('name', choices=NAMES)
    parser.add_argument('--json', metavar='FILE',
                        help='write the figures to this file')
    args = parser.parse_args()
    if args.name not in ALONE and 'KUBECONFIG' not in os.environ:
        os.execv(lab.COMMAND, [lab.COMMAND, 'run', '--', sys.executable,
                               '-m', 'benchmarks', *sys.argv[1:]])
    started = time.time()
    figures, context = importlib.import_module(
        'benchmarks.%s' % args.name).run()
    context.update(
        benchmark=args.name, kernel=platform.release(), cpus=os.cpu_count(),
        started=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(started)),
        seconds=round(time.time() - started, 1))
    result = {'figures': {name: round(value, 4)
                          for name, value in sorted(figures.items())},
              'context': context}
    if args.json:
        with open(args.json, 'w') as stream:
            json.dump(result, stream, indent=2)
            stream.write('\n')
    for name, value in result['figures'].items():
        print('%-32s %12.3f' % (name, value))


if __name__ == '__main__':
    main()
