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

"""Services in the maps: written, turned, and cleared of what has gone."""

import threading
from typing import Callable, Mapping, Optional

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.datapath.bpf import writer as writer_
from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.lb import plan

ADDRESSES = 'kc_svc'
BACKENDS = 'kc_backend'
AFFINITY = 'kc_affinity'
RANGES = 'kc_source'

#: The set of backends that holds by which addresses a pod sees itself.
_SELF = 0
#: A row with this protocol, and port 0, says that an address is a node's.
_NODE_PROTOCOL = 255
_NODE = service_rows.Svc(0, 0, 0, 0).pack()
_BATCH = 8192


class Services:
    """What services this node has for who asks. Safe for threads.

    :param network: callable that returns the node's number of a network.
    :param themselves: by which addresses, IPv4 and IPv6, a pod that reaches
        itself through a service sees itself.
    :param node_ports: the first and the last port of services on nodes.
    :param outside: whether clients outside are served too.
    """

    def __init__(self, maps: maps_.Maps, writer: writer_.Writer,
                 network: Callable[[str], int], themselves: tuple[str, str],
                 node_ports: tuple[int, int], outside: bool = False):
        self._maps = maps
        self._writer = writer
        self._network = network
        self._themselves = themselves
        self._node_ports = node_ports
        self._outside = outside
        self._node: Optional[model.Node] = None
        self._nodes: frozenset[str] = frozenset()
        self._table: Optional[plan.Table] = None
        self._lock = threading.Lock()
        # Whether flows may have lost their backends since the last sweep.
        self._lost = False

    @property
    def table(self) -> Optional[plan.Table]:
        """What is in force; None before the first update."""
        return self._table

    def update(self, services: Mapping[str, model.Service],
               node: model.Node, nodes: frozenset[str] = frozenset()
               ) -> Mapping[str, str]:
        """Bring services in force, whatever was before.

        :param services: all of them, by id.
        :param node: this one.
        :param nodes: addresses of nodes, which have node ports.
        :returns: id of a service -> why it is refused.
        :raises: exceptions.DatapathError; the next call begins anew.
        """
        with self._writer.lock:
            anew = self._table is None or self._node != node
            if anew:
                self._nodes = frozenset()
                self._node = node
                self._table = plan.Table(
                    node.name, node.zone,
                    lambda: self._writer.allocate('backends'),
                    outside=self._outside, known=self._rows_in_force())
            known = self._table.services
            changed: dict[str, Optional[model.Service]] = {
                name: service for name, service in services.items()
                if known.get(name) is not service
                and known.get(name) != service}
            changed.update((name, None) for name in known.keys()
                           - services.keys())
            if not changed and not anew and nodes == self._nodes:
                return self._table.refused
            try:
                self._set_nodes(nodes)
                self._bring(changed, anew)
            except BaseException:
                # What the maps hold is unknown now.
                self._table = None
                raise
            return self._table.refused

    def name(self, number: int) -> str:
        """Id of the service with a number; '' if there is none."""
        table = self._table
        return table.names.get(number, '') if table else ''

    def backends(self, address: str, port: int, protocol: int
                 ) -> Optional[driver.Asked]:
        """Who gets what pods send to an address, as the programs find it.

        :returns: None if it is no service's.
        """
        any_ = frontends.ANY[frontends.family(address)]
        first, last = self._node_ports
        keys = [frontends.Key(address, port, protocol)]
        with self._writer.lock:
            if first <= port <= last and self._get(
                    ADDRESSES, _node_key(address)):
                keys.append(frontends.Key(any_, port, protocol))
            keys.append(frontends.Key(address, 0, 0))
            found = next(filter(None, (
                self._get(ADDRESSES, _key(key)) for key in keys)), None)
            if found is None:
                return None
            row = service_rows.Svc.unpack(found)
            targets = (self._get(BACKENDS, service_rows.BackendKey(
                row.backends, index).pack()) for index in range(row.count))
            return driver.Asked(self.name(row.number), tuple(
                service_rows.Backend.unpack(target)[:2] for target in targets))

    def conflicts(self) -> Mapping[str, str]:
        """Services that want an address that another one has: id -> why."""
        with self._writer.lock:
            return self._table.conflicts() if self._table else {}

    def lost(self) -> Optional[Callable[
            [str, int, int, tuple[str, int]], bool]]:
        """Which flows have lost their backends since the last call.

        :returns: None if none has; else what tells it of a flow, by the
            address, port and protocol of its service and by its backend.
        """
        with self._lock:
            table = self._table
            if not self._lost or table is None:
                return None
            self._lost = False
        return lambda *flow: not table.alive(*flow)

    def lost_again(self) -> None:
        """Not all flows have been looked at that the last call told of."""
        with self._lock:
            self._lost = True

    def _set_nodes(self, nodes):
        self._write(ADDRESSES, [(_node_key(address), _NODE)
                                for address in nodes - self._nodes])
        self._delete(ADDRESSES, list(map(_node_key, self._nodes - nodes)))
        self._nodes = nodes

    def _bring(self, changed, anew):
        self._carry_out(self._table.update(changed), anew)
        if self._table.refused:
            # What went just now has made room.
            self._carry_out(self._table.update({}), False)

    def _carry_out(self, planned, anew):
        if anew:
            self._begin()
        self._write(BACKENDS, [
            (service_rows.BackendKey(*key).pack(), self._backend(target))
            for key, target in planned.backends.items()])
        self._write(RANGES, [
            (service_rows.SourceKey(*key).pack(), layout.U32.pack(allowed))
            for key, allowed in planned.ranges.items()])
        self._write_addresses(planned.addresses)
        self._delete(ADDRESSES, [_key(key) for key in planned.gone])
        if anew:
            self._purge(planned.late)
        elif planned.unused or planned.open or planned.forget:
            writer_.wait_for_packets()
            if planned.forget:
                self._forget(lambda target, mac: target in planned.forget)
            if planned.late:
                self._write_addresses(planned.late)
                writer_.wait_for_packets()
            self._delete(RANGES, [service_rows.SourceKey(*key).pack()
                                  for key in planned.open])
            self._delete(BACKENDS, [
                service_rows.BackendKey(number, index).pack()
                for number, count in planned.unused
                for index in range(count)])
        if anew or planned.lost:
            with self._lock:
                self._lost = True

    def _write_addresses(self, rows):
        self._write(ADDRESSES, [(_key(key), service_rows.Svc(*row).pack())
                                for key, row in rows.items()])

    def _forget(self, lost):
        """Let clients that have a lost target by affinity choose again.

        :param lost: called with (Row.service, address, port), and the MAC
            address if the target was found without a router.
        """
        gone = []
        for key, value in libbpf.map_items(self._maps.fd(AFFINITY)):
            found = service_rows.Affinity.unpack(value)
            number = service_rows.AffinityKey.unpack(key).service
            if lost((number, found.address, found.port), found.mac):
                gone.append(bytes(key))
        self._delete(AFFINITY, gone)

    def _rows_in_force(self):
        """Key -> number of its service, whoever has written it."""
        found = {}
        for key, value in libbpf.map_items(self._maps.fd(ADDRESSES)):
            key = service_rows.SvcKey.unpack(key)
            if key.protocol != _NODE_PROTOCOL:
                found[frontends.Key(key.address, key.port, key.protocol,
                                    key.scope)] = service_rows.Svc.unpack(
                                        value).number
        return found

    def _begin(self):
        # What a writer that was stopped has written, and nothing leads to:
        # there must be room for two generations, not for three.
        live = [service_rows.Svc.unpack(value) for _, value
                in libbpf.map_items(self._maps.fd(ADDRESSES))]
        self._purge_backends({row.backends for row in live})
        services = {row.number for row in live}
        self._purge_ranges(lambda key: key.service in services)
        first, last = self._node_ports
        self._maps.set_meta(layout.Meta.NODE_PORTS, first << 16 | last)
        self._write(BACKENDS, [
            (service_rows.BackendKey(_SELF, frontends.family(address)).pack(),
             service_rows.Backend(address, 0, None, 0).pack())
            for address in self._themselves])

    def _purge(self, late):
        """Delete what an earlier process has left.

        :param late: rows to write as soon as clients have forgotten.
        """
        rows = {*map(_key, self._table.rows), *map(_node_key, self._nodes)}
        # What refuses other ports goes before the ports, as in a plan.
        self._delete(ADDRESSES, sorted((
            bytes(key) for key, _ in libbpf.map_items(
                self._maps.fd(ADDRESSES)) if bytes(key) not in rows),
            key=lambda key: service_rows.SvcKey.unpack(key).port))
        writer_.wait_for_packets()
        held = self._table.held()
        self._forget(lambda target, mac: target not in held or mac not in (
            None, held[target]))
        self._write_addresses(late)
        self._purge_backends(self._table.sets)
        ranges = self._table.ranges
        self._purge_ranges(lambda key: key in ranges)

    def _purge_ranges(self, wanted):
        lost = [bytes(key) for key, _ in libbpf.map_items(
            self._maps.fd(RANGES))
            if not wanted(service_rows.SourceKey.unpack(key))]
        if lost:
            writer_.wait_for_packets()
            self._delete(RANGES, lost)

    def _purge_backends(self, sets):
        """Delete all sets but these."""
        lost = [bytes(key) for key, _ in libbpf.map_items(
            self._maps.fd(BACKENDS))
            if service_rows.BackendKey.unpack(key).backends
            not in sets | {_SELF}]
        if lost:
            writer_.wait_for_packets()
            self._delete(BACKENDS, lost)

    def _backend(self, target):
        return service_rows.Backend(
            target.address, target.port, target.mac or None,
            self._network(target.network_id) if target.mac else 0).pack()

    def _get(self, table, key):
        return libbpf.map_lookup(self._maps.fd(table), key)

    def _write(self, table, rows):
        def write(part):
            libbpf.map_update_batch(
                self._maps.fd(table), b''.join(key for key, _ in part),
                b''.join(value for _, value in part), len(part))
        self._batched(table, rows, write)

    def _delete(self, table, keys):
        self._batched(table, keys, lambda part: libbpf.map_delete_batch(
            self._maps.fd(table), b''.join(part), len(part)))

    def _batched(self, table, rows, work):
        try:
            _each(rows, work)
        except OSError as error:
            raise exceptions.DatapathError(
                reason=f'map {table} could not be written: {error.strerror}')


def _each(rows, work):
    for start in range(0, len(rows), _BATCH):
        work(rows[start:start + _BATCH])


def _node_key(address):
    return service_rows.SvcKey(
        frontends.INSIDE, address, 0, _NODE_PROTOCOL).pack()


def _key(key):
    return service_rows.SvcKey(key.scope, key.address, key.port,
                               key.protocol).pack()
