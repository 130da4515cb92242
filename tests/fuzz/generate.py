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

"""Policies of every kind that are as their schema asks.

Everything comes from one random.Random, so a run can be made again.
"""

LABELS = ('app', 'k8s.io/team', 'io.kubernetes.pod.namespace',
          'io.cilium.k8s.namespace.labels.team')
CIDRS = ('0.0.0.0/0', '::/0', '10.0.0.0/8', '10.1.2.3/16', '192.0.2.1/32',
         'fd00::/8', '2001:db8::1/128')
PROTOCOLS = ('TCP', 'UDP', 'SCTP')
NAMES = ('http', 'dns-tcp', 'a')


class Generator:
    """What objects are made of.

    :param rng: random.Random.
    """

    def __init__(self, rng):
        self.rng = rng

    def some(self, item, least=0, most=2):
        """A list, seldom a long one."""
        if not self.rng.randrange(2000):
            most = 300
        return [item() for _ in range(self.rng.randint(least, most))]

    def maybe(self, obj, **fields):
        """Some of the fields, some of those None."""
        for key, make in fields.items():
            choice = self.rng.randrange(8)
            if choice == 1:
                obj[key] = None
            elif choice > 3:
                obj[key] = make()
        return obj

    def one(self, **fields):
        """Exactly one of the fields."""
        key = self.rng.choice(sorted(fields))
        return {key: fields[key]()}

    def choice(self, items):
        return self.rng.choice(items)

    def labels(self, keys=LABELS[:2]):
        def expression():
            operator = self.choice(('In', 'NotIn', 'Exists', 'DoesNotExist'))
            item = {'key': self.choice(keys), 'operator': operator}
            if operator in ('In', 'NotIn'):
                item['values'] = self.some(lambda: self.choice('xyz'), 1)
            return item
        return self.maybe({}, matchExpressions=lambda: self.some(expression),
                          matchLabels=lambda: {
                              self.choice(keys): self.choice('xyz')})

    def number(self):
        return self.choice((1, 80, 443, 65535, self.rng.randint(1, 65535)))

    def network_policy(self):
        def block():
            return {'ipBlock': self.maybe(
                {'cidr': self.choice(CIDRS)},
                **{'except': lambda: self.some(lambda: self.choice(CIDRS))})}

        def peer():
            kind = self.rng.randrange(4)
            if not kind:
                return block()
            return {key: self.labels() for number, key in enumerate(
                ('podSelector', 'namespaceSelector'), 1) if kind & number}

        def port():
            item = self.maybe({}, protocol=lambda: self.choice(PROTOCOLS))
            kind = self.rng.randrange(4)
            if kind == 1:
                item['port'] = self.choice(NAMES)
            elif kind > 1:
                item['port'] = self.number()
                if kind == 3:
                    item['endPort'] = self.rng.randint(item['port'], 65535)
            return item

        def rules(peers):
            return lambda: self.some(lambda: self.maybe({}, **{
                peers: lambda: self.some(peer),
                'ports': lambda: self.some(port)}))
        return {'spec': self.maybe(
            {}, podSelector=self.labels, ingress=rules('from'),
            egress=rules('to'), policyTypes=lambda: self.choice(
                ([], ['Ingress'], ['Egress'], ['Ingress', 'Egress'])))}

    def cluster_network_policy(self):
        def pods():
            return self.maybe({'podSelector': self.labels()},
                              namespaceSelector=self.labels)

        def number():
            first = self.number()
            return self.one(number=lambda: first, range=lambda: {
                'start': first, 'end': self.rng.randint(first, 65535)})

        def rule(field, portless):
            peers = {'namespaces': self.labels, 'pods': pods}
            if portless:
                peers.update(nodes=self.labels, networks=lambda: self.some(
                    lambda: self.choice(CIDRS), 1))
            protocols = {key: lambda: {'destinationPort': number()}
                         for key in ('tcp', 'udp', 'sctp')}
            if not portless:
                protocols['destinationNamedPort'] = lambda: self.choice(NAMES)
            return self.maybe(
                {'action': self.choice(('Accept', 'Deny', 'Pass')),
                 field: self.some(lambda: self.one(**peers), 1)},
                name=lambda: 'a rule', protocols=lambda: self.some(
                    lambda: self.one(**protocols), 1))
        return {'spec': self.maybe(
            {'tier': self.choice(('Admin', 'Baseline')),
             'priority': self.rng.randint(0, 1000),
             'subject': self.one(namespaces=self.labels, pods=pods)},
            ingress=lambda: self.some(lambda: rule('from', False)),
            egress=lambda: self.some(
                lambda: rule('to', bool(self.rng.randrange(2)))))}

    def cilium_network_policy(self):
        if self.rng.randrange(4):
            return {'spec': self._cilium_spec()}
        return {'specs': self.some(self._cilium_spec, 1)}

    def _cilium_spec(self):
        keys = LABELS[:2] + ('k8s:app', 'any:app')
        spec = self.maybe(
            {'endpointSelector': self.labels(keys),
             'ingress': self.some(lambda: self._cilium_rule('from', False),
                                  1)},
            ingressDeny=lambda: self.some(
                lambda: self._cilium_rule('from', True)),
            egress=lambda: self.some(lambda: self._cilium_rule('to', False)),
            egressDeny=lambda: self.some(
                lambda: self._cilium_rule('to', True)),
            description=lambda: 'text')
        return self.maybe(spec, enableDefaultDeny=lambda: self.maybe(
            {}, ingress=lambda: self.choice((True, False)),
            egress=lambda: self.choice((True, False))))

    def _cilium_rule(self, prefix, deny):
        def service():
            return self.one(
                k8sService=lambda: self.maybe({'serviceName': 's'},
                                              namespace=lambda: 'n'),
                k8sServiceSelector=lambda: self.maybe(
                    {'selector': self.labels()}, namespace=lambda: 'n'))

        peers = {
            'Endpoints': lambda: self.some(lambda: self.labels(LABELS)),
            'Entities': lambda: self.some(lambda: self.choice(
                ('all', 'world', 'cluster', 'host', 'health', 'none'))),
            'CIDR': lambda: self.some(lambda: self.choice(
                CIDRS + ('192.0.2.1',))),
            'CIDRSet': lambda: self.some(lambda: self.maybe(
                {'cidr': self.choice(CIDRS)}, **{'except': lambda: self.some(
                    lambda: self.choice(CIDRS))})),
            'Nodes': lambda: self.some(self.labels)}
        if prefix == 'to':
            peers['Services'] = lambda: self.some(service, 1)
        rule = {prefix + key: value for key, value
                in self.one(**peers).items()}
        kind = self.rng.randrange(4)
        if kind == 1:
            rule['icmps'] = self.some(lambda: {'fields': self.some(
                lambda: {'family': self.choice(('IPv4', 'IPv6')),
                         'type': self.choice((0, 255, '8', 'EchoRequest'))})})
        elif kind > 1:
            rule['toPorts'] = self.some(lambda: self.maybe(
                {}, ports=lambda: self.some(self._cilium_port)))
        return rule

    def _cilium_port(self):
        first = self.number()
        item = self.maybe(
            {'port': self.choice((str(first), '0', self.choice(NAMES)))},
            protocol=lambda: self.choice(PROTOCOLS + ('ANY', '')))
        if item['port'] == str(first) and not self.rng.randrange(3):
            item['endPort'] = self.rng.randint(first, 65535)
        return item


MAKE = {
    'NetworkPolicy': Generator.network_policy,
    'ClusterNetworkPolicy': Generator.cluster_network_policy,
    'CiliumNetworkPolicy': Generator.cilium_network_policy,
    'CiliumClusterwideNetworkPolicy': Generator.cilium_network_policy,
}


def make(kind, rng):
    """The content of an object of a kind."""
    return MAKE[kind](Generator(rng))
