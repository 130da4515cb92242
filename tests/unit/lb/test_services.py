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

"""Services, their addresses, and who answers for them."""

import copy

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.lb import services
from tests import base
from tests.unit.lb import oracle
from tests.unit.lb import strategies

PROTOCOLS = services.PROTOCOLS
NODE, ZONE = strategies.NODE, strategies.ZONE


def service(name='a', **spec):
    """A service of the API in namespace n1."""
    spec.setdefault('clusterIP', '172.30.0.1')
    spec.setdefault('ports', [{'port': 80}])
    return {'metadata': {'namespace': 'n1', 'name': name, 'uid': name,
                         'creationTimestamp': strategies.CREATED[0]},
            'spec': spec}


def piece(*addresses, name='a', number=0, ports=None, **more):
    """An EndpointSlice of it."""
    return {'metadata': {'namespace': 'n1', 'name': '%s-%d' % (name, number),
                         'uid': 'slice-%s-%d' % (name, number),
                         'labels': {oracle.SERVICE_NAME: name}},
            'addressType': 'IPv%d' % frontends.family(addresses[0]),
            'ports': ports or [{'port': 8080}],
            'endpoints': [{'addresses': [address], **more}
                          for address in addresses]}


def listed(objects):
    """Services that were told all of these at once."""
    made = services.Services()
    for obj in objects:
        (made.set_slice if 'addressType' in obj else made.set_service)(obj)
    return made


def winners(found, node=NODE, zone=ZONE):
    """Key -> frontend, of many services by their ids."""
    claims = {}
    for item in found.values():
        for frontend in (*frontends.frontends(item, node, zone),
                         *frontends.outside(item, node, zone)):
            claims.setdefault(frontend.key, []).append((
                frontend.key.address not in item.addresses, item.created,
                item.id, frontend))
    return {key: min(items, key=lambda entry: entry[:3])[3]
            for key, items in claims.items()}


def find(rows, address, port, protocol, nodes=strategies.NODES, scope=0):
    """What the programs find; see kc_svc_of()."""
    keys = [frontends.Key(address, port, protocol, scope)]
    if address in nodes and port in oracle.NODE_PORTS:
        keys.append(frontends.Key(frontends.ANY[frontends.family(address)],
                                  port, protocol, scope))
    keys.append(frontends.Key(address, 0, 0, scope))
    return next((rows[key] for key in keys if key in rows), None)


class TestOracle(base.TestCase):

    @strategies.SETTINGS
    @hypothesis.given(strategies.clusters(), st.sampled_from(
        ((NODE, ZONE), ('node-b', 'zone-b'), (NODE, ''), ('node-c', ZONE))))
    def test_every_question(self, cluster, place):
        rows = winners(listed(sum(cluster, [])).services, *place)
        truth = oracle.Cluster(*cluster, *place, strategies.NODES)
        for address, port, protocol in strategies.QUESTIONS:
            found = find(rows, address, port, PROTOCOLS[protocol])
            if found is not None:
                found = [target[:2] for target in found.targets]
                self.assertEqual(len(set(found)), len(found))
                found = set(found)
            self.assertEqual(truth.ask(address, port, protocol), found,
                             (address, port, protocol))

    @strategies.SETTINGS
    @hypothesis.given(strategies.clusters(), st.sampled_from(
        ((NODE, ZONE), ('node-b', 'zone-b'), ('node-c', ZONE))),
        st.sampled_from(strategies.CLIENTS))
    def test_every_question_from_outside(self, cluster, place, client):
        rows = winners(listed(sum(cluster, [])).services, *place)
        truth = oracle.Cluster(*cluster, *place, strategies.NODES)
        for address, port, protocol in strategies.QUESTIONS:
            found = find(rows, address, port, PROTOCOLS[protocol],
                         scope=frontends.OUTSIDE)
            wanted = truth.ask_outside(address, port, protocol, client)
            if found is not None:
                targets = {target[:2] for target in found.targets}
                silent = found.silent and not targets
                # Who is let in is asked of the ranges, see test_plan.
                if wanted == oracle.SILENCE and found.group.restricted:
                    continue
                found = oracle.SILENCE if silent else targets
            self.assertEqual(wanted, found, (address, port, protocol))

    @strategies.SETTINGS
    @hypothesis.given(strategies.clusters())
    def test_what_may_be_chosen_may_be_kept(self, cluster):
        for item in listed(sum(cluster, [])).services.values():
            for frontend in (*frontends.frontends(item, NODE, ZONE),
                             *frontends.outside(item, NODE, ZONE)):
                self.assertLessEqual(
                    {target[:2] for target in frontend.targets},
                    frontend.alive)


class TestOrder(base.TestCase):

    @strategies.SETTINGS
    @hypothesis.given(st.data())
    def test_any_order_is_as_good_as_listing(self, data):
        where = data.draw(strategies.places())
        former, wanted = (
            {obj['metadata']['uid']: obj for obj in sum(data.draw(
                strategies.clusters(where)), [])} for _time in range(2))
        made = services.Services()
        known = {}
        for uid in data.draw(st.permutations(sorted(former))):
            self._tell(made, former[uid], known)
        for uid in data.draw(st.permutations(sorted({*former, *wanted}))):
            obj = wanted.get(uid)
            if obj is None or data.draw(st.booleans()):
                self._forget(made, former.get(uid), known)
            if obj is not None:
                self._tell(made, obj, known)
        once = listed(wanted.values())
        self.assertEqual(once.services, made.services)
        self.assertEqual(once.problems(), made.problems())
        for obj in wanted.values():
            self._forget(made, obj, known)
        empty = vars(services.Services(made._pod))
        self.assertEqual(empty, vars(made))

    def _tell(self, made, obj, known):
        call = made.set_slice if 'addressType' in obj else made.set_service
        self._check(made, call(copy.deepcopy(obj)), known)
        self.assertEqual(frozenset(), call(copy.deepcopy(obj)))

    def _forget(self, made, obj, known):
        if obj is None:
            return
        uid = obj['metadata']['uid']
        call = (made.delete_slice if 'addressType' in obj
                else made.delete_service)
        self._check(made, call(uid), known)
        self.assertEqual(frozenset(), call(uid))

    def _check(self, made, told, known):
        """What is said to be different is, and nothing else is."""
        now = dict(made.services)
        self.assertEqual({name for name in {*now, *known}
                          if now.get(name) != known.get(name)}, told)
        known.clear()
        known.update(now)

    def test_a_pod_that_is_known_after_its_slice(self):
        known = {}
        made = services.Services(known.get)
        for obj in (service(), piece('10.0.0.1', '10.0.0.2'),
                    service('b', clusterIP='172.30.0.2'),
                    piece('10.0.0.2', name='b')):
            (made.set_slice if 'addressType' in obj else made.set_service)(
                obj)
        self.assertEqual(frozenset(), made.pod_changed('10.0.0.1'))
        known['10.0.0.2'] = 'mac', 'net'
        self.assertEqual({'n1/a', 'n1/b'}, made.pod_changed('10.0.0.2'))
        self.assertEqual(frozenset(), made.pod_changed('10.0.0.2'))
        first, second = made.services['n1/a'].ports[0].backends
        self.assertEqual(('', ''), (first.mac, first.network_id))
        self.assertEqual(('mac', 'net'), (second.mac, second.network_id))
        del known['10.0.0.2']
        made.delete_slice('slice-b-0')
        self.assertEqual({'n1/a'}, made.pod_changed('10.0.0.2'))

    def test_a_slice_changes_hands(self):
        moving, other = piece('10.0.0.1'), service('b', clusterIP='172.30.0.2')
        made = listed([service(), other, moving])
        for labels, told, having in (
                ({oracle.SERVICE_NAME: 'b'}, {'n1/a', 'n1/b'}, 'n1/b'),
                ({}, {'n1/b'}, None),
                ({oracle.SERVICE_NAME: 'a'}, {'n1/a'}, 'n1/a')):
            moving = copy.deepcopy(moving)
            moving['metadata']['labels'] = labels
            self.assertEqual(told, made.set_slice(moving))
            for name, item in made.services.items():
                self.assertEqual(name == having, bool(item.ports[0].backends))

    def test_made_anew_before_the_old_one_is_gone(self):
        old = service(clusterIP='172.30.0.1', ports=[
            {'port': 80, 'protocol': 'SCTP'}])
        new = service(clusterIP='172.30.0.2')
        new['metadata'].update(uid='new',
                               creationTimestamp=strategies.CREATED[1])
        backends = piece('10.0.0.1', ports=[
            {'port': 8080, 'protocol': 'SCTP'}])
        for order in ((old, new, backends), (backends, new, old)):
            made = listed(order)
            self.assertEqual(('172.30.0.2',),
                             made.services['n1/a'].addresses)
            self.assertEqual({}, made.problems())
            self.assertEqual(frozenset(), made.delete_service('a'))
            made = listed(order)
            made.delete_service('new')
            self.assertEqual(('172.30.0.1',),
                             made.services['n1/a'].addresses)
            self.assertEqual(['a'], list(made.problems()))


class TestServices(base.TestCase):

    def only(self, *objects, pod=lambda address: None):
        made = services.Services(pod)
        for obj in objects:
            (made.set_slice if 'addressType' in obj
             else made.set_service)(obj)
        self.made = made
        found, = made.services.values()
        return found

    def test_a_plain_one(self):
        self.assertEqual(
            model.Service('n1', 'a', strategies.CREATED[0], ('172.30.0.1',),
                          ports=(model.Port('', 6, 80, backends=(
                              model.Backend('10.0.0.1', 8080, 'node-a'),)),)),
            self.only(service(), piece('10.0.0.1', nodeName='node-a')))

    def test_what_a_pod_is(self):
        found = self.only(
            service(), piece('10.0.0.1', '10.0.0.2'),
            pod={'10.0.0.1': ('02:00:00:00:00:01', 'net')}.get)
        self.assertEqual([('02:00:00:00:00:01', 'net'), ('', '')],
                         [(backend.mac, backend.network_id)
                          for backend in found.ports[0].backends])

    def test_affinity(self):
        for spec, seconds in (
                ({}, 0), ({'sessionAffinity': 'None'}, 0),
                ({'sessionAffinity': 'ClientIP'}, 10800),
                ({'sessionAffinity': 'ClientIP', 'sessionAffinityConfig': {
                    'clientIP': {'timeoutSeconds': 5}}}, 5)):
            self.assertEqual(seconds, self.only(service(**spec)).affinity)

    def test_an_endpoint_in_two_slices(self):
        drains = {'ready': False, 'serving': True, 'terminating': True}
        pieces = (piece('10.0.0.1', number=1, conditions=drains),
                  piece('10.0.0.1', number=2, nodeName='node-a'))
        for order in (pieces, pieces[::-1]):
            found, = self.only(service(), *order).ports[0].backends
            self.assertEqual((False, 'node-a'), (found.draining, found.node))

    def test_unknown_conditions(self):
        # Ready and serving unless it is said, terminating if it is said.
        for conditions, drains in (
                ({}, [False]), ({'ready': None}, [False]),
                ({'ready': False}, []),
                ({'ready': False, 'terminating': True}, [True]),
                ({'ready': False, 'terminating': True, 'serving': False}, []),
                ({'ready': False, 'serving': True}, []),
                # publishNotReadyAddresses
                ({'ready': True, 'terminating': True, 'serving': False},
                 [False])):
            found = self.only(service(), piece('10.0.0.1',
                                               conditions=conditions))
            self.assertEqual(drains, [
                backend.draining for backend in found.ports[0].backends])

    def test_sctp_keeps_its_numbers(self):
        sctp = [{'port': 8080, 'protocol': 'SCTP'}]
        for number, node_port, backends, problem in (
                (80, 0, 0, 'spec.ports: port 80 is SCTP'),
                (8080, 30080, 1, 'spec.ports: nodePort 30080 is SCTP'),
                (80, 30080, 0, 'spec.ports: port 80 is SCTP'),
                (8080, 0, 1, None)):
            found = self.only(service(ports=[{
                'port': number, 'protocol': 'SCTP', 'nodePort': node_port}]),
                piece('10.0.0.1', ports=sctp))
            port, = found.ports
            self.assertEqual((0, backends),
                             (port.node_port, len(port.backends)))
            self.assertEqual(
                problem, next((text[:len(problem)] for text
                               in self.made.problems().values()), None))
        self.made.set_service(service(clusterIP='None'))
        self.assertEqual({}, self.made.problems())

    def test_one_address_in_two_forms(self):
        found = self.only(service(
            clusterIPs=['172.30.0.1', 'FD30::0:1'], externalIPs=[
                '::ffff:198.51.100.1', '198.51.100.1', '::', '0.0.0.0',
                'no', '::ffff:0.0.0.0']))
        self.assertEqual((('172.30.0.1', 'fd30::1'), ('198.51.100.1',)),
                         (found.addresses, found.external))

    def test_hints(self):
        def backend(address, *zones, nodes=(), **more):
            return model.Backend(address, 80, zones=zones, nodes=nodes,
                                 **more)

        here, there = (backend('10.0.0.1', ZONE), backend('10.0.0.2', 'z'))
        mine = backend('10.0.0.3', 'z', nodes=(NODE,))
        drains = (backend('10.0.0.4', ZONE, draining=True),
                  backend('10.0.0.5', 'z', draining=True))
        for backends, chosen in (
                ((here, there), [here]), ((there,), [there]),
                ((here, backend('10.0.0.6')), [here,
                                               backend('10.0.0.6')]),
                ((mine, backend('10.0.0.6', ZONE, nodes=('n',))), [mine]),
                ((here, mine), [here]), ((there, *drains), [there]),
                # Nobody gives them hints, and none is to be overloaded.
                (drains, list(drains))):
            self.assertEqual(chosen, frontends.usable(backends, NODE, ZONE))

    def test_traffic_distribution(self):
        """As the controller of EndpointSlices writes what is preferred."""
        def having(nodes):
            made = listed([service(), *(
                piece('10.0.0.%d' % number, number=number, nodeName=node,
                      hints={'forZones': [{'name': zone}], **(
                          {'forNodes': [{'name': node}]} if nodes else {})})
                for number, (node, zone) in enumerate(
                    ((NODE, ZONE), ('node-b', ZONE), ('node-c', 'zone-c'))))])
            return made.services['n1/a']

        for nodes, node, zone, chosen in (
                (False, NODE, ZONE, {0, 1}),            # PreferSameZone
                (False, 'node-c', 'zone-c', {2}),
                (False, 'node-d', 'zone-d', {0, 1, 2}),
                (False, 'node-d', '', {0, 1, 2}),
                (True, NODE, ZONE, {0}),                # PreferSameNode
                (True, 'node-b', ZONE, {1}),
                (True, 'node-d', ZONE, {0, 1}),
                (True, 'node-d', 'zone-d', {0, 1, 2})):
            first = next(frontends.frontends(having(nodes), node, zone))
            self.assertEqual(['10.0.0.%d' % number
                              for number in sorted(chosen)],
                             [target.address for target in first.targets])

    def test_traffic_from_outside(self):
        local = {'externalTrafficPolicy': 'Local', 'healthCheckNodePort': 32}
        for spec, external_local, port in (
                ({}, False, 0), ({'type': 'LoadBalancer'}, False, 0),
                ({'type': 'LoadBalancer', **local}, True, 32),
                ({'type': 'NodePort', **local}, True, 0),
                ({'externalIPs': ['198.51.100.1'], **local}, True, 0),
                (local, False, 0),
                ({'type': 'LoadBalancer', **local,
                  'externalTrafficPolicy': 'Cluster'}, False, 0)):
            found = self.only(service(**spec))
            self.assertEqual((external_local, port), (
                found.external_local, found.health_port), spec)

    def test_source_ranges(self):
        for texts, ranges, problem in (
                ([], None, None),
                (['203.0.113.7/24', ' FD77::0/64'],
                 ('203.0.113.0/24', 'fd77::/64'), None),
                (['0.0.0.0/0'], ('0.0.0.0/0',), None),
                (['203.0.113.0/24', '010.0.0.0/8'], ('203.0.113.0/24',),
                 'spec.loadBalancerSourceRanges[1]'),
                (['all'], (), 'spec.loadBalancerSourceRanges[0]'),
                (['fe80::1%eth0/64'], (), 'spec.loadBalancerSourceRanges[0]'),
                (['::ffff:10.0.0.0/104'], (),
                 'spec.loadBalancerSourceRanges[0]')):
            found = self.only(service(loadBalancerSourceRanges=texts))
            self.assertEqual(ranges, found.source_ranges)
            self.assertEqual(problem, next(
                (text.partition(':')[0] for text
                 in self.made.problems().values()), None))

    def test_several_problems(self):
        self.only(service(
            ports=[{'port': 80, 'protocol': 'SCTP'}],
            loadBalancerSourceRanges=['all', 'none']), piece(
                '10.0.0.1', ports=[{'port': 8080, 'protocol': 'SCTP'}]))
        text, = self.made.problems().values()
        for part in ('port 80 is SCTP', 'Ranges[0]', 'Ranges[1]'):
            self.assertIn(part, text)

    def test_of_another_family(self):
        found = self.only(service(externalIPs=['fd98::1', '198.51.100.1'],
                                  ports=[{'port': 80, 'nodePort': 30080}]))
        self.assertEqual(
            {('172.30.0.1', 80), ('172.30.0.1', 0), ('198.51.100.1', 80),
             ('0.0.0.0', 30080)},
            {item.key[:2] for item in frontends.frontends(found, '', '')})
