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
"""Random services, small enough that they get in each other's way."""

import hypothesis
from hypothesis import strategies as st

from tests.unit.lb import oracle

SETTINGS = hypothesis.settings(
    deadline=None, max_examples=60, derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck))

NODE, ZONE = 'node-a', 'zone-a'
NODES = ('192.0.2.1', '192.0.2.2', 'fd51::1', 'fd51::2')
NAMES = (('n1', 'a'), ('n1', 'b'), ('n2', 'a'), ('n2', 'c'))
CREATED = ('2025-01-01T00:00:00Z', '2025-01-01T00:00:01Z')
PROTOCOLS = ('TCP', 'UDP', 'SCTP')
PORTS = (53, 80, 443)
NODE_PORTS = (30080, 30081)
TARGETS = (53, 80, 8080)
EXTERNAL = ('198.51.100.1', '198.51.100.2', 'fd98::1', 'fd98::2')
CLIENTS = ('203.0.113.7', '203.0.113.200', '198.18.0.1', 'fd77::1',
           'fd77:0:0:1::1')
RANGES = ('203.0.113.0/24', '203.0.113.7/25', ' 203.0.113.200/32 ',
          '0.0.0.0/0', '::/0', 'fd77::/64', 'FD77::0:1/128', '198.0.0.0/8',
          '128.0.0.0/1',
          # None to us.
          '0198.18.0.0/16', '198.18.0.1')
BACKENDS = {4: tuple('10.0.0.%d' % number for number in range(1, 6)),
            6: tuple('fd00::%x' % number for number in range(1, 6))}


def cluster_address(name, version):
    """That of a service, in the form in which it is canonical."""
    number = NAMES.index(name) + 1
    return 'fd30::%x' % number if version == 6 else '172.30.0.%d' % number


ADDRESSES = (*NODES, *EXTERNAL, '203.0.113.1', *(
    cluster_address(name, version) for name in NAMES for version in (4, 6)))
QUESTIONS = tuple((address, port, protocol) for address in ADDRESSES
                  for port in (*PORTS, *NODE_PORTS, 1)
                  for protocol in PROTOCOLS)


def seldom(rare, usual):
    """One time in eight the first strategy, else the second."""
    return st.integers(0, 7).flatmap(
        lambda number: usual if number else rare)


@st.composite
def ports(draw):
    """The ports of a service; their names are unique, and so are numbers."""
    found = []
    for number, protocol in draw(st.lists(
            st.tuples(st.sampled_from(PORTS), st.sampled_from(PROTOCOLS)),
            min_size=1, max_size=3, unique=True)):
        item = {'port': number, 'name': 'p%d-%s' % (number, protocol.lower())}
        if protocol != 'TCP' or draw(st.booleans()):
            item['protocol'] = protocol
        if draw(st.booleans()):
            item['nodePort'] = draw(st.sampled_from(NODE_PORTS))
        found.append(item)
    if len(found) == 1 and draw(st.booleans()):
        del found[0]['name']
    # One number is one port of a service.
    seen = set()
    for item in found:
        taken = item.get('nodePort'), item.get('protocol', 'TCP')
        if taken in seen:
            item.pop('nodePort', None)
        seen.add(taken)
    return found


@st.composite
def services(draw, name):
    """A service of a name, a tuple (namespace, name)."""
    versions = draw(st.sampled_from(((4,), (6,), (4, 6), (6, 4))))
    addresses = [cluster_address(name, version) for version in versions]
    spec = {'ports': draw(ports()), 'type': draw(st.sampled_from(
        ('ClusterIP', 'NodePort', 'LoadBalancer')))}
    kind = draw(st.integers(0, 15))
    if kind == 0:
        addresses = ['None']
    if kind == 1:
        spec.update(type='ExternalName', externalName='example.org')
    else:
        spec['clusterIP'] = addresses[0]
        if len(addresses) > 1 or draw(st.booleans()):
            spec['clusterIPs'] = addresses
    others = [cluster_address(other, version) for other in NAMES
              for version in (4, 6)]
    spec['externalIPs'] = draw(st.lists(
        seldom(st.sampled_from(others), st.sampled_from(EXTERNAL)),
        max_size=2, unique=True))
    if draw(st.booleans()):
        spec['internalTrafficPolicy'] = draw(
            st.sampled_from(('Cluster', 'Local')))
        spec['externalTrafficPolicy'] = draw(
            st.sampled_from(('Cluster', 'Local')))
    if draw(st.booleans()):
        spec['loadBalancerSourceRanges'] = draw(st.lists(
            st.sampled_from(RANGES), max_size=3, unique=True))
    if draw(st.booleans()):
        spec['sessionAffinity'] = 'ClientIP'
        if draw(st.booleans()):
            spec['sessionAffinityConfig'] = {
                'clientIP': {'timeoutSeconds': 30}}
    metadata = {'namespace': name[0], 'name': name[1],
                'uid': 'service/%s/%s' % name,
                'creationTimestamp': draw(st.sampled_from(CREATED))}
    if not draw(st.integers(0, 15)):
        metadata['labels'] = {oracle.PROXY_NAME: 'another'}
    return {'metadata': metadata, 'spec': spec, 'status': {
        'loadBalancer': {'ingress': draw(st.lists(st.sampled_from((
            {'ip': EXTERNAL[0]}, {'ip': EXTERNAL[2]},
            {'ip': EXTERNAL[1], 'ipMode': 'Proxy'},
            {'ip': EXTERNAL[3], 'ipMode': 'VIP'},
            {'hostname': 'balancer.example.org'})), max_size=2))}}}


CONDITIONS = st.fixed_dictionaries({}, optional={
    name: seldom(st.none(), st.booleans())
    for name in ('ready', 'serving', 'terminating')})


@st.composite
def places(draw):
    """Where backends are: address -> nodeName and hints."""
    hints = draw(st.integers(0, 2))
    found = {}
    for address in (*BACKENDS[4], *BACKENDS[6]):
        place = found[address] = {}
        node = draw(st.sampled_from((NODE, 'node-b', None)))
        if node:
            place['nodeName'] = node
        given = {}
        if hints and draw(st.integers(0, 7)):
            given['forZones'] = [{'name': zone} for zone in draw(
                st.sampled_from(((ZONE,), ('zone-b',), (ZONE, 'zone-b'))))]
        if hints > 1 and draw(st.integers(0, 7)):
            given['forNodes'] = [{'name': draw(
                st.sampled_from((NODE, 'node-b')))}]
        if given:
            place['hints'] = given
    return found


@st.composite
def slices(draw, service, number, where):
    """An EndpointSlice of a service, as its controller makes them."""
    name = service['metadata']['namespace'], service['metadata']['name']
    version = draw(st.sampled_from((4, 6)))
    listed = []
    for item in service['spec']['ports']:
        if draw(st.integers(0, 5)):
            target = draw(seldom(st.none(), st.sampled_from(TARGETS)))
            if item.get('protocol') == 'SCTP' and draw(st.booleans()):
                target = item['port']
            port = {'name': item.get('name', '')}
            if target is not None:
                port['port'] = target
            if item.get('protocol') or draw(st.booleans()):
                port['protocol'] = item.get('protocol', 'TCP')
            listed.append(port)
    unready = not draw(st.integers(0, 7))   # publishNotReadyAddresses
    endpoints = []
    for address in draw(st.lists(st.sampled_from(BACKENDS[version]),
                                 max_size=4, unique=True)):
        conditions = draw(CONDITIONS)
        if unready:
            conditions['ready'] = True
        endpoints.append({'addresses': [address], 'conditions': conditions,
                          **where[address]})
    kind = draw(st.integers(0, 15))
    if kind == 1:
        # A controller of names makes such ones.
        endpoints = [{**endpoint, 'addresses': ['pod.example.org']}
                     for endpoint in endpoints]
    return {
        'metadata': {
            'namespace': name[0], 'name': '%s-%d' % (name[1], number),
            'uid': 'slice/%s/%s/%d' % (*name, number),
            'labels': {} if not kind else {oracle.SERVICE_NAME: name[1]}},
        'addressType': 'FQDN' if kind == 1 else 'IPv%d' % version,
        'ports': listed, 'endpoints': endpoints}


@st.composite
def clusters(draw, where=None):
    """(services, slices); services of the same name are never two."""
    where = draw(places()) if where is None else where
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    made = [draw(services(name)) for name in names]
    return made, [draw(slices(service, number, where)) for service in made
                  for number in range(draw(st.integers(0, 3)))]
