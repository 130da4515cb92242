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

"""layout.py says of the maps what the compiled programs say."""

import itertools
import os
import tempfile

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium.lb import frontends
from kuryr_cilium.policy import entities
from tests import base
from tests.unit.datapath import btf

MAC = '02:00:00:00:00:01'

#: Values that differ from zero in every field, by struct.
SAMPLES = {
    'kc_addr_key': layout.AddrKey(1, '10.0.0.1'),
    'kc_cidr_key': layout.CidrKey(2, 'fd00::/56'),
    'kc_peer': layout.Peer(3, 4),
    'kc_local': layout.Local(5, 6, MAC),
    'kc_endpoint': layout.Endpoint(
        1, 2, 3, 4, 5, 6, 7, 1, MAC, (MAC, '02:00:00:00:00:02'),
        ('10.0.0.1', 'fd00::1')),
    'kc_rs_peer_key': layout.RsPeerKey(1, 2, 3),
    'kc_rs_port_key': layout.RsPortKey(64, 2, 3, 6, 80),
    'kc_bits': layout.Bits((1, 2, 3, 4), 5),
    'kc_rs_group_key': layout.RsGroupKey(1, 2),
    'kc_rs_group': layout.RsGroup(1, 2, 3, 4, 5),
    'kc_ct_key': layout.CtKey(1, 6, 2, 80, 4000, 'fd00::1'),
    'kc_ct': layout.Ct(1, 2, 3, 4, 5, 6, 7, 8, 1, 10, 11, 'fd00::1'),
    'kc_svc_key': service_rows.SvcKey(1, '10.0.0.1', 80, 6),
    'kc_svc': service_rows.Svc(1, 2, 3, 4),
    'kc_backend_key': service_rows.BackendKey(1, 2),
    'kc_backend': service_rows.Backend('10.0.0.1', 80, MAC, 3),
    'kc_source_key': service_rows.SourceKey(2, 'fd00::/56'),
    'kc_affinity_key': service_rows.AffinityKey(1, '10.0.0.1'),
    'kc_affinity': service_rows.Affinity(1, '10.0.0.1', 80, MAC),
    'kc_exit': outside.Exit('10.0.0.1', 61000, 65535),
    'kc_out_key': outside.Key(1, 6, 80, 4000, '10.0.0.1', 'fd00::1'),
    'kc_out': outside.Entry(1, '10.0.0.1', 80, 3, 4, 'fd00::1', 81),
    'kc_sock_key': sockets.Key(1, '10.0.0.1', 80, 17, 1),
    'kc_sock': sockets.Name('10.0.0.1', 80),
    'kc_event': layout.Event(1, 2, 3, 4, 5, '10.0.0.1', '10.0.0.2', 6, 7,
                             0x800, 17, 1, 3, 8),
}

#: The members that hold the fields of a tuple, where one holds several.
MEMBERS = {
    'kc_cidr_key': ('space', 'addr'),
    'kc_source_key': ('service', 'addr'),
    'kc_bits': ('w', 'pages'),
    'kc_ct': ('last', 'bytes', 'bytes', 'packets', 'packets', 'epoch',
              'rule_id', 'flags', 'direction', 'asked_port', 'nat_port',
              'nat'),
}

ENUMS = {
    'kc_reason': (layout.Reason, 'KC_DROP_', {'KC_ALLOWED': 'ALLOWED'}),
    'kc_verdict': (layout.Verdict, 'KC_VERDICT_', {}),
    'kc_direction': (layout.Direction, 'KC_', {}),
    'kc_meta_index': (layout.Meta, 'KC_META_', {}),
    'kc_endpoint_flag': (layout.EndpointFlag, 'KC_ENDPOINT_', {}),
    'kc_ct_flag': (layout.CtFlag, 'KC_CT_', {}),
    'kc_sock_way': (sockets.Way, 'KC_SOCK_', {}),
    'kc_netns': (sockets.Whose, 'KC_NETNS_', {}),
    'kc_entity': (entities.Entity, 'KC_ENTITY_', {}),
    'kc_here': (outside.Here, 'KC_HERE_', {}),
    'kc_out_kind': (outside.Kind, 'KC_OUT_', {}),
    'kc_out_flag': (outside.Flag, 'KC_OUT_', {}),
}

#: Sizes, not numbers.
BOUNDS = {'KC_REASONS': layout.REASONS, 'KC_META_MAX': 16}


def compiled():
    """The types of the object, compiled once a process."""
    if not hasattr(compiled, 'types'):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, loader.OBJECT)
            loader.compile_object(path)
            compiled.types = btf.Types(path)
    return compiled.types


class TestLayout(base.TestCase):

    def test_sizes(self):
        for name, sample in SAMPLES.items():
            size, _ = compiled().structs[name]
            self.assertEqual((name, size), (name, len(sample.pack())))
            self.assertEqual((name, size), (name, type(sample).SIZE))

    def test_round_trip(self):
        for sample in SAMPLES.values():
            self.assertEqual(sample, type(sample).unpack(sample.pack()))

    def test_each_member_is_where_the_compiler_puts_it(self):
        for name, sample in SAMPLES.items():
            size, members = compiled().structs[name]
            used = sorted(set(members.values())) + [size]
            ends = dict(itertools.pairwise(used))
            touched = self._touched(sample)
            fields = MEMBERS.get(name) or self._member_names(members, sample)
            for field, bytes_ in zip(fields, touched, strict=True):
                start = members[field]
                self.assertTrue(
                    bytes_ and bytes_ <= set(range(start, ends[start])),
                    f'{name}.{field} is at {start} to {ends[start]}, but '
                    f'layout.py writes {sorted(bytes_)}')

    def test_numbers(self):
        for name, (enum, prefix, others) in ENUMS.items():
            constants = dict(compiled().enums[name])
            for bound, value in BOUNDS.items():
                if bound in constants:
                    self.assertEqual(value, constants.pop(bound))
            wanted = {others.get(key, key.removeprefix(prefix)): value
                      for key, value in constants.items()}
            self.assertEqual(
                wanted, {member.name: member.value for member in enum}, name)

    def test_rulesets(self):
        self.assertEqual(
            {'KC_RULESET_NONE': rows.RULESET_NONE,
             'KC_RULESET_DENY': rows.RULESET_DENY,
             'KC_RULESET_ALLOW': rows.RULESET_ALLOW},
            compiled().enums['kc_ruleset'])

    def test_scopes(self):
        self.assertEqual(
            {'KC_SCOPE_INSIDE': frontends.INSIDE,
             'KC_SCOPE_OUTSIDE': frontends.OUTSIDE},
            compiled().enums['kc_scope'])

    def test_names_of_reasons(self):
        self.assertEqual('no-endpoint', layout.Reason.NO_ENDPOINT.text)
        self.assertEqual(len(layout.Reason),
                         len({reason.text for reason in layout.Reason}))

    def test_no_more_addresses_than_there_is_room_for(self):
        sample = SAMPLES['kc_endpoint']
        many = sample._replace(addresses=('10.0.0.1',) * 9)
        self.assertRaises(ValueError, many.pack)

    def _touched(self, sample):
        """For each field the bytes that change with it."""
        before = sample.pack()
        for field, value in zip(sample._fields, sample):
            after = sample._replace(**{field: self._other(value)}).pack()
            yield {at for at, (x, y) in enumerate(zip(before, after))
                   if x != y}

    def _other(self, value):
        if isinstance(value, int):
            return value ^ 1
        if isinstance(value, tuple):
            return tuple(self._other(item) for item in value)
        if value == MAC or value.count(':') == 5:
            return value[:-1] + '9'
        if '/' in value:
            return 'fd01::/56'
        return 'fd77::7' if ':' in value else '10.7.7.7'

    def _member_names(self, members, sample):
        names = {'class_': 'class', 'length': 'plen', 'source': 'saddr',
                 'destination': 'daddr', 'source_port': 'sport',
                 'destination_port': 'dport', 'protocol': 'proto',
                 'address': 'addr', 'addresses': 'addrs'}
        for field in sample._fields:
            yield field if field in members else names[field]
