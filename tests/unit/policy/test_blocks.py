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


import ipaddress

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.policy import blocks
from kuryr_cilium.policy import model
from tests import base

NETWORKS = ('0.0.0.0/0', '0.0.0.0/1', '10.0.0.0/8', '10.1.0.0/16',
            '10.1.0.0/17', '10.1.2.0/24', '10.1.2.3/32', '255.0.0.0/8',
            '255.255.255.255/32', '::/0', 'fd00::/8', 'fd00::/64',
            'fd00::1/128', 'ffff::/16')
ADDRESSES = ('0.0.0.0', '9.9.9.9', '10.0.0.1', '10.1.0.1', '10.1.2.3',
             '10.1.2.4', '10.1.255.1', '10.2.0.0', '128.0.0.1',
             '255.255.255.255', '::', 'fd00::1', 'fd00::2', 'fd01::',
             'ffff::1', 'fe00::')
NAMES = ('b0', 'b1', 'b2', 'b3')
BLOCKS = st.builds(
    lambda cidr, excepts: model.Block(cidr, tuple(excepts)),
    st.sampled_from(NETWORKS),
    st.lists(st.sampled_from(NETWORKS), max_size=4))
CHANGES = st.lists(st.dictionaries(
    st.sampled_from(NAMES), st.none() | BLOCKS), min_size=1, max_size=6)


def holds(block, address):
    parsed = ipaddress.ip_address(address)
    return parsed in ipaddress.ip_network(block.cidr) and not any(
        parsed in ipaddress.ip_network(part) for part in block.excepts)


class TestBlocks(base.TestCase):

    def test_two_excepts_are_both_cut_out(self):
        # They cancelled each other in kuryr-kubernetes.
        coverage = blocks.Coverage()
        coverage.update({'b': blocks.parse(model.Block(
            '10.0.0.0/8', ('10.1.0.0/16', '10.2.0.0/16')))})
        for address, covering in (('10.0.0.1', {'b'}), ('10.1.0.1', set()),
                                  ('10.2.0.1', set()), ('10.3.0.1', {'b'})):
            self.assertEqual(covering, coverage.of(address))

    def test_one_except_is_one_prefix(self):
        # It became 24 rules in kuryr-kubernetes.
        parsed = blocks.parse(model.Block('0.0.0.0/0', ('10.1.2.0/24',)))
        self.assertEqual(blocks.Size(2, 0, 1), blocks.size([parsed]))

    def test_nothing_is_left(self):
        for cidr, excepts in (('10.0.0.0/8', ('10.0.0.0/8',)),
                              ('10.0.0.0/8', ('0.0.0.0/0',))):
            self.assertIsNone(blocks.parse(model.Block(cidr, excepts)))

    def test_excepts_elsewhere_do_nothing(self):
        parsed = blocks.parse(model.Block('10.0.0.0/8', (
            '10.1.0.0/16', '10.1.2.0/24', '11.0.0.0/8', '::/0')))
        self.assertEqual(['10.1.0.0/16'],
                         [part.name for part in parsed.excepts])

    @hypothesis.settings(deadline=None)
    @hypothesis.given(CHANGES)
    def test_every_address_is_in_the_blocks_that_hold_it(self, changes):
        coverage = blocks.Coverage()
        for address in ADDRESSES:
            coverage.learn(address)
        there = {}
        for change in changes:
            before = {name: coverage.of(name) for name in ADDRESSES}
            prefixes = {name: coverage.of(name) for name in PREFIXES
                        if name in coverage}
            there.update(change)
            touched = coverage.update({
                name: block and blocks.parse(block)
                for name, block in change.items()})
            present = {name: block for name, block in there.items() if block}
            for address in ADDRESSES:
                self.assertEqual({
                    name for name, block in present.items()
                    if holds(block, address)}, coverage.of(address))
                self.assertEqual(coverage.of(address),
                                 self.longest(coverage, address))
                if coverage.of(address) != before[address]:
                    self.assertIn(address, touched)
            for name in PREFIXES:
                now = coverage.of(name) if name in coverage else None
                if now != prefixes.get(name):
                    self.assertIn(name, touched)
            parsed = list(filter(None, map(blocks.parse, present.values())))
            size = blocks.size(parsed)
            names = [name for name in PREFIXES if name in coverage]
            self.assertEqual(len(names), size.prefixes + size.addresses)
            self.assertEqual(sum(len(coverage.of(name)) for name in names),
                             size.entries)

    def longest(self, coverage, address):
        """As a table of longest prefixes says it."""
        parsed = ipaddress.ip_address(address)
        found = [name for name in PREFIXES if name in coverage
                 and parsed in ipaddress.ip_network(name)]
        return coverage.of(max(found, key=lambda name: ipaddress.ip_network(
            name).prefixlen)) if found else frozenset()


PREFIXES = tuple(blocks.prefix(network).name for network in NETWORKS)
