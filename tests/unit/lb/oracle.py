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
"""What the Kubernetes documentation says of who answers for an address.

Independent of kuryr_cilium.lb, slow, and as plain as the text. It answers
for what pods send, and for what comes from outside. Sources: "Service"
(selectors, multi-port, headless, external IPs, ExternalName), "Virtual IPs
and Service Proxies" (traffic policies, traffic to terminating endpoints),
"EndpointSlices" (conditions, duplicates), "Topology Aware Routing" and
"Traffic distribution", and the API reference of Service and EndpointSlice.
Where they are silent, as kube-proxy; but who is in none of the source ranges
of a service has no way to it, on no address that is meant for clients
outside.
"""

import ipaddress

SERVICE_NAME = 'kubernetes.io/service-name'
PROXY_NAME = 'service.kubernetes.io/service-proxy-name'
NODE_PORTS = range(30000, 32768)

#: Nobody answers, and nobody says so.
SILENCE = 'silence'


class Cluster:
    """Objects of the API, and a node that looks at them.

    :param services: of each name one at most.
    :param nodes: addresses of all nodes.
    """

    def __init__(self, services, slices, node, zone, nodes=()):
        self._services = [service for service in services
                          if _cluster_addresses(service)]
        self._slices = slices
        self._node = node
        self._zone = zone
        self._nodes = set(nodes)

    def ask(self, address, port, protocol):
        """Who may answer.

        :param protocol: 'TCP', 'UDP' or 'SCTP'.
        :returns: None if it is no service's; else the set of all (address,
            port), the empty one if the sender is to be refused.
        """
        version = ipaddress.ip_address(address).version
        for addresses, number, local in (
                (_cluster_addresses, 'port', True),
                (_external_addresses, 'port', False),
                (self._node_addresses, 'nodePort', False)):
            found = self._having(addresses, number, address, port, protocol)
            if found:
                service, item = found
                return self._answering(
                    service, item, version, local and service['spec'].get(
                        'internalTrafficPolicy') == 'Local')
        if any(address in _cluster_addresses(service)
               for service in self._services):
            return set()
        return None

    def ask_outside(self, address, port, protocol, client):
        """Who may answer a client outside; SILENCE if it hears nothing.

        :param client: its address.
        :returns: as ask().
        """
        for addresses, number in ((_addresses_outside, 'port'),
                                  (self._node_addresses, 'nodePort')):
            found = self._having(addresses, number, address, port, protocol)
            if not found:
                continue
            service, item = found
            if number == 'port' and not _lets_in(service, client):
                return SILENCE
            version = ipaddress.ip_address(address).version
            local = _external_local(service)
            chosen = self._answering(service, item, version, local)
            if not chosen and local and self._answering(
                    service, item, version, False):
                return SILENCE
            return chosen
        return None

    def _having(self, addresses, number, address, port, protocol):
        """The oldest service, and its port, that has an address."""
        return min((
            (_age(service), service, item)
            for service in self._services if address in addresses(service)
            for item in service['spec'].get('ports') or ()
            if item.get(number) == port
            and (item.get('protocol') or 'TCP') == protocol
            and not (number == 'nodePort' and self._crippled(
                service, item, 'nodePort'))),
            key=lambda entry: entry[0], default=())[1:]

    def _node_addresses(self, service):
        versions = _versions(service)
        return {address for address in self._nodes
                if ipaddress.ip_address(address).version in versions}

    def _crippled(self, service, item, number):
        """SCTP can't have its port rewritten."""
        return (item.get('protocol') == 'SCTP' and any(
            endpoint['port'] != item[number] for version in (4, 6)
            for endpoint in self._endpoints(service, item, version)
            if endpoint['ready'] or endpoint['drains']))

    def _answering(self, service, item, version, local):
        if self._crippled(service, item, 'port'):
            return set()
        endpoints = self._endpoints(service, item, version)
        if local:
            endpoints = [endpoint for endpoint in endpoints
                         if endpoint['node'] == self._node]
        ready = [endpoint for endpoint in endpoints if endpoint['ready']]
        if ready and not local:
            ready = self._near(ready)
        chosen = ready or [endpoint for endpoint in endpoints
                           if endpoint['drains']]
        return {(endpoint['address'], endpoint['port'])
                for endpoint in chosen}

    def _near(self, endpoints):
        for hint, here in (('nodes', self._node), ('zones', self._zone)):
            if all(endpoint[hint] for endpoint in endpoints):
                near = [endpoint for endpoint in endpoints
                        if here in endpoint[hint]]
                if near:
                    return near
        return endpoints

    def _endpoints(self, service, item, version):
        """Unique endpoints of a port: the ready one of duplicates."""
        found = {}
        for piece in self._slices:
            labels = piece['metadata'].get('labels') or {}
            if (piece['metadata']['namespace'] !=
                    service['metadata']['namespace']
                    or labels.get(SERVICE_NAME) != service['metadata']['name']
                    or piece['addressType'] != 'IPv%d' % version):
                continue
            for port in piece.get('ports') or ():
                if ((port.get('name') or '') != (item.get('name') or '')
                        or (port.get('protocol') or 'TCP')
                        != (item.get('protocol') or 'TCP')
                        or not port.get('port')):
                    continue
                for endpoint in piece.get('endpoints') or ():
                    endpoint = _endpoint(endpoint, port['port'])
                    key = endpoint['address'], endpoint['port']
                    known = found.setdefault(key, endpoint)
                    known['ready'] |= endpoint['ready']
                    known['drains'] |= endpoint['drains']
        return found.values()


def _endpoint(obj, port):
    conditions = obj.get('conditions') or {}
    ready, serving, terminating = (
        default if conditions.get(name) is None else conditions[name]
        for name, default in (('ready', True), ('serving', True),
                              ('terminating', False)))
    hints = obj.get('hints') or {}
    return {
        'address': str(ipaddress.ip_address(obj['addresses'][0])),
        'port': port, 'node': obj.get('nodeName'),
        'ready': ready, 'drains': not ready and serving and terminating,
        'nodes': {hint['name'] for hint in hints.get('forNodes') or ()},
        'zones': {hint['name'] for hint in hints.get('forZones') or ()}}


def _cluster_addresses(service):
    spec = service['spec']
    if spec.get('type') == 'ExternalName' or PROXY_NAME in (
            service['metadata'].get('labels') or {}):
        return set()
    return {str(ipaddress.ip_address(address))
            for address in spec.get('clusterIPs') or [spec.get('clusterIP')]
            if address and address != 'None'}


def _external_addresses(service):
    ingress = (service.get('status') or {}).get('loadBalancer') or {}
    found = [*(service['spec'].get('externalIPs') or ()),
             *(item['ip'] for item in ingress.get('ingress') or ()
               if item.get('ip') and item.get('ipMode') != 'Proxy')]
    return {str(address) for address in map(ipaddress.ip_address, found)
            if address.version in _versions(service)}


def _addresses_outside(service):
    return _external_addresses(service) - _cluster_addresses(service)


def _external_local(service):
    spec = service['spec']
    return spec.get('externalTrafficPolicy') == 'Local' and (
        spec.get('type') in ('NodePort', 'LoadBalancer')
        or bool(spec.get('externalIPs')))


def _lets_in(service, client):
    texts = service['spec'].get('loadBalancerSourceRanges')
    if not texts:
        return True
    for text in texts:
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            continue
        if '/' in text and ipaddress.ip_address(client) in network:
            return True
    return False


def _versions(service):
    return {ipaddress.ip_address(address).version
            for address in _cluster_addresses(service)}


def _age(service):
    metadata = service['metadata']
    return (metadata['creationTimestamp'],
            '%(namespace)s/%(name)s' % metadata)
