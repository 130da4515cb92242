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

"""Which packets are asked about: those at the edges of what policies say."""

import ipaddress
import itertools
import random
from typing import NamedTuple, Optional

from kuryr_cilium.policy.oracle import cluster as oracle
from tests.differential import cases

INGRESS, EGRESS = 'ingress', 'egress'
TCP, UDP, SCTP, ICMP, ICMPV6, GRE = 6, 17, 132, 1, 58, 47

#: Fields whose text is an address or a block of them.
_FIELDS = ('cidr', 'except', 'networks', 'fromCIDR', 'toCIDR')
_ALWAYS = ('203.0.113.200', '2001:db8:ffff::1')


class Question(NamedTuple):
    """One packet at one end.

    :ivar uid: of the pod whose end it is.
    :ivar address: the pod's.
    :ivar peer: address of the other end.
    :ivar port: ``type << 8 | code`` of ICMP and ICMPv6, None of what has no
        ports.
    """

    uid: str
    direction: str
    address: str
    peer: str
    protocol: int
    port: Optional[int]


class Space:
    """All questions of one state of a cluster.

    :param present: the objects by (kind, key).
    :param hosts: nodes whose pods are asked.
    """

    def __init__(self, present, hosts):
        self.subjects = [
            (pod['metadata']['uid'], address)
            for pod in cases.of_kind(present, 'Pod')
            if pod['spec'].get('nodeName') in hosts
            for address in oracle.addresses(pod)]
        self._peers = {4: [], 6: []}
        for address in sorted(_addresses(present), key=str):
            self._peers[address.version].append(str(address))
        self._groups = {family: [peers] for family, peers
                        in self._peers.items()}
        for kind, of, often in (('Pod', oracle.addresses, 3),
                                ('Node', oracle.node_addresses, 1)):
            for family, groups in self._groups.items():
                found = [address for obj in cases.of_kind(present, kind)
                         for address in of(obj)
                         if (':' in address) == (family == 6)]
                groups += [found] * often if found else []
        self._packets = {4: _packets(present, ICMP),
                         6: _packets(present, ICMPV6)}

    def everything(self):
        """Each question once."""
        for uid, address in self.subjects:
            family = 6 if ':' in address else 4
            packets = dict.fromkeys(itertools.chain(*self._packets[family]))
            for direction, peer, packet in itertools.product(
                    (EGRESS, INGRESS), self._peers[family], packets):
                if peer != address:
                    yield Question(uid, direction, address, peer, *packet)

    def some(self, count, seed):
        """So many questions, chosen at random.

        There are many addresses outside the cluster, and many ports next to
        those that matter: the others are chosen as often.
        """
        if not self.subjects:
            return
        chosen = random.Random(seed)
        for _ in range(count):
            uid, address = chosen.choice(self.subjects)
            family = 6 if ':' in address else 4
            peer = chosen.choice(chosen.choice(self._groups[family]))
            if peer != address:
                yield Question(
                    uid, chosen.choice((EGRESS, INGRESS)), address, peer,
                    *chosen.choice(chosen.choice(self._packets[family])))


def _addresses(present):
    """Of pods, nodes and backends; those inside and outside of blocks."""
    found = set(map(ipaddress.ip_address, _ALWAYS))
    for pod in cases.of_kind(present, 'Pod'):
        found.update(map(ipaddress.ip_address, oracle.addresses(pod)))
    for node in cases.of_kind(present, 'Node'):
        found.update(map(ipaddress.ip_address, oracle.node_addresses(node)))
    for piece in cases.of_kind(present, 'EndpointSlice'):
        for endpoint in piece.get('endpoints') or ():
            found.update(map(ipaddress.ip_address, endpoint['addresses']))
    for (kind, _), obj in present.items():
        if kind not in oracle.KINDS:
            continue
        for text in _texts(obj, False):
            found.update(_edges(text))
    return {address for address in found if _usual(address)}


def _texts(value, meant):
    """The texts in some fields."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name in _FIELDS)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, meant)
    elif meant and isinstance(value, str):
        yield value


def _edges(text):
    """First and last address of a block, and those beside it."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return
    for edge, step in ((network.network_address, -1),
                       (network.broadcast_address, 1)):
        yield edge
        try:
            yield edge + step
        except ipaddress.AddressValueError:
            continue


def _usual(address):
    """Whether it may stand in a packet that policy judges."""
    return not (address.is_multicast or address.is_loopback or
                address.is_link_local or address.is_unspecified or
                int(address) >> address.max_prefixlen - 4 == 15 or
                address in ipaddress.ip_network('0.0.0.0/8') or
                address.version == 6 and address.ipv4_mapped is not None)


def _packets(present, icmp):
    """Lists of (protocol, port): what is named, what is next to it, others."""
    ports = {80}
    for (kind, _), obj in present.items():
        if kind in oracle.KINDS or kind == 'Pod':
            ports.update(number for number in _numbers(obj, False)
                         if 0 < number < 65536)
    beside = {number + step for number in ports for step in (-1, 1)}
    types = (8, 13, 17) if icmp == ICMP else (128, 139, 200)
    named, others = ([
        (protocol, port) for protocol in (TCP, UDP, SCTP)
        for port in sorted(found) if 0 < port < 65536]
        for found in (ports, {4000, *beside} - ports))
    return named, named, others, [(icmp, kind << 8) for kind in types] + [
        (icmp, types[-1] << 8 | 3), (GRE, None)]


def _numbers(value, meant):
    """The numbers of ports."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, name in (
                'port', 'endPort', 'containerPort', 'number', 'start',
                'end'))
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, False)
    elif meant and (isinstance(value, int) or
                    isinstance(value, str) and value.isdigit()):
        yield int(value)
