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

"""Reads the ICMP types that a Cilium policy names.

Source: Cilium documentation, "Limit ICMP/ICMPv6 types"; IANA, "ICMP Type
Numbers" and "ICMPv6 Parameters".
"""

from kuryr_cilium.policy.oracle import statements

_TYPES = {
    'IPv4': {
        'EchoReply': 0, 'DestinationUnreachable': 3, 'Redirect': 5,
        'Echo': 8, 'EchoRequest': 8, 'RouterAdvertisement': 9,
        'RouterSelection': 10, 'TimeExceeded': 11, 'ParameterProblem': 12,
        'Timestamp': 13, 'TimestampReply': 14, 'Photuris': 40,
        'ExtendedEchoRequest': 42, 'ExtendedEchoReply': 43},
    'IPv6': {
        'DestinationUnreachable': 1, 'PacketTooBig': 2, 'TimeExceeded': 3,
        'ParameterProblem': 4, 'EchoRequest': 128, 'EchoReply': 129,
        'MulticastListenerQuery': 130, 'MulticastListenerReport': 131,
        'MulticastListenerDone': 132, 'RouterSolicitation': 133,
        'RouterAdvertisement': 134, 'NeighborSolicitation': 135,
        'NeighborAdvertisement': 136, 'RedirectMessage': 137,
        'RouterRenumbering': 138, 'ICMPNodeInformationQuery': 139,
        'ICMPNodeInformationResponse': 140,
        'InverseNeighborDiscoverySolicitation': 141,
        'InverseNeighborDiscoveryAdvertisement': 142,
        'HomeAgentAddressDiscoveryRequest': 144,
        'HomeAgentAddressDiscoveryReply': 145,
        'MobilePrefixSolicitation': 146, 'MobilePrefixAdvertisement': 147,
        'DuplicateAddressRequestCodeSuffix': 157,
        'DuplicateAddressConfirmationCodeSuffix': 158,
        'ExtendedEchoRequest': 160, 'ExtendedEchoReply': 161}}
_PROTOCOLS = {'IPv4': statements.ICMP, 'IPv6': statements.ICMPV6}


def read(entry):
    """Conditions of an item of ``icmps``."""
    statements.only(entry, 'fields')
    for item in statements.listed(entry.get('fields')):
        statements.only(item, 'family', 'type')
        family = item.get('family') or 'IPv4'
        value = item['type']
        if isinstance(value, str):
            value = (int(value) if value.isdigit()
                     else _TYPES[family][value])
        statements.number(value, 0, 255)
        yield statements.port_range(_PROTOCOLS[family], value << 8,
                                    value << 8 | 255)
