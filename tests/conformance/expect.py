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

"""What a scenario's author expects, in lines that a person can check.

A line is ``allow`` or ``deny``, who asks, ``->``, who is asked, and what::

    deny  */* -> x/*
    allow y/a,z/* -> x/a tcp/80 udp v6

Names are patterns of the shell with commas between them: ``*/*`` is every
pod, ``*`` everyone. What is any of ``tcp``, ``udp``, ``sctp``, ``icmp``,
``tcp/80``..., and any of ``v4`` and ``v6``; nothing said is everything. The
last line that fits a probe decides; what no line fits is allowed. No line can
forbid what no policy can: a pod reaches itself, and a node its own pods.
"""

import dataclasses
import fnmatch
import functools
import re
from typing import Iterable

from tests.conformance import cast

_LINE = re.compile(r'(allow|deny) +(\S+) +-> +(\S+)((?: +\S+)*) *')
_WHAT = re.compile(r'(tcp|udp|sctp)(/\d+)?|icmp')


class BadLine(ValueError):
    """A line that can't be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line; ``whats`` and ``versions`` are empty where nothing is said."""

    allow: bool
    source: str
    destination: str
    whats: frozenset[str]
    versions: frozenset[int]

    def fits(self, probe: cast.Probe) -> bool:
        return (_named(probe.source, self.source)
                and _named(probe.destination, self.destination)
                and (not self.versions or probe.version in self.versions)
                and (not self.whats or probe.protocol in self.whats
                     or '%s/%s' % (probe.protocol, probe.port) in self.whats))


def parse(text: str) -> Line:
    """Read a line.

    :raises: BadLine
    """
    match = _LINE.fullmatch(text)
    if match is None:
        raise BadLine('%r: say "allow" or "deny", WHO -> WHOM, and what'
                      % text)
    whats, versions = set(), set()
    for word in match[4].split():
        if word in ('v4', 'v6'):
            versions.add(int(word[1]))
        elif _WHAT.fullmatch(word):
            whats.add(word)
        else:
            raise BadLine('%r: %r is none of tcp, udp, sctp, icmp, '
                          'tcp/80, v4, v6'
                          % (text, word))
    for patterns in match[2], match[3]:
        for pattern in patterns.split(','):
            if not any(fnmatch.fnmatchcase(name, pattern)
                       for name in cast.everyone(('node-a', 'node-b'))):
                raise BadLine('%r: %r is nobody' % (text, pattern))
    return Line(match[1] == 'allow', match[2], match[3], frozenset(whats),
                frozenset(versions))


def allowed(lines: Iterable[Line], probe: cast.Probe,
            nodes: tuple[str, str]) -> bool:
    """What is expected of a probe."""
    if probe.source == probe.destination:
        return True
    if (probe.source in nodes and '/' in probe.destination
            and cast.node_of(probe.destination, nodes) == probe.source):
        return True
    found = True
    for line in lines:
        if line.fits(probe):
            found = line.allow
    return found


@functools.lru_cache(10000)
def _named(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern)
               for pattern in patterns.split(','))
