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

"""What kube-proxy 1.37 writes for services, in its two modes.

Faithful to the expected rules of its own tests (pkg/proxy/iptables and
pkg/proxy/nftables, proxier_test.go: TestOverallIPTablesRules, baseRules and
TestOverallNFTablesRules), for services of TCP with cluster addresses. Left out
is what counts packets (nfacct), which depends on a module of the kernel.
"""

import base64
import hashlib

CLUSTER_CIDR = '10.60.0.0/16'
SERVICE_CIDR = '172.30.0.0/16'

#: Table, chain of kube-proxy, chain of the kernel, condition
#: (iptablesJumpChains of proxier.go).
_NEW = '-m conntrack --ctstate NEW '
_JUMPS = {
    'filter': (
        ('KUBE-FIREWALL', 'INPUT', ''), ('KUBE-FIREWALL', 'OUTPUT', ''),
        ('KUBE-PROXY-FIREWALL', 'INPUT', _NEW),
        ('KUBE-PROXY-FIREWALL', 'OUTPUT', _NEW),
        ('KUBE-PROXY-FIREWALL', 'FORWARD', _NEW),
        ('KUBE-FORWARD', 'FORWARD', ''),
        ('KUBE-SERVICES', 'FORWARD', _NEW),
        ('KUBE-SERVICES', 'OUTPUT', _NEW),
        ('KUBE-NODEPORTS', 'INPUT', ''),
        ('KUBE-EXTERNAL-SERVICES', 'INPUT', _NEW),
        ('KUBE-EXTERNAL-SERVICES', 'FORWARD', _NEW)),
    'nat': (('KUBE-SERVICES', 'PREROUTING', ''),
            ('KUBE-SERVICES', 'OUTPUT', ''),
            ('KUBE-POSTROUTING', 'POSTROUTING', ''))}

_NFTABLES = r"""
add table ip kube-proxy { comment "rules for kube-proxy" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
add set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy masquerading
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { %(services)s } drop
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != %(pods)s mark set mark or 0x4000
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add element ip kube-proxy nodeport-ips { %(node)s }
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
"""  # noqa: E501


def iptables(services):
    """Input of iptables-restore.

    :param services: (name, cluster address, port, [(address, port)]).
    """
    portals, chains, names = [], [], []
    for name, address, port, backends in services:
        service = 'KUBE-SVC-' + _hash(name)
        names.append(service)
        portals.append(
            '-A KUBE-SERVICES -m comment --comment "%s cluster IP" -m tcp '
            '-p tcp -d %s --dport %d -j %s' % (name, address, port, service))
        chains.append(
            '-A %s -m comment --comment "%s cluster IP" -m tcp -p tcp -d %s '
            '--dport %d ! -s %s -j KUBE-MARK-MASQ' % (
                service, name, address, port, CLUSTER_CIDR))
        for index, (target, number) in enumerate(backends):
            end = 'KUBE-SEP-' + _hash('%s%s:%d' % (name, target, number))
            names.append(end)
            left = len(backends) - index
            chains += (
                '-A %s -m comment --comment "%s -> %s:%d" %s-j %s' % (
                    service, name, target, number,
                    '-m statistic --mode random --probability %.10f ' % (
                        1 / left) if left > 1 else '', end),
                '-A %s -m comment --comment %s -s %s -j KUBE-MARK-MASQ' % (
                    end, name, target),
                '-A %s -m comment --comment %s -m tcp -p tcp -j DNAT '
                '--to-destination %s:%d' % (end, name, target, number))
    return '\n'.join((
        '*filter', *_chains('KUBE-SERVICES', 'KUBE-NODEPORTS',
                            'KUBE-EXTERNAL-SERVICES', 'KUBE-FIREWALL',
                            'KUBE-FORWARD', 'KUBE-PROXY-FIREWALL'),
        *_jumps('filter'),
        '-A KUBE-FIREWALL -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack '
        '! --ctstate RELATED,ESTABLISHED,DNAT -j DROP',
        '-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP',
        '-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT',
        '-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED '
        '-j ACCEPT', 'COMMIT',
        '*nat', *_chains('KUBE-SERVICES', 'KUBE-NODEPORTS', 'KUBE-MARK-MASQ',
                         'KUBE-POSTROUTING', *names),
        *_jumps('nat'), *portals,
        '-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
        '-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000',
        '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
        '-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000',
        '-A KUBE-POSTROUTING -j MASQUERADE --random-fully',
        *chains, 'COMMIT', ''))


def nftables(services, node):
    """Input of nft -f.

    :param services: as of iptables().
    :param node: an address of the node.
    """
    lines = [_NFTABLES % {'services': SERVICE_CIDR, 'pods': CLUSTER_CIDR,
                          'node': node}]
    addresses, portals, hairpins = [], [], []
    for name, address, port, backends in services:
        chain = 'service-%s-%s' % (_hash(name)[:8], name.replace(':', '/tcp/'))
        addresses.append(address)
        portals.append('%s . tcp . %d : goto %s' % (address, port, chain))
        targets = ', '.join('%d : %s . %d' % (index, *backend)
                            for index, backend in enumerate(backends))
        lines += (
            'add chain ip kube-proxy ' + chain,
            'add rule ip kube-proxy %s meta l4proto tcp dnat ip addr . port '
            'to numgen random mod %d map { %s }' % (chain, len(backends),
                                                    targets))
        hairpins += ('%s . %s . tcp . %d' % (target, target, number)
                     for target, number in backends)
    for kind, items in (('cluster-ips', addresses), ('service-ips', portals),
                        ('hairpin-connections', dict.fromkeys(hairpins))):
        lines.append('add element ip kube-proxy %s { %s }' % (
            kind, ', '.join(items)))
    return '\n'.join(lines) + '\n'


def _chains(*names):
    return (':%s - [0:0]' % name for name in names)


def _jumps(table):
    return ('-A %s %s-j %s' % (chain, condition, to)
            for to, chain, condition in _JUMPS[table])


def _hash(text):
    return base64.b32encode(hashlib.sha256(
        text.encode()).digest()).decode()[:16]
