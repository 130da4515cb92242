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

"""Random clusters, small enough that things meet."""

from hypothesis import strategies as st

from tests.unit.policy import builders

KEYS = ('a', 'b')
VALUES = ('x', 'y')
NAMESPACES = ('n1', 'n2')
ABSENT = object()
PORTS = (1, 79, 80, 81, 443, 1023, 1024, 8080, 65535)


def seldom(rare, usual):
    """One time in eight the first strategy, else the second."""
    return st.integers(0, 7).flatmap(
        lambda number: usual if number else rare)


def optional(**fields):
    """An object with these fields, some None and some left out."""
    return st.fixed_dictionaries({
        key: seldom(st.sampled_from((ABSENT, None)), value)
        for key, value in fields.items()}).map(
            lambda obj: {key: value for key, value in obj.items()
                         if value is not ABSENT})


def some(items, most):
    """A list that is seldom empty."""
    return seldom(st.just([]), st.lists(items, min_size=1, max_size=most))


LABELS = st.fixed_dictionaries({
    key: st.sampled_from(VALUES + (None,)) for key in KEYS}).map(
        lambda labels: {key: value for key, value in labels.items()
                        if value})

EXPRESSIONS = st.one_of(
    st.builds(lambda key, operator, values: {
        'key': key, 'operator': operator, 'values': values},
        st.sampled_from(KEYS), st.sampled_from(('In', 'NotIn')),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=2)),
    st.builds(lambda key, operator: {'key': key, 'operator': operator},
              st.sampled_from(KEYS),
              st.sampled_from(('Exists', 'DoesNotExist'))))

LABEL_SELECTORS = st.one_of(
    st.just({}), optional(matchLabels=st.builds(
        lambda key, value: {key: value},
        st.sampled_from(KEYS), st.sampled_from(VALUES))),
    optional(matchExpressions=st.lists(EXPRESSIONS, min_size=1,
                                       max_size=2)))

NAMESPACE_SELECTORS = st.one_of(LABEL_SELECTORS, st.builds(
    lambda name: {'matchLabels': {'kubernetes.io/metadata.name': name}},
    st.sampled_from(NAMESPACES)))

PEERS = st.one_of(
    st.builds(lambda pods: {'podSelector': pods}, LABEL_SELECTORS),
    st.builds(lambda namespaces: {'namespaceSelector': namespaces},
              NAMESPACE_SELECTORS),
    st.builds(lambda pods, namespaces: {'podSelector': pods,
                                        'namespaceSelector': namespaces},
              LABEL_SELECTORS, NAMESPACE_SELECTORS))


@st.composite
def ports(draw):
    """One item of a rule's ports."""
    item = draw(optional(protocol=st.sampled_from(('TCP', 'UDP', 'SCTP'))))
    if draw(st.integers(0, 3)):
        item['port'] = draw(st.sampled_from(PORTS))
        if draw(st.booleans()):
            item['endPort'] = draw(st.sampled_from(
                [port for port in PORTS if port >= item['port']]))
    return item


def rules(peers):
    return some(optional(**{
        peers: some(PEERS, 2), 'ports': some(ports(), 3)}), 3)


TYPES = st.sampled_from(
    ([], ['Ingress'], ['Egress'], ['Ingress', 'Egress']))

SPECS = st.builds(
    lambda spec, selector: {**spec, 'podSelector': selector},
    optional(policyTypes=TYPES, ingress=rules('from'), egress=rules('to')),
    LABEL_SELECTORS)


@st.composite
def clusters(draw):
    """(namespaces, pods, policies)."""
    namespaces = [builders.namespace(name, draw(LABELS))
                  for name in NAMESPACES]
    pods = [builders.pod(
        'p%d' % number, draw(st.sampled_from(NAMESPACES)), draw(LABELS),
        number=number, node=draw(st.sampled_from(('node-a', 'node-b'))),
        phase=draw(st.sampled_from(('Running',) * 6 + ('Failed',))),
        host_network=draw(st.sampled_from((False,) * 6 + (True,))))
        for number in range(draw(st.integers(3, 6)))]
    policies = [builders.policy('q%d' % number, draw(SPECS),
                                draw(st.sampled_from(NAMESPACES)))
                for number in range(draw(st.integers(1, 5)))]
    return namespaces, pods, policies
