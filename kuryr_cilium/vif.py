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

"""The annotation of a pod that says how it is plugged: VIF <-> JSON.

It is kuryr-kubernetes' annotation: os-vif objects as primitives, wrapped in
the shape of kuryr's PodState. The older shape, one bare VIF, is read too.

Importing os-vif takes 0.6 s, so it is imported by what returns its objects
only; :func:`facts` reads the JSON alone. Whatever reads an annotation is
strict: the names of links and what a pod may send are derived from it.
"""

import dataclasses
import ipaddress
import json
import re
import typing

from kuryr_cilium import exceptions

if typing.TYPE_CHECKING:
    from os_vif.objects import vif as osv_vif

ANNOTATION = 'openstack.org/kuryr-vif'

_NAME = 'versioned_object.name'
_NAMESPACE = 'versioned_object.namespace'
_VERSION = 'versioned_object.version'
_DATA = 'versioned_object.data'
_CHANGES = 'versioned_object.changes'

_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_MAC = re.compile(r'[0-9a-f]{2}(:[0-9a-f]{2}){5}')

#: The version of the port profile that is written: the lowest that has what
#: is needed, so that nodes with another release of os-vif can read it.
_WRITTEN_PROFILES = {'VIFPortProfileOpenVSwitch': '1.3'}


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What policy needs to know of a pod's default VIF.

    :ivar vif_id: id of the Neutron port.
    :ivar mac: MAC address, lower case.
    :ivar network_id: id of the Neutron network.
    :ivar addresses: canonical addresses in the annotation's order.
    """

    vif_id: str
    mac: str
    network_id: str
    addresses: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PodState:
    """The VIFs of a pod.

    :ivar default_vif: the VIF of the pod's eth0.
    :ivar additional_vifs: VIFs by the name of the pod's interface.
    """

    default_vif: 'osv_vif.VIFBase'
    additional_vifs: dict[str, 'osv_vif.VIFBase']


def dumps(default_vif: 'osv_vif.VIFBase',
          additional: typing.Optional[dict] = None) -> str:
    """The value of the annotation for VIFs.

    :param default_vif: os-vif's VIFOpenVSwitch of the pod's eth0.
    :param additional: further VIFs by the name of the pod's interface.
    """
    return json.dumps({
        _NAME: 'PodState',
        _NAMESPACE: 'versionedobjects',
        _VERSION: '1.0',
        _DATA: {
            'default_vif': _primitive(default_vif),
            'additional_vifs': {ifname: _primitive(vif) for ifname, vif
                                in (additional or {}).items()},
        },
    }, sort_keys=True)


def loads(text: str) -> PodState:
    """The VIFs of an annotation as os-vif objects.

    :raises: exceptions.InvalidVIF if it can't be read or lacks something.
    """
    default, additional = _split(text)
    return PodState(_object(default), {ifname: _object(primitive) for
                                       ifname, primitive
                                       in additional.items()})


def facts(text: str) -> Facts:
    """What an annotation says of its default VIF, without os-vif.

    :raises: exceptions.InvalidVIF if it can't be read or lacks something.
    """
    return _facts(_split(text)[0])


def addresses(vif: 'osv_vif.VIFBase') -> tuple[str, ...]:
    """Canonical addresses of a VIF, in the order of its subnets."""
    return tuple(dict.fromkeys(
        str(ipaddress.ip_address(str(fixed_ip.address)))
        for subnet in vif.network.subnets.objects
        if subnet.obj_attr_is_set('ips')
        for fixed_ip in subnet.ips.objects))


def _split(text):
    """The primitives (default, {ifname: additional}) of an annotation."""
    try:
        primitive = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise exceptions.InvalidVIF(reason='not JSON: %s' % error) from error
    data = _data(primitive, 'the annotation')
    if primitive.get(_NAME) != 'PodState':
        return primitive, {}
    if _version(primitive)[0] != 1:
        raise exceptions.InvalidVIF(
            reason='PodState of version %s, only 1.x is known' %
            primitive.get(_VERSION))
    additional = data.get('additional_vifs') or {}
    if not isinstance(additional, dict):
        raise exceptions.InvalidVIF(
            reason='additional_vifs is not a mapping')
    return data.get('default_vif'), additional


def _data(primitive, what):
    """The fields of an object's primitive."""
    if not isinstance(primitive, dict) or not isinstance(
            primitive.get(_DATA), dict):
        raise exceptions.InvalidVIF(
            reason='%s is not a versioned object' % what)
    return primitive[_DATA]


def _version(primitive):
    """(major, minor) of an object's primitive."""
    try:
        major, minor = primitive[_VERSION].split('.')[:2]
        return int(major), int(minor)
    except (AttributeError, KeyError, ValueError) as error:
        raise exceptions.InvalidVIF(
            reason='%s has no version' % primitive.get(_NAME)) from error


def _facts(primitive):
    data = _data(primitive, 'default_vif')
    mac = str(data.get('address')).lower()
    if not _MAC.fullmatch(mac):
        raise exceptions.InvalidVIF(reason='address is not a MAC address')
    network = _data(data.get('network'), 'network')
    found = {}
    for subnet in _objects(network.get('subnets'), 'subnets'):
        ips = _data(subnet, 'subnet').get('ips')
        for fixed_ip in _objects(ips, 'ips') if ips else ():
            address = _data(fixed_ip, 'fixed IP').get('address')
            found[_address(address)] = None
    if not found:
        raise exceptions.InvalidVIF(reason='it names no address')
    return Facts(_uuid(data.get('id'), 'id'), mac,
                 _uuid(network.get('id'), 'network id'), tuple(found))


def _objects(primitive, what):
    """The primitives in a list object."""
    objects = _data(primitive, what).get('objects', [])
    if not isinstance(objects, list):
        raise exceptions.InvalidVIF(reason='%s is not a list' % what)
    return objects


def _uuid(value, what):
    """A canonical UUID: names of links and files are made of it."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise exceptions.InvalidVIF(reason='%s is not a UUID' % what)
    return value


def _address(value):
    """A canonical unicast address."""
    # NOTE: every pod of the cluster comes by here. ip_address() would try IPv4
    # first, and an address's properties compare it with networks.
    try:
        if not isinstance(value, str):
            usable = False
        elif ':' in value:
            address = ipaddress.IPv6Address(value)
            number = int(address)
            # Neither unspecified, loopback, multicast nor of a link.
            usable = (number > 1 and number >> 120 != 0xff
                      and not address.scope_id)
            value = str(address)
        else:
            number = int(ipaddress.IPv4Address(value))
            # Neither unspecified, loopback, multicast nor broadcast.
            usable = (0 < number < 0xffffffff and number >> 24 != 127
                      and number >> 28 != 14)
    except ValueError:
        usable = False
    if not usable:
        raise exceptions.InvalidVIF(
            reason='%.64r is not an address for a pod' % (value,))
    return value


def _primitive(vif):
    """A VIF's primitive in versions that other releases of os-vif read."""
    primitive = vif.obj_to_primitive()
    if 'port_profile' in primitive[_DATA]:
        # NOTE: a target version of the VIF would leave what is nested in it
        # at its own.
        profile = vif.port_profile
        primitive[_DATA]['port_profile'] = profile.obj_to_primitive(
            target_version=_WRITTEN_PROFILES.get(profile.obj_name()))
    return _unmarked(primitive)


def _unmarked(value):
    """A primitive without the marks of unsaved changes."""
    if isinstance(value, dict):
        return {key: _unmarked(inner) for key, inner in value.items()
                if key != _CHANGES}
    if isinstance(value, list):
        return [_unmarked(inner) for inner in value]
    return value


def _object(primitive):
    """The os-vif object of a primitive that has passed the strict checks."""
    _facts(primitive)
    from os_vif import objects
    from os_vif.objects import vif as osv_vif
    from oslo_versionedobjects import base as ovo_base
    from oslo_versionedobjects import exception as ovo_exceptions
    objects.register_all()
    known = ovo_base.VersionedObjectRegistry.obj_classes()
    try:
        vif = osv_vif.VIFBase.obj_from_primitive(_lowered(primitive, known))
    except (ovo_exceptions.VersionedObjectsException, AttributeError,
            KeyError, TypeError, ValueError) as error:
        raise exceptions.InvalidVIF(reason=str(error)) from error
    if not isinstance(vif, osv_vif.VIFBase):
        raise exceptions.InvalidVIF(
            reason='%s is no VIF' % primitive.get(_NAME))
    return vif


def _lowered(value, known):
    """A primitive with newer minor versions brought down to the known one.

    os-vif refuses an object that is newer than itself, though a minor
    version only adds fields; those are left out.
    """
    if isinstance(value, list):
        return [_lowered(inner, known) for inner in value]
    if not isinstance(value, dict):
        return value
    lowered = {key: _lowered(inner, known) for key, inner in value.items()}
    cls = known.get(value.get(_NAME), [None])[0]
    if cls is None or _DATA not in value:
        return lowered
    major, minor = _version(value)
    known_major, known_minor = _version({_VERSION: cls.VERSION})
    if major == known_major and minor > known_minor:
        lowered[_VERSION] = cls.VERSION
        lowered[_DATA] = {field: inner for field, inner
                          in lowered[_DATA].items() if field in cls.fields}
    return lowered
