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


"""The programs judge by planned views as the text of the rulesets says."""

from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import explain
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.policy import model
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.unit.datapath import sim
from tests.unit.datapath import test_plan

A = bench.A
LOCAL = endpoints.Local(
    A.number, 'u1', 'vif-u1', A.kc, A.kq, A.mac, (A.v4, A.v6),
    bench.NETWORK, (bench.ROUTER_MAC,), active=True)
MESSAGES = {p.TCP: p.tcp, p.UDP: p.udp}


class TestPlans(bench.Case):

    def send(self, peer, protocol, port):
        for key, _ in list(libbpf.map_items(self.bench.fd('kc_ct_new'))):
            libbpf.map_delete(self.bench.fd('kc_ct_new'), key)
        message = MESSAGES[protocol](4000, port) if protocol in MESSAGES \
            else p.icmp(port >> 8, port & 255)
        return self.out(p.ip(A.address(6 if ':' in peer else 4), peer,
                             protocol, message))

    def test_views_one_after_another(self):
        tables = maps.Maps(self.bench.maps)
        carrier = writer.Writer(tables)
        judged = blocks = 0
        for seed in range(15):
            planner = plan.Planner(carrier.allocate)
            for view, _, nodes in test_plan.make_history(seed):
                carrier.carry_out(planner.plan(view, {A.number: LOCAL},
                                               nodes))
                blocks += any(True for _ in tables.keys(rows.CIDR))
                endpoint = view.endpoints.get('u1')
                name = endpoint.egress if endpoint else model.DENY_ALL
                for peer in test_plan.PEERS:
                    for protocol, port in test_plan.PROBES:
                        if protocol == p.ICMP and ':' in peer:
                            continue
                        result = self.send(peer, protocol, port)
                        told = explain.judge(
                            tables, tables.endpoint(A.number),
                            model.Direction.EGRESS, peer, protocol, port)
                        self.assertEqual(
                            sim.verdict(view, view.selectors, nodes, name,
                                        peer, protocol, port) == 'allow',
                            not isinstance(result, layout.Reason),
                            (seed, peer, protocol, port))
                        self.assertEqual(
                            told.reason, result if isinstance(
                                result, layout.Reason)
                            else layout.Reason.ALLOWED)
                        judged += 1
            carrier.purge(lambda: lambda table, key: False)
        self.assertGreater(judged, 1500)
        self.assertGreater(blocks, 15)
