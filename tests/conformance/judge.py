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

"""What the oracle says of a probe, beside what a scenario's author says."""

from typing import Callable, Iterable

from kuryr_cilium.policy import oracle
from tests.conformance import cast
from tests.conformance import scenario

_ARGUMENTS = {'Pod': 'pods', 'Namespace': 'namespaces', 'Node': 'nodes',
              'Service': 'services', 'EndpointSlice': 'slices'}
#: By IP version.
_NUMBERS = {'tcp': {4: 6, 6: 6}, 'udp': {4: 17, 6: 17},
            'sctp': {4: 132, 6: 132}, 'icmp': {4: 1, 6: 58}}
_ECHO = {4: 8 << 8, 6: 128 << 8}


class Judge:
    """The oracle about a cluster.

    :param objects: API objects of every kind, policies too.
    :param address: who and IP version -> address.
    """

    def __init__(self, objects: Iterable[dict],
                 address: Callable[[str, int], str]):
        found: dict[str, list[dict]] = {}
        for obj in objects:
            found.setdefault(obj['kind'], []).append(obj)
        self._address = address
        self._cluster = oracle.Cluster(
            policies={kind: found.get(kind, ())
                      for kind in scenario.POLICIES},
            **{argument: found.get(kind, ())
               for kind, argument in _ARGUMENTS.items()})

    def allowed(self, probe: cast.Probe) -> bool:
        """Whether a probe is to be answered."""
        return probe.source == probe.destination or self._path(probe).allowed

    def why(self, probe: cast.Probe) -> str:
        """What decides, at both ends."""
        path = self._path(probe)
        return '; '.join(
            '%s: %s%s' % (end, decision.tier, ''.join(
                ', ' + rule for rule in decision.rules))
            for end, decision in zip(path._fields, path) if decision)

    def _path(self, probe):
        return self._cluster.path(
            self._address(probe.source, probe.version),
            self._address(probe.destination, probe.version), *numbers(probe))


def numbers(probe: cast.Probe) -> tuple[int, int | None]:
    """A probe's IANA protocol number, and port or type and code of ICMP."""
    port = _ECHO[probe.version] if probe.protocol == 'icmp' else probe.port
    return _NUMBERS[probe.protocol][probe.version], port
