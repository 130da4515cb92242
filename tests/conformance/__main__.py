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

"""``tools/lab/lab conformance``: every scenario on the lab that is up."""

import argparse
import json
import resource
import sys
import time

from tests.conformance import cast
from tests.conformance import expect
from tests.conformance import judge
from tests.conformance import probes
from tests.conformance import scenario
from tests.conformance import stage
from tests.conformance import table
from tests.e2e import lab as e2e_lab

#: Seconds within which the world must be as expected, after a change.
SETTLED = 10.0
#: Seconds to listen for answers that should not come; to wait for others.
LEAST, MOST = 0.5, 2.0


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='lab conformance', description='Run well-known policies on the '
        'lab that is up: who reaches whom, expected against seen.')
    parser.add_argument('--filter', default='', metavar='TEXT',
                        help='only scenarios with TEXT in file or name')
    parser.add_argument('-o', dest='output', choices=('text', 'json'),
                        default='text')
    args = parser.parse_args(argv)
    try:
        chosen = scenario.load(args.filter)
        if not chosen:
            raise scenario.BadScenario('no scenario has %r in its file or '
                                       'name' % args.filter)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return _run(chosen, args.output == 'json')
    except (scenario.BadScenario, e2e_lab.LabError) as error:
        print('lab conformance: %s' % error, file=sys.stderr)
        return 2


def _run(chosen, as_json):
    begin = time.monotonic()

    def say(text):
        print('%7.1f s  %s' % (time.monotonic() - begin, text),
              file=sys.stderr, flush=True)

    theatre = stage.Stage()
    results = []
    with theatre.set():
        say('9 pods on %s and %s are ready' % theatre.nodes)
        if not as_json:
            print(table.LEGEND)
        for number, item in enumerate(chosen, 1):
            started = time.monotonic()
            steps = _play(theatre, item, as_json)
            results.append({
                'file': item.file, 'name': item.name, 'steps': steps,
                'seconds': round(time.monotonic() - started, 2)})
            wrong = sum(len(step['differences']) for step in steps)
            say('[%*d/%d] %-5s %s: %s' % (
                len(str(len(chosen))), number, len(chosen),
                'WRONG' if wrong else 'ok', item.file, item.name))
    probed = sum(step['probes'] for item in results for step in item['steps'])
    wrong = sum(len(step['differences'])
                for item in results for step in item['steps'])
    if as_json:
        print(json.dumps({'scenarios': results, 'probes': probed,
                          'differences': wrong,
                          'seconds': round(time.monotonic() - begin, 1)},
                         indent=1))
    else:
        print('%d scenarios, %d probes, %d differences' % (
            len(results), probed, wrong))
    return 1 if wrong else 0


def _play(theatre, item, quiet):
    """Play a scenario; what came of each step."""
    played = []
    names = cast.everyone(theatre.nodes)
    try:
        for number, step in enumerate(item.steps, 1):
            theatre.do(step)
            expected = {probe: expect.allowed(step.check, probe,
                                              theatre.nodes)
                        for probe in cast.probes(theatre.nodes)}
            started = time.monotonic()
            seen = _settle(theatre, expected)
            took = time.monotonic() - started
            judged = {probe: expect.allowed(step.check, probe, theatre.nodes)
                      for probe in cast.probes(theatre.nodes, cast.ON_PAPER)
                      } | expected
            said = _consult(theatre, judged)
            wrong = [str(each) for each in table.differences(
                expected, seen, said.why)]
            wrong += ['%s: the oracle says %s (%s)' % (
                probe, 'answer' if said.allowed(probe) else 'silence',
                said.why(probe)) for probe, allow in judged.items()
                if said.allowed(probe) != allow]
            text = table.render(expected, seen, names)
            played.append({
                'probes': len(expected), 'table': text.split('\n'),
                'seconds': round(took, 2), 'differences': wrong})
            if not quiet:
                _show(item, number, text, wrong)
    finally:
        theatre.undo()
    return played


def _show(item, number, text, wrong):
    step = ''
    if len(item.steps) > 1:
        step = ' (step %d of %d)' % (number, len(item.steps))
    print('\n== %s: %s%s\n%s' % (item.file, item.name, step, text))
    for each in wrong:
        print('! ' + each)
    sys.stdout.flush()


def _settle(theatre, expected):
    """Ask until all is as expected, twice in a row, or time is up."""
    deadline = time.monotonic() + SETTLED
    agreed = 0
    while True:
        seen = probes.ask(theatre.places, expected, LEAST, MOST)
        wrong = table.differences(expected, seen, str)
        agreed = 0 if wrong else agreed + 1
        if agreed == 2 or time.monotonic() > deadline:
            return seen


def _consult(theatre, judged):
    """The oracle about the cluster as the API server shows it."""
    deadline = time.monotonic() + SETTLED
    while True:
        said = judge.Judge(theatre.objects(), theatre.address)
        if time.monotonic() > deadline or all(
                said.allowed(probe) == allow
                for probe, allow in judged.items()):
            return said


if __name__ == '__main__':
    sys.exit(main())
