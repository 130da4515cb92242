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

"""The programs judge by a ruleset's rows as the readers in Python do."""

import hypothesis
from hypothesis import strategies

from kuryr_cilium.datapath.bpf import explain
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, PEER, OTHER = bench.A, bench.PEER, bench.OTHER
REDIRECT = bench.REDIRECT
Reason = layout.Reason
Entity = entities.Entity
Tier, Verdict = model.Tier, model.Verdict
ALLOW, DENY, SKIP = Verdict.ALLOW, Verdict.DENY, Verdict.PASS

RULESET = 77


def group(verdict=ALLOW, peers=None, ports=None, tier=Tier.NETWORK_POLICY):
    return model.RuleGroup(
        tier, 0, verdict, peers and frozenset(peers),
        ports and frozenset(model.PortRange(*port) for port in ports))


class PolicyCase(bench.Case):

    def rules(self, *groups, classes=None, number=RULESET):
        """Have egress of pod A judged by groups."""
        table = compiler.compile_ruleset(model.RuleSet(
            'rules', model.Direction.EGRESS, groups))
        self.bench.ruleset(number, table, classes)
        self.bench.endpoint(A, egress=number)
        return table

    def send(self, version=4, protocol=p.UDP, port=80, peer=None):
        """What becomes of the first packet of a new connection."""
        source, target = A.address(version), peer or PEER[version]
        for key in list(self.bench.connections(table='kc_ct_new')):
            libbpf.map_delete(self.bench.fd('kc_ct_new'), key.pack())
        payload = {p.UDP: p.udp, p.TCP: p.tcp, p.SCTP: p.sctp}
        if protocol in payload:
            message = payload[protocol](4000, port)
        elif protocol == p.ICMP:
            message = p.icmp(port >> 8, port & 255)
        elif protocol == p.ICMP6:
            message = p.icmp6(source, target, port >> 8, port & 255)
        else:
            message = b'message'
        result = self.out(p.ip(source, target, protocol, message))
        reader = maps.Maps(self.bench.maps)
        told = explain.judge(reader, reader.endpoint(A.number),
                             model.Direction.EGRESS, target, protocol, port)
        self.assertEqual(
            told.reason, result if isinstance(result, Reason) else
            Reason.ALLOWED, (version, protocol, port, peer))
        return result

    def assertAllowed(self, **packet):
        self.assertEqual(REDIRECT, self.send(**packet), packet)

    def assertDenied(self, reason=Reason.POLICY, **packet):
        self.assertEqual(reason, self.send(**packet), packet)


class TestPeers(PolicyCase):

    def test_entities(self):
        peers = {}
        for number, entity in enumerate(Entity):
            peers[entity] = '10.8.0.%d' % number
            self.bench.peer(peers[entity], entity)
        peers[Entity.WORLD] = PEER[4]
        for name, matched in (
                (entities.CLUSTER, (Entity.POD, Entity.HOST,
                                    Entity.REMOTE_NODE)),
                (entities.HOST, (Entity.HOST,)),
                (entities.REMOTE_NODE, (Entity.REMOTE_NODE,)),
                (entities.WORLD, (Entity.WORLD,))):
            self.rules(group(peers=(name,)))
            for entity, peer in peers.items():
                if entity not in matched:
                    self.assertDenied(peer=peer)
                elif entity is Entity.HOST:
                    # It goes up the stack.
                    self.assertEqual(bench.PASS, self.send(peer=peer))
                else:
                    self.assertAllowed(peer=peer)

    def test_class(self):
        for version in (4, 6):
            self.bench.peer(PEER[version], Entity.POD, 20)
            self.bench.peer(OTHER[version], Entity.POD, 21)
            self.rules(group(peers=('web',)),
                       classes={20: (('web',), Entity.POD),
                                21: (('db',), Entity.POD)})
            self.assertAllowed(version=version)
            self.assertDenied(version=version, peer=OTHER[version])

    def test_class_without_a_row_is_judged_by_its_entity(self):
        self.bench.peer(PEER[4], Entity.POD, 20)
        self.rules(group(peers=(entities.CLUSTER,)))
        self.assertAllowed()
        self.bench.peer(PEER[4], Entity.WORLD, 20)
        self.assertDenied()

    def test_prefixes(self):
        self.bench.cidr('10.9.0.0/24', 30)
        self.bench.cidr('10.9.0.0/31', 31)
        self.bench.cidr('fd09::/64', 30)
        self.bench.cidr('::/0', 31)
        self.rules(group(peers=('near',)),
                   classes={30: (('near',), Entity.WORLD),
                            31: ((), Entity.WORLD)})
        self.assertDenied(peer='10.9.0.1')
        self.assertAllowed(peer='10.9.0.2')
        self.assertAllowed(peer='10.9.0.255')
        self.assertDenied(peer='10.9.1.0')
        self.assertAllowed(version=6, peer='fd09::7')
        self.assertDenied(version=6, peer='fd08::7')
        # An address of its own is asked for first; ::/0 holds no IPv4.
        self.bench.peer('10.9.0.2', Entity.POD)
        self.assertDenied(peer='10.9.0.2')
        self.bench.cidr('::/0', 30)
        self.assertDenied(peer='10.20.0.1')

    def test_multicast(self):
        for version in (4, 6):
            self.bench.peer(bench.GROUP[version], Entity.WORLD, 20)
            self.rules(group(peers=('group',)),
                       classes={20: (('group',), Entity.WORLD)})
            self.assertAllowed(version=version, peer=bench.GROUP[version])
            self.assertDenied(version=version)


class TestPorts(PolicyCase):

    def test_protocol_and_port(self):
        self.rules(group(ports=((p.UDP, 80, 80),)))
        self.assertAllowed(port=80)
        self.assertDenied(port=81)
        self.assertDenied(protocol=p.TCP, port=80)
        self.assertDenied(protocol=47)

    def test_protocol(self):
        self.rules(group(ports=((p.SCTP,),)))
        self.assertAllowed(protocol=p.SCTP, port=7)
        self.assertDenied(protocol=p.UDP, port=7)

    def test_any(self):
        self.rules(group())
        for protocol in (p.UDP, p.TCP, p.SCTP, p.ICMP, 47, 2, 255):
            self.assertAllowed(protocol=protocol, port=13 << 8)

    def test_range(self):
        self.rules(group(ports=((p.UDP, 1023, 2048),)))
        for port, allowed in ((1022, False), (1023, True), (1500, True),
                              (2048, True), (2049, False)):
            if allowed:
                self.assertAllowed(port=port)
            else:
                self.assertDenied(port=port)

    def test_longest_prefix_has_the_bits_of_the_shorter(self):
        self.rules(group(peers=('web',), ports=((p.UDP, 80, 80),)), group())
        self.assertAllowed(port=80)

    def test_icmp(self):
        for version, protocol in ((4, p.ICMP), (6, p.ICMP6)):
            echo = (8 if version == 4 else 128) << 8
            self.rules(group(ports=((protocol, echo, echo),)))
            self.assertAllowed(version=version, protocol=protocol, port=echo)
            self.assertDenied(version=version, protocol=protocol,
                              port=200 << 8)

    def test_icmp_range_of_codes(self):
        for version, protocol in ((4, p.ICMP), (6, p.ICMP6)):
            kind = 200
            self.rules(group(ports=((protocol, kind << 8, kind << 8 | 255),)))
            for code in (0, 1, 255):
                self.assertAllowed(version=version, protocol=protocol,
                                   port=kind << 8 | code)
            for neighbour in (kind - 1 << 8 | 255, kind + 1 << 8):
                self.assertDenied(version=version, protocol=protocol,
                                  port=neighbour)

    def test_sctp_range(self):
        self.rules(group(ports=((p.SCTP, 100, 200),)))
        self.assertAllowed(protocol=p.SCTP, port=150)
        self.assertDenied(protocol=p.SCTP, port=201)
        self.assertDenied(protocol=p.TCP, port=150)

    def test_protocol_without_ports_is_matched_by_no_port(self):
        self.rules(group(ports=((47, 0, 0), (50, 0, 65535))))
        self.assertDenied(protocol=47)
        self.assertAllowed(protocol=50)


class TestVerdicts(PolicyCase):

    def test_constants(self):
        for ruleset, expected in ((rows.RULESET_DENY, Reason.POLICY_DENY),
                                  (rows.RULESET_ALLOW, REDIRECT)):
            self.bench.endpoint(A, egress=ruleset)
            self.assertEqual(expected, self.send())

    def test_no_group(self):
        self.rules()
        self.assertDenied()

    def test_first_group_decides(self):
        port = ((p.UDP, 80, 80),)
        self.rules(group(DENY, ports=port), group())
        self.assertDenied(Reason.POLICY_DENY)
        self.assertAllowed(port=81)
        self.rules(group(ports=port), group(DENY))
        self.assertAllowed()
        self.assertDenied(Reason.POLICY_DENY, port=81)

    def test_pass_leaves_its_tier(self):
        self.rules(group(SKIP, tier=Tier.ADMIN, ports=((p.UDP, 80, 80),)),
                   group(DENY, tier=Tier.ADMIN),
                   group(ports=((p.UDP, 0, 79), (p.UDP, 80, 80))))
        self.assertAllowed(port=80)
        self.assertDenied(Reason.POLICY_DENY, port=79)

    def test_pass_of_each_tier(self):
        self.rules(group(SKIP, tier=Tier.ADMIN),
                   group(SKIP, tier=Tier.NETWORK_POLICY),
                   group(DENY, tier=Tier.NETWORK_POLICY),
                   group(ALLOW, tier=Tier.BASELINE))
        self.assertAllowed()

    def test_pass_at_the_end(self):
        self.rules(group(), group(SKIP, tier=Tier.BASELINE,
                                  ports=((p.TCP,),)))
        self.rules(group(SKIP))
        self.assertDenied()

    def test_pages(self):
        for count in (255, 256, 257, 512, 700, 4095):
            self.rules(*(group(peers=('p%d' % i,)) for i in range(count)),
                       group(ports=((p.UDP, 80, 80),)))
            self.assertAllowed(port=80)
            self.assertDenied(port=81)
            event, *_ = [event for event in self.bench.told()
                         if not event.reason]
            self.assertEqual((RULESET, count), (event.ruleset, event.bit))

    def test_pass_over_pages(self):
        self.rules(group(SKIP, tier=Tier.ADMIN),
                   *(group(DENY, tier=Tier.ADMIN) for _ in range(600)),
                   *(group(peers=('p%d' % i,)) for i in range(600)),
                   group(SKIP), *(group(DENY) for _ in range(600)),
                   group(ALLOW, tier=Tier.BASELINE))
        self.assertAllowed()

    def test_longest_way_through_pages_and_tiers(self):
        # On each page peers and ports have bits, none in common; each tier
        # ends with PASS.
        miss = {tier: (group(ports=((p.TCP,),), tier=tier),
                       group(peers=('nobody',), ports=((p.UDP,),),
                             tier=tier)) * 511 for tier in Tier}
        passing = [item for tier in Tier for item in (
            *miss[tier], group(SKIP, tier=tier),
            group(DENY, tier=tier, ports=((p.UDP,),)))]
        self.assertEqual(compiler.MAX_GROUPS, len(passing))
        self.rules(*passing)
        self.assertDenied()
        passing[-2] = group(tier=Tier.DEFAULT)
        self.rules(*passing)
        self.assertAllowed()
        del passing[-2]
        self.rules(*passing)
        self.assertDenied(Reason.POLICY_DENY)

    def test_missing_rows_drop(self):
        wanted = group(ports=((p.UDP, 80, 80),))
        self.rules(wanted)
        key = layout.RsGroupKey(RULESET, 0).pack()
        libbpf.map_delete(self.bench.fd('kc_rs_group'), key)
        self.assertDenied(Reason.TABLES)
        self.rules(wanted)
        for class_ in Entity:
            libbpf.map_delete(self.bench.fd('kc_rs_peer'), layout.RsPeerKey(
                RULESET, class_, 0).pack())
        self.assertDenied(Reason.TABLES)
        self.bench.endpoint(A, egress=RULESET + 1)
        self.assertDenied(Reason.TABLES)

    def test_missing_page_drops(self):
        many = [group(peers=('p%d' % i,)) for i in range(300)] + [group()]
        for name, key in (
                ('kc_rs_peer', layout.RsPeerKey(RULESET, Entity.WORLD, 1)),
                ('kc_rs_port', layout.RsPortKey(layout.PORT_ANY, RULESET, 1,
                                                0, 0))):
            self.rules(*many)
            self.assertAllowed()
            libbpf.map_delete(self.bench.fd(name), key.pack())
            self.assertDenied(Reason.TABLES)

    def test_ingress(self):
        table = compiler.compile_ruleset(model.RuleSet(
            'in', model.Direction.INGRESS,
            (group(peers=('web',), ports=((p.TCP, 80, 80),)),)))
        for version in (4, 6):
            self.bench.peer(PEER[version], Entity.POD, 20)
            self.bench.ruleset(RULESET, table,
                               {20: (('web',), Entity.POD)})
            self.bench.endpoint(A, ingress=RULESET)
            for source, port, expected in (
                    (PEER[version], 80, REDIRECT),
                    (PEER[version], 81, Reason.POLICY),
                    (OTHER[version], 80, Reason.POLICY)):
                self.assertInto(expected, p.ip(
                    source, A.address(version), p.TCP, p.tcp(4000, port)))


RANGES = strategies.builds(
    lambda protocol, ends: model.PortRange(protocol, *sorted(ends)),
    strategies.sampled_from((p.TCP, p.UDP)),
    strategies.tuples(strategies.integers(0, 40),
                      strategies.integers(0, 40)))
PORTS = strategies.one_of(
    strategies.none(),
    strategies.frozensets(RANGES, min_size=1, max_size=3))
PEERS = strategies.one_of(
    strategies.none(),
    strategies.frozensets(strategies.sampled_from(
        ('web', 'db', 'x', entities.CLUSTER, entities.WORLD)), min_size=1))
GROUPS = strategies.lists(strategies.builds(
    model.RuleGroup, strategies.sampled_from(Tier), strategies.just(0),
    strategies.sampled_from(Verdict), PEERS, PORTS), max_size=12)


class TestAgainstTheCompiler(PolicyCase):

    CLASSES = {20: (('web',), Entity.POD), 21: (('web', 'db'), Entity.POD),
               22: (('x',), Entity.WORLD), 23: ((), Entity.POD)}

    def test_verdicts(self):
        for class_, (_, entity) in self.CLASSES.items():
            self.bench.peer('10.8.0.%d' % class_, entity, class_)
        number = iter(range(RULESET, 1 << 30))

        @hypothesis.settings(max_examples=150, deadline=None, database=None,
                             derandomize=True)
        @hypothesis.given(GROUPS, strategies.sampled_from((0, 255, 1030)))
        def check(groups, filling):
            # What fills pages never matches.
            filler = (group(peers=('nobody',)),) * filling
            groups = sorted(groups, key=lambda item: item.tier)
            ruleset = next(number)
            table = self.rules(*filler, *groups, classes=self.CLASSES,
                               number=ruleset)
            for class_, (selectors, entity) in self.CLASSES.items():
                for protocol in (p.TCP, p.UDP):
                    for port in (0, 7, 31, 40):
                        found = compiler.judge(table, selectors, entity,
                                               protocol, port)
                        result = self.send(protocol=protocol, port=port,
                                           peer='10.8.0.%d' % class_)
                        self.assertEqual(
                            Reason.POLICY if found is None else REDIRECT
                            if found.verdict is ALLOW else
                            Reason.POLICY_DENY, result,
                            (groups, class_, protocol, port))

        check()
