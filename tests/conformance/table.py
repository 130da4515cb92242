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

"""Truth tables: who reaches whom by what, as seen, and what differs."""

import dataclasses
from typing import Callable, Iterable, Mapping

from tests.conformance import cast

#: What came back, as probes.py says it.
ANSWER = 'answer'

LEGEND = (
    'Rows ask, columns are asked; a cell is TCP 80, TCP 81, UDP 80, UDP 81, '
    'ping:\n. reached   X not   4, 6 by that IP only   ! not as expected'
    '   - not asked')


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A probe whose outcome is not what it should be."""

    probe: cast.Probe
    expected: bool
    seen: str | None
    why: str

    def __str__(self):
        return '%s: expected %s, seen %s (%s)' % (
            self.probe, ANSWER if self.expected else 'silence',
            self.seen or 'silence', self.why)


def differences(expected: Mapping[cast.Probe, bool],
                seen: Mapping[cast.Probe, str | None],
                why: Callable[[cast.Probe], str]) -> list[Difference]:
    """Where the world is not as expected.

    :param why: what decides, for whoever reads of the difference.
    """
    return [Difference(probe, allow, seen.get(probe), why(probe))
            for probe, allow in expected.items()
            if seen.get(probe) != (ANSWER if allow else None)]


def render(expected: Mapping[cast.Probe, bool],
           seen: Mapping[cast.Probe, str | None],
           names: Iterable[str]) -> str:
    """The table as text.

    :param names: of rows and columns, in order.
    """
    names = list(names)
    width = max(len(cast.WHATS), *map(len, names)) + 1
    first = max(map(len, names)) + 1
    rows = [' ' * first + ''.join(name.ljust(width) for name in names)]
    for source in names:
        cells = [''.join(
            _mark(expected, seen, source, destination, *what)
            for what in cast.WHATS) for destination in names]
        rows.append(source.ljust(first) + ''.join(
            cell.ljust(width) for cell in cells))
    return '\n'.join(row.rstrip() for row in rows)


def _mark(expected, seen, source, destination, protocol, port):
    reached = ''
    for version in cast.VERSIONS:
        probe = cast.Probe(source, destination, protocol, port, version)
        if probe not in expected:
            return '-'
        answer = seen.get(probe)
        if answer != (ANSWER if expected[probe] else None):
            return '!'
        if answer:
            reached += str(version)
    return {'': 'X', '46': '.'}.get(reached, reached)
