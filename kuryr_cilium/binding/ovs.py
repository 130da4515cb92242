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

"""Binding in Open vSwitch: links of our own, the port by os-vif.

A pod's veth pair is ``kc`` on the host; a second pair leads from ``kq`` to
``tap``, the port that os-vif adds. The datapath's programs sit on kc and kq:
if they are lost, nothing passes from one pair to the other.
"""

import re
import time
from typing import Optional

import os_vif
from os_vif import exception as os_vif_exceptions
from os_vif.objects import instance_info
from os_vif.objects import vif as osv_vif
from oslo_config import cfg
from oslo_log import log as logging
from vif_plug_ovs import ovs as os_vif_ovs
from vif_plug_ovs import privsep

from kuryr_cilium.binding import driver
from kuryr_cilium.binding import ovsdb
from kuryr_cilium import exceptions
from kuryr_cilium.linux import ethtool
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import netns as linux_netns
from kuryr_cilium.linux import sysctl

LOG = logging.getLogger(__name__)

#: Names are 'kc', 'kq', 'tap' and so much of the port's id, as Neutron's
#: agents name taps.
_ID_LENGTH = 11
_OURS = re.compile(r'k[cq]([0-9a-f]{8}-[0-9a-f]{2})')

#: kq and tap carry frames only.
_NO_IPV6 = {'disable_ipv6': 1, 'addr_gen_mode': 1}

#: kc keeps IPv6 (the kernel refuses a route on a link without it), but the
#: host must not speak to the pod by itself: no MLD, DAD, router discovery.
_QUIET_IPV6 = {'addr_gen_mode': 1, 'accept_ra': 0, 'autoconf': 0,
               'accept_dad': 0, 'disable_ipv6': 0}

#: The pod's addresses are Neutron's, and usable at once.
_STATIC_IPV6 = {'accept_ra': 0, 'autoconf': 0, 'accept_dad': 0,
                'disable_ipv6': 0}

#: Userspace Open vSwitch would send on what was never checksummed or cut.
_OFFLOADS_KQ = (ethtool.Offload.TX_CHECKSUM, ethtool.Offload.TSO,
                ethtool.Offload.GSO)
_OFFLOADS_TAP = (ethtool.Offload.TX_CHECKSUM,)


class OVSDriver(driver.Driver):
    """Binds VIFOpenVSwitch for ML2/OVN and ML2/OVS.

    :param conf: a cfg.ConfigOpts with [binding]. os-vif reads the process's
        own cfg.CONF, which is told the same.
    """

    def __init__(self, conf):
        settings = conf.binding
        self._timeout = settings.ovsdb_timeout
        self._connection = settings.ovsdb_connection
        self._switch = ovsdb.Switch(self._connection, self._timeout)
        group = 'os_vif_ovs'
        cfg.CONF.register_opts(os_vif_ovs.OvsPlugin.CONFIG_OPTS, group=group)
        for name, value in (
                ('ovsdb_connection', self._connection),
                ('ovs_vsctl_timeout', self._timeout)):
            cfg.CONF.set_override(name, value, group=group)
        # NOTE: the agent is root anyway: no helper process.
        privsep.vif_plug.set_client_mode(False)
        os_vif.initialize(reset=True)

    def links(self, vif: osv_vif.VIFBase) -> driver.Links:
        return _links(vif.id[:_ID_LENGTH])

    def create_links(self, vif: osv_vif.VIFBase, netns: str,
                     ifname: str) -> driver.Links:
        bound = self._bound(vif)
        links = self.links(vif)
        mtu = driver.mtu(vif)
        # NOTE: ovn-installed on a row that survives says nothing about the
        # new links, so the row goes too, and goes first.
        self._switch.delete_port(links.tap)
        with netlink.Netlink() as net, linux_netns.opened(netns) as peer:
            _delete(net, links)
            net.add_veth(links.kc, ifname, mtu, bound.address, peer)
            net.add_veth(links.kq, links.tap, mtu)
        sysctl.write_ipv6(links.kc, _QUIET_IPV6)
        for name in (links.kq, links.tap):
            sysctl.write_ipv6(name, _NO_IPV6)
        linux_netns.run(netns, sysctl.write_ipv6, ifname, _STATIC_IPV6)
        ethtool.disable(links.kq, *_OFFLOADS_KQ)
        ethtool.disable(links.tap, *_OFFLOADS_TAP)
        return links

    def plug(self, vif: osv_vif.VIFBase, pod_uid: str, pod_name: str) -> None:
        bound = self._bound(vif)
        links = self.links(vif)
        with netlink.Netlink() as net:
            for name in (links.tap, links.kq, links.kc):
                net.set_up(name)
        try:
            os_vif.plug(bound, _instance(pod_uid, pod_name))
        except os_vif_exceptions.ExceptionBase as error:
            raise self._unavailable(_inner(error)) from error
        # NOTE: os-vif only logs what OVSDB refuses.
        port = self._switch.wait(
            links.tap, lambda port: _is(port, bound),
            time.monotonic() + self._timeout)
        if not _is(port, bound):
            raise self._unavailable('port %s was not added' % links.tap)

    def wait_wired(self, vif: osv_vif.VIFBase, deadline: float) -> None:
        links = self.links(vif)
        port = self._switch.wait(
            links.tap, lambda port: _is(port, vif) and port.wired, deadline)
        if _is(port, vif) and port.wired:
            return
        process, log, state = self._culprit(port)
        raise exceptions.VIFNotWired(vif=vif.id, tap=links.tap,
                                     process=process, log=log, state=state)

    def unplug(self, vif: osv_vif.VIFBase, pod_uid: str,
               pod_name: str) -> None:
        links = self.links(vif)
        # NOTE: the pod is cut off first, whatever Open vSwitch answers.
        with netlink.Netlink() as net:
            net.delete_link(links.kc)
        if self._switch.port(links.tap) is not None:
            self._unplug_port(vif, links, _instance(pod_uid, pod_name))
        with netlink.Netlink() as net:
            _delete(net, links)

    def found_links(self) -> set[driver.Links]:
        with netlink.Netlink() as net:
            matches = [_OURS.fullmatch(name) for name in net.names()]
        return {_links(match.group(1)) for match in matches if match}

    def remove_links(self, links: driver.Links) -> None:
        with netlink.Netlink() as net:
            net.delete_link(links.kc)
            self._switch.delete_port(links.tap)
            _delete(net, links)

    def plugged(self) -> set[str]:
        return {port.iface_id for port in self._switch.ports()
                if port.name.startswith('tap') and port.iface_id}

    def check(self, vif: osv_vif.VIFBase) -> Optional[str]:
        links = self.links(vif)
        mtu = driver.mtu(vif)
        with netlink.Netlink() as net:
            for name in (links.kc, links.kq, links.tap):
                link = net.link(name)
                if link is None:
                    return 'link %s is missing' % name
                if not link.up:
                    return 'link %s is down' % name
                if link.mtu < mtu:
                    return 'link %s has MTU %d, less than %d' % (
                        name, link.mtu, mtu)
        for name, offloads in ((links.kq, _OFFLOADS_KQ),
                               (links.tap, _OFFLOADS_TAP)):
            for offload in offloads:
                if ethtool.enabled(name, offload):
                    return 'link %s has offload %s on' % (name, offload.name)
        port = self._switch.port(links.tap)
        if port is None:
            return 'Open vSwitch has no port %s' % links.tap
        if port.iface_id != vif.id:
            return 'port %s of Open vSwitch belongs to Neutron port %r' % (
                links.tap, port.iface_id)
        if not port.wired:
            return '%s has not wired port %s: %s' % (
                self._culprit(port)[0], links.tap, self._culprit(port)[2])
        return None

    def close(self) -> None:
        """Disconnect from OVSDB."""
        self._switch.close()

    def _bound(self, vif):
        """The VIF as os-vif is to plug it.

        :raises: exceptions.VIFNotSupported
        """
        problem = _problem(vif)
        bridge = None if problem else (
            vif.obj_attr_is_set('bridge_name') and vif.bridge_name or
            vif.network.bridge)
        datapath_type = bridge and self._switch.datapath_type(bridge)
        if not problem and datapath_type is None:
            problem = ('Open vSwitch has no bridge %s, which Neutron named. '
                       'ovn-controller or neutron-openvswitch-agent makes '
                       'it: is it running here?' % bridge)
        if problem:
            raise exceptions.VIFNotSupported(vif=vif.id, reason=problem)
        bound = vif.obj_clone()
        bound.vif_name = self.links(vif).tap
        bound.bridge_name = bridge
        bound.network.bridge = bridge
        bound.port_profile.create_port = True
        # NOTE: os-vif writes this into the bridge: never another one than
        # the bridge has.
        bound.port_profile.datapath_type = datapath_type
        return bound

    def _unplug_port(self, vif, links, instance):
        try:
            os_vif.unplug(self._bound(vif), instance)
        except exceptions.VIFNotSupported as error:
            LOG.info('Port %s is removed without os-vif: %s', links.tap,
                     error)
        except os_vif_exceptions.ExceptionBase as error:
            LOG.warning('os-vif did not unplug %s: %s', links.tap,
                        _inner(error))
        port = self._switch.wait(links.tap, lambda port: port is None,
                                 time.monotonic() + 1)
        if port is not None:
            self._switch.delete_port(links.tap)

    def _culprit(self, port):
        """(process, its log, what is seen) of a port that isn't wired."""
        if port is None:
            return ('ovs-vswitchd', '/var/log/openvswitch/ovs-vswitchd.log',
                    'the port is gone from OVSDB')
        if (port.ofport or -1) <= 0:
            return ('ovs-vswitchd', '/var/log/openvswitch/ovs-vswitchd.log',
                    port.error or 'it has given the port no number')
        if self._switch.wired_by_ovn():
            return ('ovn-controller', '/var/log/ovn/ovn-controller.log',
                    'ovn-installed is not true on the Interface; is the '
                    'port bound to this chassis, and does the southbound '
                    'database answer?')
        return ('neutron-openvswitch-agent',
                '/var/log/neutron/neutron-openvswitch-agent.log',
                'the port has VLAN tag %s' % port.tag)

    def _unavailable(self, reason):
        return exceptions.SwitchUnavailable(reason=reason,
                                            connection=self._connection)


def _links(tail):
    return driver.Links('kc' + tail, 'kq' + tail, 'tap' + tail)


def _problem(vif):
    """What keeps a VIF from being bound, with what to configure."""
    if isinstance(vif, osv_vif.VIFBridge):
        return ('Neutron asks for a bridge with iptables (ovs_hybrid_plug). '
                'Set [securitygroup] firewall_driver = openvswitch (or noop) '
                'for neutron-openvswitch-agent and delete the pod')
    if not isinstance(vif, osv_vif.VIFOpenVSwitch):
        return ('it is a %s; the ovs binding driver plugs VIFOpenVSwitch '
                'only' % vif.obj_name())
    for name in ('address', 'network', 'port_profile'):
        if not vif.obj_attr_is_set(name) or not getattr(vif, name):
            return 'it has no %s' % name
    if not isinstance(vif.port_profile, osv_vif.VIFPortProfileOpenVSwitch):
        return 'its port profile is a %s' % vif.port_profile.obj_name()
    if vif.port_profile.interface_id != vif.id:
        return 'its port profile names another Neutron port'
    if not (vif.obj_attr_is_set('bridge_name') and vif.bridge_name or
            vif.network.obj_attr_is_set('bridge') and vif.network.bridge):
        return 'it names no bridge'
    return None


def _inner(error):
    """The text of what os-vif failed on."""
    return ovsdb.describe(error.kwargs.get('err', error))


def _is(port, vif):
    return port is not None and port.iface_id == vif.id


def _instance(pod_uid, pod_name):
    return instance_info.InstanceInfo(uuid=pod_uid, name=pod_name)


def _delete(net, links):
    for name in (links.kc, links.kq, links.tap):
        net.delete_link(name)
