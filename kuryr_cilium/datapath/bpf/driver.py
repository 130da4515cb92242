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

"""The policy driver that judges by eBPF programs."""

import collections
import dataclasses
import functools
import ipaddress
import os
import socket
import threading
from typing import Iterable, Iterator, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import endpoints
from kuryr_cilium.datapath.bpf import events
from kuryr_cilium.datapath.bpf import explain
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import limits
from kuryr_cilium.datapath.bpf import links
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import maps
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium.datapath.bpf import uplinks
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.linux import netlink
from kuryr_cilium.policy import model

LOG = logging.getLogger(__name__)

#: Share of kc_ct that one endpoint may have.
_QUOTA = 0.25
#: Seconds between two sweeps of connections: so long may what has expired
#: count against a pod's quota. What was closed does not.
_SWEEP = 30
#: Why what the node itself sends to a pod is allowed, whatever policy says.
_OWN_NODE = 'own-node'
_FIXED = {rows.RULESET_DENY: model.DENY_ALL,
          rows.RULESET_ALLOW: model.ALLOW_ALL}


class BPFDriver(driver.Driver):
    """Pins maps and links, and writes policy into the maps.

    What is in force lives in the kernel. A new process takes the maps and
    links over, adopts the interfaces that its records name, and brings the
    first view in force as a new generation of rows beside the old ones,
    whose content it need not know.
    """

    def __init__(self, conf):
        self._conf = conf.datapath
        self._services_conf = conf.services
        self._limits = limits.Limits()
        self._stopped = threading.Event()
        self._dirty = threading.Event()
        self._busy = False
        self._names = events.Names()
        self._attachments: dict[str, driver.Attachment] = {}
        self._locals: dict[str, endpoints.Local] = {}
        self._networks: dict[str, int] = {}
        self._nodes: frozenset[str] = frozenset()
        self._view: Optional[model.View] = None
        self._planner: Optional[plan.Planner] = None
        self._loaded: Optional[loader.Loaded] = None
        self._sockets: Optional[sockets.Sockets] = None
        self._collector: Optional[threading.Thread] = None

    def start(self, node_addresses: Iterable[str],
              node_ips: Iterable[str] = ()) -> None:
        loader.check_kernel()
        path = loader.object_path(self._conf.object_file,
                                  self._conf.cache_dir, self._conf.clang)
        loaded = loader.load(path, self._conf.pin_dir)
        self._maps = maps.Maps(loaded.maps)
        self._writer = writer.Writer(self._maps)
        self._loaded = loaded
        self._links = links.Links(
            os.path.join(self._conf.pin_dir, 'links'), self._loaded.programs)
        self._nodes = _of_node(node_addresses)
        capacity = libbpf.map_info(
            self._maps.fd(maps.CONNECTIONS)).max_entries
        self._capacity = capacity
        self._maps.set_meta(layout.Meta.CT_QUOTA, int(capacity * _QUOTA))
        self._maps.set_meta(layout.Meta.EVENT_RATE, self._conf.event_rate)
        self._planner = plan.Planner(self._writer.allocate, self._limits)
        self._services = services.Services(
            self._maps, self._writer, self._network, (
                self._services_conf.self_address4,
                self._services_conf.self_address6),
            tuple(map(int, self._services_conf.node_ports.split('-'))),
            self._services_conf.replace_kube_proxy)
        self._names.service = self._services.name
        self._links.update()
        self._addresses = outside.Addresses(self._maps)
        self._addresses.set_nodes(self._nodes)
        self._uplinks = uplinks.Uplinks(
            self._services_conf, self._conf.pin_dir, self._loaded.programs,
            self._addresses, tuple(node_ips))
        self._uplinks.refresh()
        self._sockets = sockets.Sockets(
            self._maps, os.path.join(self._conf.pin_dir, 'sockets'),
            self._loaded.programs)
        if (self._services_conf.enabled
                and self._services_conf.replace_kube_proxy):
            self._sockets.serve(self._services_conf.cgroup_dir)
        else:
            self._sockets.leave()
        self._collector = threading.Thread(
            target=self._collect, name='kc-collector', daemon=True)
        self._collector.start()

    def attach(self, attachment: driver.Attachment) -> None:
        _check(attachment)
        found = links.devices(attachment.kc, attachment.kq)
        if not all(found):
            raise exceptions.LinkError(
                what=f'attach to {attachment.kc} and {attachment.kq}',
                reason='one of them does not exist')
        with self._writer.lock:
            # From here on no device leads to an endpoint: all is dropped.
            self._forget_devices(found)
            self._forget(attachment.vif_id)
            if len(self._locals) >= self._limits.endpoints:
                raise exceptions.TooManyEndpoints(
                    limit=self._limits.endpoints)
            self._add(attachment, found, self._writer.allocate('endpoint'),
                      active=False)
            self._settle()
            self._links.attach(attachment.vif_id, found)
            number = self._locals[attachment.vif_id].number
            self._maps.write(rows.Write(maps.INTERFACE, index, number)
                             for index in found)
        self._dirty.set()

    def adopt(self, attachment: driver.Attachment) -> bool:
        _check(attachment)
        with self._writer.lock:
            local = self._locals.get(attachment.vif_id)
            if local is not None:
                return local.active
            found = links.devices(attachment.kc, attachment.kq)
            if not self._links.whole(attachment.vif_id, found):
                return False
            by_device = self._maps.interfaces()
            number = by_device.get(found.kc)
            if number is None or by_device.get(found.kq) != number:
                return False
            row = self._maps.endpoint(number)
            if row is None or (row.kc_ifindex, row.kq_ifindex) != found or (
                    row.in_ruleset == row.out_ruleset == rows.RULESET_NONE):
                return False
            self._add(attachment, found, number, active=True)
            return True

    def activate(self, vif_id: str) -> None:
        with self._writer.lock:
            local = self._locals.get(vif_id)
            if local is None or self._view is None or \
                    not endpoints.Judges(self._view).knows(local):
                raise exceptions.EndpointUnknown(vif=vif_id)
            if not local.active:
                self._locals[vif_id] = dataclasses.replace(local, active=True)
                reason = self._settle().denied.get(local.uid)
                if reason:
                    LOG.warning('Interface %s denies everything: %s', vif_id,
                                reason)

    def detach(self, vif_id: str) -> None:
        with self._writer.lock:
            found = self._links.devices(vif_id)
            # Without programs the host's stack would carry what comes in.
            for index in filter(None, found):
                _set_down(index)
            self._forget_devices(found)
            self._forget(vif_id)
            self._settle()
            self._links.detach(vif_id)
        self._dirty.set()

    def attachments(self) -> Mapping[str, driver.Attachment]:
        with self._writer.lock:
            return dict(self._attachments)

    def apply(self, view: model.View) -> driver.Applied:
        if not view.synced:
            raise exceptions.ViewUnusable(
                reason='the controller had not listed everything yet')
        with self._writer.lock:
            self._view = view
            planned = self._bring_in_force()
            return driver.Applied(self._writer.epoch(), planned.denied)

    def serve(self, found: Mapping[str, lb_model.Service],
              node: lb_model.Node, nodes: frozenset[str]
              ) -> Mapping[str, str]:
        refused = self._services.update(found, node, nodes)
        self._dirty.set()
        return refused

    def conflicts(self) -> Mapping[str, str]:
        return self._services.conflicts()

    def backends(self, address: str, port: int, protocol: int
                 ) -> Optional[driver.Asked]:
        if rows.canonical(address) != address:
            raise ValueError('address %s is not canonical' % address)
        if not 0 < port <= 65535:
            raise ValueError('port %d is not 1 to 65535' % port)
        if not 0 <= protocol <= 255:
            raise ValueError('protocol %d is not 0 to 255' % protocol)
        return self._services.backends(address, port, protocol)

    def events(self) -> Iterator[driver.FlowEvent]:
        return events.read(self._maps.fd(maps.EVENTS), self._names,
                           self._stopped)

    def drops(self) -> Mapping[str, int]:
        return {reason.text: count
                for reason, count in self._maps.drops().items()}

    def connections(self) -> Mapping[str, int]:
        counted = self._maps.connections()
        with self._writer.lock:
            return {local.uid: counted.get(local.number, 0)
                    for local in self._locals.values()}

    def explain(self, uid: str, direction: model.Direction, peer: str,
                protocol: int, port: Optional[int] = None
                ) -> driver.Explanation:
        if rows.canonical(peer) != peer:
            raise ValueError('peer %s is not a canonical address' % peer)
        if not 0 <= protocol <= 255:
            raise ValueError('protocol %d is not 0 to 255' % protocol)
        if port is None and protocol in explain.PORTS:
            raise ValueError('protocol %d needs a port (ICMP: type << 8 | '
                             'code)' % protocol)
        if port is not None and not 0 <= port <= 65535:
            raise ValueError('port %d is not 0 to 65535' % port)
        with self._writer.lock:
            number = next((local.number for local in self._locals.values()
                           if local.uid == uid), None)
            if number is None:
                raise exceptions.NotFound(
                    what='pod UID ' + uid,
                    command='kuryr-cilium endpoint list')
            found = explain.judge(
                self._maps, self._maps.endpoint(number), direction, peer,
                protocol, port)
            ruleset = self._rulesets().get(found.ruleset)
            own = (direction is model.Direction.INGRESS
                   and found.ruleset != rows.RULESET_NONE
                   and peer in self._nodes)
        group = None
        if ruleset is not None and not own and found.bit is not None:
            group = ruleset.groups[found.bit]
        return driver.Explanation(
            uid, direction.value, peer, protocol, port, found.class_,
            found.entity.name.lower().replace('_', '-'), found.prefix,
            found.ruleset, _FIXED.get(found.ruleset) or (
                ruleset.id if ruleset else ''),
            None if own else found.bit, 'allow' if own else found.verdict,
            _OWN_NODE if own else events.reason_text(found.reason),
            ruleset.names[found.bit] if group and found.bit < len(
                ruleset.names) else (),
            group.tier.name.lower() if group else '')

    def entries(self) -> list[driver.Entries]:
        # NOTE: without the lock: a large map takes long to list.
        groups, ports, peers = (self._maps.counts(table) for table in (
            rows.GROUP, rows.PORT, rows.PEER))
        with self._writer.lock:
            rulesets = self._rulesets()
            judged = collections.defaultdict(set)
            for local in self._locals.values():
                row = self._maps.endpoint(local.number)
                for number in (row.in_ruleset, row.out_ruleset) if row else ():
                    judged[number].add(local.uid)
        found = []
        # Every ruleset has rows of peers, at least those of the entities.
        for number in sorted(peers.keys() | groups.keys() | ports.keys()):
            ruleset = rulesets.get(number)
            found.append(driver.Entries(
                number, ruleset.id if ruleset else '',
                ruleset.direction.value if ruleset else '',
                tuple(sorted(judged[number])), groups[number],
                ports[number], peers[number]))
        return found

    def sweep(self) -> None:
        if self._view is not None:
            self._addresses.purge()
            self._sockets.purge()
            with self._writer.lock:
                for vif_id in self._links.known() - self._locals.keys():
                    LOG.warning('Links of %s belong to no interface: removed',
                                vif_id)
                    self.detach(vif_id)
                numbers = {local.number for local in self._locals.values()}
                self._maps.write([
                    rows.Write(maps.INTERFACE, index) for index, number
                    in self._maps.interfaces().items()
                    if number not in numbers])
            found = self._purge()
            if found:
                LOG.warning('%d rows of maps belonged to nothing: removed',
                            found)
        self._sweep_connections()
        self._addresses.set_nodes(_of_node(netlink.addresses()))
        self._uplinks.refresh()

    def stop(self) -> None:
        self._stopped.set()
        self._dirty.set()
        if self._collector is not None:
            self._collector.join()
        if self._loaded is not None:
            with self._writer.lock:
                self._maps.close()
                self._loaded.close()
                self._loaded = None
        if self._sockets is not None:
            self._sockets.close()

    def _rulesets(self):
        """The rulesets in force by their numbers."""
        if self._planner is None or self._planner.view is None:
            return {}
        return {number: self._planner.view.rulesets[name]
                for name, number in self._planner.live.items()}

    def _add(self, attachment, found, number, active):
        network = self._network(attachment.network_id)
        self._attachments[attachment.vif_id] = attachment
        self._locals[attachment.vif_id] = endpoints.Local(
            number, attachment.uid, attachment.vif_id, found.kc, found.kq,
            attachment.mac, attachment.addresses, network,
            attachment.gateway_macs, active)
        self._names.add_endpoint(number, attachment.uid)
        self._addresses.set_pod(attachment.vif_id, attachment.addresses)
        if self._services_conf.pod_sockets:
            self._sockets.set_pod(attachment.vif_id, attachment.netns)

    def _network(self, network_id):
        """This process's number of a network."""
        number = self._networks.get(network_id)
        if number is None:
            number = self._writer.allocate('network')
            self._networks[network_id] = number
        return number

    def _forget(self, vif_id):
        """Leave an interface to the next plan, which deletes its rows."""
        self._attachments.pop(vif_id, None)
        self._addresses.set_pod(vif_id, ())
        self._sockets.set_pod(vif_id, '')
        local = self._locals.pop(vif_id, None)
        if local is not None:
            self._forget_devices(links.Devices(local.kc, local.kq))

    def _forget_devices(self, found):
        """Take devices from their endpoint.

        An endpoint of an earlier process that is not known to this one goes
        with them.
        """
        known = {local.number for local in self._locals.values()}
        by_device = self._maps.interfaces()
        numbers = {by_device[index] for index in found if index in by_device}
        self._maps.write([rows.Write(maps.INTERFACE, index)
                          for index, number in by_device.items()
                          if number in numbers or index in found])
        self._maps.write([rows.Write(rows.ENDPOINT, number)
                          for number in numbers - known])

    def _by_number(self):
        return {local.number: local for local in self._locals.values()}

    def _settle(self):
        if self._planner is None:
            return self._bring_in_force()
        planned = self._planner.settle(self._by_number())
        self._carry_out(planned)
        return planned

    def _bring_in_force(self):
        """Carry out what leads to the last view.

        After a failure, and the first time, that is a new generation.
        """
        anew = self._planner is None or self._planner.view is None
        if self._planner is None:
            self._planner = plan.Planner(self._writer.allocate, self._limits)
        if self._view is None:
            planned = self._planner.settle(self._by_number())
        else:
            planned = self._planner.plan(self._view, self._by_number(),
                                         self._nodes)
            for name, number in self._planner.live.items():
                self._names.add_ruleset(number, self._view.rulesets[name])
        self._carry_out(planned)
        if anew and self._view is not None:
            self._purge()
        return planned

    def _carry_out(self, planned):
        try:
            self._writer.carry_out(planned)
        except BaseException:
            # What the maps hold is unknown now.
            self._planner = None
            raise

    def _purge(self):
        with self._writer.lock:
            if self._planner is None:
                self._bring_in_force()
        return self._writer.purge(self._owner)

    def _owner(self):
        if self._planner is None:
            # A write failed meanwhile: what comes then purges itself.
            return lambda table, key: True
        return self._planner.owner()

    def _collect(self):
        """Delete connections that ended, at once where an endpoint went."""
        while not self._stopped.is_set():
            self._dirty.wait(_SWEEP)
            self._dirty.clear()
            if not self._stopped.is_set():
                try:
                    self._sweep_connections()
                except OSError:
                    LOG.exception('Connections could not be swept; the next '
                                  'sweep tries again')
                self._stopped.wait(1)

    def _sweep_connections(self):
        # NOTE: a number is never used again, and no connection is older than
        # its endpoint's row: one that has no row now is gone for good.
        alive = functools.cache(
            lambda number: self._maps.endpoint(number) is not None)
        lost = self._services.lost()
        try:
            swept = conntrack.sweep(self._maps, alive, self._busy, lost)
            outside.sweep(self._maps, lost)
            if lost is not None:
                self._sockets.sweep(lost)
        except BaseException:
            if lost is not None:
                self._services.lost_again()
            raise
        self._busy = swept.live > self._capacity * conntrack.BUSY


def _check(attachment):
    """Refuse what would not fit into a row, and so stop every plan."""
    try:
        if not 0 < len(attachment.addresses) <= layout.ADDRESSES:
            raise ValueError('%d addresses, and not 1 to %d' % (
                len(attachment.addresses), layout.ADDRESSES))
        for mac in (attachment.mac, *attachment.gateway_macs):
            if len(layout.mac_bytes(mac)) != 6:
                raise ValueError('%s is no MAC address' % mac)
        for address in attachment.addresses:
            if rows.canonical(address) != address:
                raise ValueError('%s is no canonical address' % address)
    except ValueError as error:
        raise exceptions.VIFNotSupported(vif=attachment.vif_id, reason=error)


def _of_node(addresses):
    """Those by which others may reach the node."""
    return frozenset(filter(_is_node_address, filter(
        None, map(rows.canonical, addresses))))


def _is_node_address(text):
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local
                or address.is_multicast or address.is_unspecified)


def _set_down(index):
    try:
        name = socket.if_indextoname(index)
        with netlink.Netlink() as net:
            net.set_down(name)
    except (OSError, exceptions.LinkError):
        LOG.debug('Interface %d went away meanwhile', index)
