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

"""What Neutron itself enforces on ports.

Pods on a node reach each other past the switch only where Neutron has
nothing of its own to enforce there; else its rules would be bypassed.
"""

from kuryr_cilium.neutron import ports

_FIELDS = ('id', 'network_id', 'admin_state_up', 'port_security_enabled',
           'security_groups', 'qos_policy_id', 'qos_network_policy_id')
_EVERYWHERE = {'IPv4': (None, '0.0.0.0/0'), 'IPv6': (None, '::/0')}
_ALL = {(direction, family) for direction in ('ingress', 'egress')
        for family in _EVERYWHERE}


class Facts:
    """Asks Neutron; three lists each time, whatever the number of ports."""

    def __init__(self, client):
        self._client = client

    def unrestricted(self) -> frozenset[str]:
        """Ids of pods' ports on which Neutron enforces nothing.

        What isn't known counts as restricted.

        :raises: exceptions.NeutronError.
        """
        listed = self._client.list(
            'ports', device_owner=ports.DEVICE_OWNER, fields=_FIELDS)
        if not listed:
            return frozenset()
        networks = {
            network['id'] for network in self._client.list(
                'networks', fields=('id', 'admin_state_up', 'qos_policy_id'))
            if network.get('admin_state_up') is True and
            not network.get('qos_policy_id')}
        groups = {
            group['id'] for group in self._client.list(
                'security-groups', fields=('id', 'security_group_rules'))
            if allows_everything(group.get('security_group_rules') or ())}
        return frozenset(port['id'] for port in listed
                         if port.get('network_id') in networks and
                         is_unrestricted(port, groups))


def is_unrestricted(port, open_groups) -> bool:
    """Whether Neutron enforces nothing on a port.

    :param port: port of the API.
    :param open_groups: ids of security groups that allow everything.
    """
    if (port.get('admin_state_up') is not True or
            port.get('qos_policy_id') or port.get('qos_network_policy_id')):
        return False
    if port.get('port_security_enabled') is False:
        return True
    # Groups only add to what is allowed: one that allows all is enough.
    return bool(open_groups & set(port.get('security_groups') or ()))


def allows_everything(rules) -> bool:
    """Whether rules of a security group allow all, both ways and families.

    :param rules: security_group_rules of the API.
    """
    allowed = set()
    for rule in rules:
        family = rule.get('ethertype')
        # NOTE: a field that isn't there is one that Neutron doesn't know.
        if (family in _EVERYWHERE and
                rule.get('remote_ip_prefix') in _EVERYWHERE[family] and
                not any(rule.get(field) is not None for field in (
                    'protocol', 'port_range_min', 'port_range_max',
                    'remote_group_id', 'remote_address_group_id'))):
            allowed.add((rule.get('direction'), family))
    return allowed >= _ALL
