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

"""How a pod is plugged and unplugged: the order, and what survives a crash.

A pod's links drop everything from before they come up until its policy is
in force and the switch has wired its port. Each step may be done again over
its own remains, so a request that is repeated after a crash at any point
starts from the beginning. The record is written first and removed last: it
names whatever may have been left.
"""

import contextlib
import dataclasses
import json
import threading
import time
from typing import Iterable
from typing import Optional

from oslo_log import log as logging

from kuryr_cilium.agent import faults
from kuryr_cilium.agent import pod
from kuryr_cilium.agent import store as agent_store
from kuryr_cilium.binding import driver as binding_driver
from kuryr_cilium.datapath import driver as datapath_driver
from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import netns as linux_netns
from kuryr_cilium import vif as kc_vif

LOG = logging.getLogger(__name__)

#: Seconds that a DEL waits for another request for the same VIF.
_DELETE_PATIENCE = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An ADD whose pod and VIF are known.

    :ivar uid: UID of the pod in the API.
    :ivar vif: the VIF of the pod's annotation, an object of os-vif.
    """

    uid: str
    namespace: str
    name: str
    container_id: str
    ifname: str
    netns: str
    vif: object

    def record(self, state: str) -> agent_store.Record:
        return agent_store.Record(
            uid=self.uid, namespace=self.namespace, name=self.name,
            container_id=self.container_id, ifname=self.ifname,
            netns=self.netns, vif=kc_vif.dumps(self.vif), state=state)


class Plugger:
    """Plugs and unplugs pods. Safe for threads: one request a VIF at a time.

    :param binding: a binding.driver.Driver.
    :param datapath: a datapath.driver.Driver, started.
    :param store: an agent.store.Store.
    :param views: has ``wait_endpoint(uid, vif_id, deadline)``: returns when
        a synced view that holds the endpoint is in force.
    :param node_ips: the node's addresses, at most one a family, from which
        it reaches its pods.
    """

    def __init__(self, binding, datapath, store, views,
                 node_ips: Iterable[str]):
        self._binding = binding
        self._datapath = datapath
        self._store = store
        self._views = views
        self._node_ips = tuple(node_ips)
        self._locks = _Locks()
        self._unresumed = {}

    def add(self, request: Request, deadline: float) -> pod.Layout:
        """Plug a pod's interface; it is usable when this returns.

        :param deadline: time.monotonic() at which to give up. What was made
            then stays, dropping everything, for a repeated ADD or a DEL.
        :raises: an exception of kuryr_cilium.exceptions
        """
        vif = request.vif
        links = self._binding.links(vif)
        layout = _layout(vif, request.ifname, links)
        earlier = self._store.find(request.container_id, request.ifname)
        if earlier is not None and earlier.vif_id != vif.id:
            self.delete(request.container_id, request.ifname)
        with self._locks.hold(links.kc, deadline):
            ready = request.record(agent_store.READY)
            if self._is_done(ready, vif, layout):
                LOG.info('Pod %s is plugged already, as %s', ready.pod,
                         links.kc)
                return layout
            self._unresumed.pop(vif.id, None)
            self._record(request.record(agent_store.PLUGGING))
            faults.point('record')
            self._binding.create_links(vif, request.netns, request.ifname)
            faults.point('links')
            self._datapath.attach(_attachment(ready, vif, links))
            faults.point('attach')
            self._binding.plug(vif, request.uid, ready.pod)
            faults.point('plug')
            pod.configure(request.netns, layout, self._node_ips)
            faults.point('pod')
            pod.connect_host(layout, self._node_ips)
            faults.point('host')
            self._views.wait_endpoint(request.uid, vif.id, deadline)
            faults.point('view')
            self._binding.wait_wired(vif, deadline)
            faults.point('wired')
            self._datapath.activate(vif.id)
            faults.point('activate')
            self._store.put(ready)
            faults.point('ready')
        LOG.info('Pod %s is plugged as %s with Neutron port %s', ready.pod,
                 links.kc, vif.id)
        return layout

    def delete(self, container_id: str,
               ifname: str) -> Optional[agent_store.Record]:
        """Unplug a pod's interface. Idempotent.

        :returns: the record whose VIF nothing on this node uses any longer;
            None if nothing was known of it or another container has the VIF.
        :raises: an exception of kuryr_cilium.exceptions; the record then
            stays and the DEL is to be repeated.
        """
        record = self._store.find(container_id, ifname)
        if record is None:
            return None
        with self._locks.hold(self._links(record).kc,
                              time.monotonic() + _DELETE_PATIENCE):
            # NOTE: an ADD for a new container may have replaced it.
            record = self._store.find(container_id, ifname)
            return record if record and self._remove(record) else None

    def check(self, container_id: str, ifname: str) -> None:
        """Compare a pod's interface with what was made.

        :raises: exceptions.PodNetworkBroken, exceptions.CNIContainerUnknown
        """
        record = self._store.find(container_id, ifname)
        if record is None:
            raise exceptions.CNIContainerUnknown(container=container_id,
                                                 ifname=ifname)
        vif = record.load_vif()
        layout = _layout(vif, ifname, self._binding.links(vif))
        found = self._problem(record, vif, layout)
        if found:
            raise exceptions.PodNetworkBroken(pod=record.pod, problem=found)

    def sweep(self, starting: bool = False) -> list[agent_store.Record]:
        """Compare what is there with the records and put it right.

        :param starting: nothing was attached by this process yet; the
            datapath is started and was given no view. Ready interfaces are
            taken over, unfinished ones removed.
        :returns: records whose VIF was released.
        """
        released = []
        for record in self._store.list():
            with self._surviving('pod %s' % record.pod):
                released.extend(self._sweep_record(record, starting))
        with self._surviving('links of no pod'):
            self._sweep_links()
            self._sweep_attachments()
        return released

    def resume(self) -> int:
        """Activate interfaces that sweep() had to attach anew.

        To be called after each view that was applied.

        :returns: how many still wait for their endpoint.
        """
        for vif_id, links in tuple(self._unresumed.items()):
            with self._locks.try_hold(links.kc) as held:
                if not held or vif_id not in self._unresumed:
                    continue
                try:
                    self._datapath.activate(vif_id)
                except exceptions.EndpointUnknown:
                    continue
                self._unresumed.pop(vif_id, None)
                LOG.info('The interface of Neutron port %s, which had lost '
                         'its programs, is in force again', vif_id)
        return len(self._unresumed)

    def plugged(self) -> list[str]:
        """Ids of the Neutron ports that this node holds or may hold."""
        return sorted({record.vif_id for record in self._store.list()})

    def _is_done(self, ready, vif, layout):
        """Whether an earlier ADD of the same went through and holds."""
        earlier = self._store.find(ready.container_id, ready.ifname)
        if earlier is None or earlier.vif_id != vif.id:
            return False
        if dataclasses.replace(earlier, vif='') != dataclasses.replace(
                ready, vif='') or json.loads(earlier.vif) != json.loads(
                    ready.vif):
            return False
        found = self._problem(ready, vif, layout)
        if found:
            LOG.warning('Pod %s is plugged anew: %s', ready.pod, found)
        return found is None

    def _problem(self, record, vif, layout):
        if vif.id not in self._datapath.attachments():
            return 'no programs are attached to %s' % layout.host_link
        if vif.id in self._unresumed:
            return 'its endpoint is not in this node\'s policy view'
        return (self._binding.check(vif) or
                pod.problem(record.netns, layout, self._node_ips))

    def _record(self, record):
        """Write a record, and take the VIF from any other container."""
        self._store.put(record)
        for other in self._store.by_vif(record.vif_id):
            if other.key != record.key:
                LOG.info('Neutron port %s passes from container %s to %s',
                         record.vif_id, other.container_id,
                         record.container_id)
                self._store.delete(other)

    def _remove(self, record):
        """Remove a record's interface. True if the VIF is free then."""
        others = [other for other in self._store.by_vif(record.vif_id)
                  if other.key != record.key]
        if not others:
            # NOTE: the links go first, and with them the programs: the pod
            # never has a link without a program.
            vif = record.load_vif()
            self._binding.unplug(vif, record.uid, record.pod)
            faults.point('del-unplug')
            self._datapath.detach(vif.id)
            self._unresumed.pop(vif.id, None)
            faults.point('del-detach')
        self._store.delete(record)
        faults.point('del-record')
        LOG.info('Pod %s is unplugged from Neutron port %s%s', record.pod,
                 record.vif_id, ', which another container has' if others
                 else '')
        return not others

    @contextlib.contextmanager
    def _surviving(self, what):
        """One thing that can't be put right must not keep others waiting."""
        try:
            yield
        except exceptions.KuryrCiliumException as error:
            LOG.warning('Sweep of %s: %s It will be tried again.', what,
                        error)

    def _sweep_record(self, record, starting):
        """The record in a list if its VIF was released, else nothing."""
        with self._locks.try_hold(self._links(record).kc) as held:
            if not held or self._store.get(*record.key) != record:
                return []
            if self._is_stale(record, starting):
                return [record] if self._remove(record) else []
            if starting:
                self._adopt(record)
        return []

    def _is_stale(self, record, starting):
        if starting and record.state != agent_store.READY:
            return True
        return not linux_netns.exists(record.netns)

    def _adopt(self, record):
        """Take over a ready interface from an earlier process."""
        vif = record.load_vif()
        links = self._binding.links(vif)
        attachment = _attachment(record, vif, links)
        if self._datapath.adopt(attachment):
            return
        with netlink.Netlink() as net:
            missing = [name for name in (links.kc, links.kq)
                       if net.link(name) is None]
            if missing:
                LOG.warning('Pod %s has lost its links %s: delete the pod, '
                            'so that it is made anew', record.pod,
                            ', '.join(missing))
                return
            LOG.warning('The programs of pod %s were lost; it is cut off '
                        'until its policy is in force', record.pod)
            for name in (links.kc, links.kq):
                net.set_down(name)
            self._datapath.attach(attachment)
            self._unresumed[vif.id] = links
            for name in (links.kq, links.kc):
                net.set_up(name)
        pod.connect_host(_layout(vif, record.ifname, links), self._node_ips)

    def _sweep_attachments(self):
        """Detach what no record names: a DEL had come half the way."""
        for vif_id, attachment in dict(self._datapath.attachments()).items():
            with self._locks.try_hold(attachment.kc) as held:
                if held and not self._store.by_vif(vif_id):
                    LOG.warning('%s belongs to no pod: detached',
                                attachment.kc)
                    self._datapath.detach(vif_id)

    def _sweep_links(self):
        known = self._known_links()
        for links in self._binding.found_links() - known:
            with self._locks.try_hold(links.kc) as held:
                # NOTE: whoever makes a link has written its record before.
                if held and links not in self._known_links():
                    LOG.warning('%s and %s belong to no pod: removed',
                                links.kc, links.kq)
                    self._binding.remove_links(links)

    def _known_links(self):
        return {self._links(record) for record in self._store.list()}

    def _links(self, record):
        return self._binding.links(record.load_vif())


class _Locks:
    """A lock for each VIF that is being worked on, by the name of its kc."""

    def __init__(self):
        self._changed = threading.Condition()
        self._held = set()

    @contextlib.contextmanager
    def hold(self, name, deadline):
        with self._changed:
            free = self._changed.wait_for(
                lambda: name not in self._held,
                max(0, deadline - time.monotonic()))
            if not free:
                raise exceptions.PlugBusy(link=name)
            self._held.add(name)
        try:
            yield
        finally:
            self._release(name)

    @contextlib.contextmanager
    def try_hold(self, name):
        with self._changed:
            free = name not in self._held
            self._held.add(name)
        try:
            yield free
        finally:
            if free:
                self._release(name)

    def _release(self, name):
        with self._changed:
            self._held.discard(name)
            self._changed.notify_all()


def _layout(vif, ifname, links):
    return pod.layout(vif, ifname, links.kc, binding_driver.mtu(vif))


def _attachment(record, vif, links):
    return datapath_driver.Attachment(
        vif_id=vif.id, uid=record.uid, kc=links.kc, kq=links.kq,
        mac=vif.address.lower(), addresses=kc_vif.addresses(vif),
        network_id=vif.network.id, netns=record.netns)
