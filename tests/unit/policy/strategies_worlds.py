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

"""Random clusters with policies of every kind, and changes of them."""

from hypothesis import strategies as st

from tests.differential import cases
from tests.unit.policy import builders
from tests.unit.policy import strategies
from tests.unit.policy import strategies_policies

HOSTS = ('node-a', 'node-b')
_PHASES = ('Running',) * 8 + ('Pending', 'Failed', 'Succeeded')


def _port(name, number, protocol):
    found = {'name': name, 'containerPort': number}
    if protocol:
        found['protocol'] = protocol
    return found


#: The same name stands for other numbers and protocols elsewhere.
_CONTAINER_PORTS = st.builds(
    _port, st.sampled_from(strategies_policies.NAMES),
    st.sampled_from((80, 81, 443, 8080)),
    st.sampled_from((None, 'TCP', 'UDP', 'SCTP')))


@st.composite
def pods(draw, slot, generation=0):
    """A pod in a slot: what is in one slot has the same addresses."""
    addresses = ['10.0.0.%d' % slot, 'fd00::%x' % (slot + 1)]
    family = draw(st.integers(0, 9))
    if family < 2:
        del addresses[family]
    made = builders.pod(
        'p%d-%d' % (slot, generation),
        draw(st.sampled_from(strategies_policies.NAMESPACES)),
        draw(strategies.LABELS), number=slot + 100 * generation,
        addresses=addresses, node=draw(st.sampled_from(HOSTS)),
        phase=draw(st.sampled_from(_PHASES)),
        host_network=draw(st.sampled_from((False,) * 9 + (True,))),
        created='2026-01-01T00:00:%02dZ' % generation,
        deleted=draw(st.sampled_from((None,) * 9 + (
            '2026-01-01T01:00:00Z',))))
    made['spec']['containers'] = [{
        'name': 'c', 'ports': draw(st.lists(_CONTAINER_PORTS, max_size=2))}]
    if not draw(st.integers(0, 7)):
        made['spec']['initContainers'] = [{
            'name': 'i', 'ports': draw(st.lists(_CONTAINER_PORTS,
                                                max_size=1)),
            **draw(st.sampled_from(({}, {'restartPolicy': 'Always'})))}]
    account = draw(st.sampled_from((None, 'x', 'default')))
    if account:
        made['spec']['serviceAccountName'] = account
    return made


@st.composite
def nodes(draw, name):
    """A node; those that have pods keep their addresses."""
    addresses = strategies_policies.NODE_ADDRESSES[name]
    if name not in HOSTS:
        addresses = draw(st.sampled_from((
            addresses, addresses[:1], addresses[1:],
            ('192.0.2.9', '203.0.113.7'))))
    made = builders.node(name, *addresses)
    made['metadata'].update(uid='node/' + name,
                            labels=draw(strategies.LABELS))
    return made


def namespaces(name):
    """A namespace with some labels."""
    return st.builds(lambda labels: builders.namespace(name, labels),
                     strategies.LABELS)


@st.composite
def services(draw, name, namespace):
    return {'metadata': {'uid': 'service/%s/%s' % (namespace, name),
                         'name': name, 'namespace': namespace,
                         'labels': draw(strategies.LABELS)}, 'spec': {}}


_BACKENDS = tuple('10.0.0.%d' % slot for slot in range(1, 7)) + tuple(
    'fd00::%x' % (slot + 1) for slot in range(1, 7)) + (
        strategies_policies.OUTSIDE + ('192.0.2.2', '192.0.2.3', 'fd51::1'))


@st.composite
def slices(draw, name, namespace, number=0):
    family = draw(st.sampled_from(('IPv4', 'IPv6')))
    addresses = [text for text in _BACKENDS
                 if (':' in text) == (family == 'IPv6')]
    if name == 'kubernetes' and draw(st.booleans()):
        # Behind it are those pods that are there most often.
        addresses = addresses[:3]
    return {'metadata': {
        'uid': 'slice/%s/%s/%d' % (namespace, name, number),
        'name': '%s-%d' % (name, number), 'namespace': namespace,
        'labels': {'kubernetes.io/service-name': name}},
        'addressType': family, 'endpoints': [
            {'addresses': [address]} for address in draw(
                st.lists(st.sampled_from(addresses), max_size=3,
                         unique=True))]}


_SERVICES = (('s0', 'n1'), ('s1', 'n2'), ('kubernetes', 'default'))


@st.composite
def objects(draw, kinds=strategies_policies.KINDS):
    """The objects of a cluster: (kind, object)."""
    found = [('Namespace', draw(namespaces(name)))
             for name in strategies_policies.NAMESPACES]
    found += [('Node', draw(nodes(name))) for name in HOSTS]
    if draw(st.booleans()):
        found.append(('Node', draw(nodes('node-c'))))
    found += [('Pod', draw(pods(slot)))
              for slot in range(1, draw(st.integers(3, 6)) + 1)]
    if any(kind.startswith('Cilium') for kind in kinds):
        for name, namespace in _SERVICES:
            # The API server, which may be a pod, mostly has one.
            if draw(st.integers(0, 7)) < (7 if name == 'kubernetes' else 4):
                found.append(('Service', draw(services(name, namespace))))
                found.append(('EndpointSlice', draw(slices(name,
                                                           namespace))))
    found += [draw(strategies_policies.policies(number, kinds))
              for number in range(draw(st.integers(1, 9)))]
    return found


@st.composite
def _changes(draw, present, number, kinds):
    """One change of what is present: (kind, object or None, key)."""
    kind = draw(st.sampled_from(
        ('Pod',) * 6 + ('Policy',) * 5 + ('Namespace',) * 2 + (
            'Node', 'Service', 'EndpointSlice')))
    if kind == 'Policy':
        which = draw(st.integers(0, 5))
        policy_kind, obj = draw(strategies_policies.policies(which, kinds))
        uid = obj['metadata']['uid']
        old = [key for key in present if key[1] == uid
               and key[0] in strategies_policies.KINDS]
        if old and not draw(st.integers(0, 2)):
            return (*old[0], None)
        if old and old[0][0] != policy_kind:
            # A UID is of one kind for ever.
            obj['metadata']['uid'] = uid = '%s/%d' % (uid, number)
        return policy_kind, uid, obj
    if kind == 'Pod':
        slot = draw(st.integers(1, 7))
        same = [key for key in present if key[0] == 'Pod' and
                present[key]['metadata']['name'].startswith('p%d-' % slot)]
        if not same:
            obj = draw(pods(slot, number + 1))
            return 'Pod', obj['metadata']['uid'], obj
        key = draw(st.sampled_from(sorted(same)))
        choice = draw(st.integers(0, 9))
        if choice < 2:
            return (*key, None)
        if choice < 4:
            obj = draw(pods(slot, number + 1))
            return 'Pod', obj['metadata']['uid'], obj
        return (*key, _aged(draw, present[key], choice))
    if kind == 'Namespace':
        name = draw(st.sampled_from(strategies_policies.NAMESPACES))
        return kind, name, draw(namespaces(name))
    if kind == 'Node':
        name = draw(st.sampled_from(HOSTS + ('node-c',) * 3))
        if name == 'node-c' and draw(st.booleans()):
            return kind, name, None
        return kind, name, draw(nodes(name))
    name, namespace = draw(st.sampled_from(_SERVICES))
    if kind == 'Service':
        obj = draw(services(name, namespace))
    else:
        obj = draw(slices(name, namespace, draw(st.integers(0, 1))))
    return kind, obj['metadata']['uid'], draw(
        strategies.seldom(st.none(), st.just(obj)))


def _aged(draw, pod, choice):
    """A pod with other labels, or nearer to its end."""
    metadata = dict(pod['metadata'])
    status = dict(pod['status'])
    if choice < 7:
        metadata['labels'] = draw(strategies.LABELS)
    elif choice == 7:
        metadata['deletionTimestamp'] = '2026-01-01T01:00:00Z'
    else:
        status['phase'] = draw(st.sampled_from(_PHASES))
    return {**pod, 'metadata': metadata, 'status': status}


@st.composite
def worlds(draw, kinds=strategies_policies.KINDS, most=5):
    """A case: a cluster, and changes of it one by one."""
    if draw(st.booleans()):
        # All kinds together leave little to the later tiers.
        kinds = draw(st.lists(st.sampled_from(kinds), min_size=1,
                              max_size=2, unique=True))
    found = draw(objects(kinds))
    case = cases.Case(found, [])
    present = case.present()
    for number in range(draw(st.integers(0, most))):
        kind, key, obj = draw(_changes(present, number, kinds))
        case.changes.append((kind, key, obj))
        cases.change(present, kind, key, obj)
    return case
