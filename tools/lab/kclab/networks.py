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

"""The networks, the router and the group that pods use in Neutron."""

import http.client
import json

from kclab import parts
from kclab import procs
from kclab import settings
from kclab import ui


def call(method, path, body=None, timeout=60):
    """One request to Neutron; the answer as an object."""
    def request():
        link = http.client.HTTPConnection(settings.CP_IP, 9696,
                                          timeout=timeout)
        try:
            link.request(method, f'/v2.0/{path}',
                         json.dumps(body) if body else None,
                         {'Content-Type': 'application/json'})
            answer = link.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as exc:
            raise OSError(str(exc)) from exc
        finally:
            link.close()

    status, data = procs.in_netns(parts.CP_NETNS, request)
    if status >= 300:
        raise settings.LabError(f'{method} {path}: {status} '
                                f'{data[:500].decode(errors="replace")}')
    return json.loads(data) if data else None


def ensure(kind, name, create=True, **fields):
    """The object of that name, made when it is not there."""
    plural = f'{kind}s'
    found = call('GET', f'{plural.replace("_", "-")}?name={name}')[plural]
    if found or not create:
        return found[0] if found else None
    return call('POST', plural.replace('_', '-'),
                {kind: dict(fields, name=name)})[kind]


def _group():
    group = ensure('security_group', 'pods', stateful=False)
    have = {(r['direction'], r['ethertype'])
            for r in group['security_group_rules']
            if not r['remote_group_id'] and not r['protocol']}
    for direction in ('ingress', 'egress'):
        for family in ('IPv4', 'IPv6'):
            if (direction, family) not in have:
                call('POST', 'security-group-rules', {'security_group_rule': {
                    'security_group_id': group['id'],
                    'direction': direction, 'ethertype': family}})
    return group


def _pod_network():
    pods = ensure('network', 'pods')
    return pods, [
        ensure('subnet', 'pods4', network_id=pods['id'], ip_version=4,
               cidr=settings.POD_CIDR, enable_dhcp=False),
        # Neutron's own choice of a v6 gateway would be the subnet's first
        # address, which is the routers' anycast address.
        ensure('subnet', 'pods6', network_id=pods['id'], ip_version=6,
               cidr=settings.POD_CIDR6, gateway_ip=settings.POD_GATEWAY6,
               enable_dhcp=False)]


def _provider_network():
    provider = ensure('network', 'provider', **{
        'router:external': True, 'provider:network_type': 'flat',
        'provider:physical_network': 'physnet1'})
    for version, cidr, gateway, first, last in (
            (4, '192.168.60.0/24', settings.TUNNEL_IP, '192.168.60.100',
             '192.168.60.150'),
            (6, 'fd60::/64', settings.TUNNEL_IP6, 'fd60::100', 'fd60::150')):
        ensure('subnet', f'provider{version}', network_id=provider['id'],
               ip_version=version, cidr=cidr, gateway_ip=gateway,
               enable_dhcp=False,
               allocation_pools=[{'start': first, 'end': last}])
    return provider


def make(lab):
    """The pods' network, group and router, and the provider network.

    :returns: what the product and the tests must know of them.
    """
    group, (pods, subnets), provider = ui.together(
        _group, _pod_network, _provider_network)
    router = ensure('router', 'pods', external_gateway_info={
        'network_id': provider['id'], 'enable_snat': False})
    wired = {f['subnet_id'] for p in
             call('GET', f'ports?device_id={router["id"]}')['ports']
             for f in p['fixed_ips']}
    for subnet in subnets:
        if subnet['id'] not in wired:
            call('PUT', f'routers/{router["id"]}/add_router_interface',
                 {'subnet_id': subnet['id']})
    gateways = [f['ip_address'] for f in
                router['external_gateway_info']['external_fixed_ips']]
    facts = {'url': settings.NEUTRON, 'network': pods['id'],
             'subnets': [s['id'] for s in subnets], 'mtu': pods['mtu'],
             'security_group': group['id'], 'router': router['id'],
             'provider_network': provider['id'], 'gateways': gateways}
    settings.write(lab.state / 'neutron.json', json.dumps(facts, indent=1))
    return facts


def router_answers(lab):
    """Whether pods can be reached from beside the control plane."""
    facts = json.loads((lab.state / 'neutron.json').read_text())
    for address in facts['gateways']:
        parts.run(lab, ['ping', '-n', '-c', '1', '-W', '1', address])
    return True
