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

"""What is compiled here and what the oracle says, on random clusters."""

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.cli import cluster
from kuryr_cilium.cli import compiled
from kuryr_cilium.cli import expected
from kuryr_cilium.cli import places
from kuryr_cilium.cli import tracing
from kuryr_cilium import exceptions
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import model
from tests import base
from tests.unit.policy import strategies_policies
from tests.unit.policy import strategies_worlds

PACKETS = (tracing.Packet('tcp', 80), tracing.Packet('udp', 81),
           tracing.Packet('icmp', icmp_type=8),
           tracing.Packet('icmpv6', icmp_type=128))


def make(objects):
    """A Cluster of (kind, object)."""
    def of(kind):
        return tuple(obj for name, obj in objects if name == kind)

    return cluster.Cluster(
        of('Pod'), of('Namespace'), of('Node'), of('Service'),
        of('EndpointSlice'), {kind: of(kind) for kind in kinds.PARSERS})


class TestAgreement(base.TestCase):

    @hypothesis.settings(max_examples=25, deadline=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(strategies_worlds.objects(), st.sampled_from(PACKETS))
    def test_no_fault_where_there_is_none(self, objects, packet):
        found = make(objects)
        options = kinds.Options()
        made = compiled.Compiled(found, options)
        oracle = expected.Expected(found, options)
        finder = places.Finder('node-a', (), (), found)
        ends = [finder.find(address) for address in (
            *(address for obj in found.pods
              for address in _addresses(finder, obj)),
            *strategies_policies.OUTSIDE, '192.0.2.2')]
        for subject in ends:
            if subject.kind != places.POD:
                continue
            for peer in ends:
                if not peer.uid == subject.uid:
                    self._check(made, oracle, subject, peer, packet)

    def _check(self, made, oracle, subject, peer, packet):
        for version in packet.versions:
            if not subject.of_version(version):
                continue
            for address in peer.of_version(version):
                for direction in model.Direction:
                    if tracing.nowhere(direction, subject, peer):
                        continue
                    check = tracing.Check(
                        address, version, compiled=made.judge(
                            subject.uid, direction, address, packet.number,
                            packet.key),
                        oracle=oracle.judge(direction, subject, peer,
                                            address, packet))
                    self.assertIsNotNone(check.compiled)
                    self.assertEqual('', tracing.fault(direction, subject,
                                                       check))


def _addresses(finder, obj):
    name = '%(namespace)s/%(name)s' % obj['metadata']
    try:
        return finder.find(name).addresses
    except exceptions.PlaceUnknown:
        return ()
