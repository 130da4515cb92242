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

"""What the node's own OVSDB says of its ports.

os-vif adds and removes ports on a connection of its own and says nothing of
what became of them. This connection watches: whoever waits for a port's
state is woken by each change of the database.
"""

import dataclasses
import threading
import time
from typing import Callable
from typing import Optional

from oslo_log import log as logging
from ovsdbapp.backend.ovs_idl import connection
from ovsdbapp.schema.open_vswitch import impl_idl

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

#: The VLAN of ports that Neutron's Open vSwitch agent has not wired, or no
#: longer.
_DEAD_VLAN = 4095

_TABLES = ('Open_vSwitch', 'Bridge', 'Port', 'Interface')


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """A port's rows, Port and Interface.

    :ivar iface_id: id of the Neutron port; '' if it is none.
    :ivar ofport: number in the bridge; None until ovs-vswitchd has added it,
        -1 if it could not.
    :ivar error: why ovs-vswitchd could not.
    :ivar installed: ovn-controller has installed its flows.
    :ivar tag: VLAN, which Neutron's Open vSwitch agent sets; None without.
    """

    name: str
    iface_id: str
    ofport: Optional[int]
    error: str
    installed: bool
    tag: Optional[int]

    @property
    def wired(self) -> bool:
        """Whether ML2/OVN's or ML2/OVS's agent says that packets flow."""
        return (self.ofport or -1) > 0 and (
            self.installed or self.tag not in (None, _DEAD_VLAN))


def describe(error: Exception) -> str:
    """The text of an error, also of ovsdbapp's that have none."""
    try:
        return str(error) or type(error).__name__
    except AttributeError:
        # NOTE: ovsdbapp raises a TimeoutException that has no text; str()
        # of it fails.
        return type(error).__name__


class _Idl(connection.OvsdbIdl):
    """A replica that wakes waiters."""

    changed = None

    def notify(self, event, row, updates=None):
        # NOTE: called with the connection's lock held, which is the lock of
        # the condition too: a waiter sees whole updates only.
        if self.changed is not None:
            self.changed.notify_all()


class _API(impl_idl.OvsdbIdl):
    """ovsdbapp's commands on one connection."""

    # NOTE: the base class shares one connection among its instances.
    ovsdb_connection = None


class Switch:
    """The Open vSwitch of this node. Safe for threads.

    It connects at the first use, and again by itself.

    :param remote: where ovsdb-server listens.
    :param timeout: seconds that one change may take.
    """

    def __init__(self, remote: str, timeout: int):
        self._remote = remote
        self._timeout = timeout
        self._lock = threading.Lock()
        self._api = None

    def port(self, name: str) -> Optional[Port]:
        """A port by name, or None."""
        api = self._connected()
        with api.ovsdb_connection.lock:
            return self._port(api, name)

    def ports(self) -> list[Port]:
        """Every port that has an Interface of its own name."""
        api = self._connected()
        with api.ovsdb_connection.lock:
            names = [row.name for row in api.tables['Port'].rows.values()]
            found = [self._port(api, name) for name in names]
        return [port for port in found if port is not None]

    def datapath_type(self, bridge: str) -> Optional[str]:
        """'system' or 'netdev'; None if there is no such bridge."""
        api = self._connected()
        with api.ovsdb_connection.lock:
            for row in api.tables['Bridge'].rows.values():
                if row.name == bridge:
                    return row.datapath_type or 'system'
        return None

    def wired_by_ovn(self) -> bool:
        """Whether ovn-controller is set up here (else: Neutron's agent)."""
        api = self._connected()
        with api.ovsdb_connection.lock:
            return any('ovn-remote' in row.external_ids for row
                       in api.tables['Open_vSwitch'].rows.values())

    def wait(self, name: str, predicate: Callable[[Optional[Port]], bool],
             deadline: float) -> Optional[Port]:
        """Wait until a port (None: there is none) is as it should be.

        :param deadline: time.monotonic() at which to give up.
        :returns: the port at the end, whether it came so far or not.
        """
        api = self._connected()
        changed = api.idl.changed
        with changed:
            while True:
                port = self._port(api, name)
                left = deadline - time.monotonic()
                if predicate(port) or left <= 0:
                    return port
                changed.wait(left)

    def delete_port(self, name: str) -> bool:
        """Remove a port and wait until ovs-vswitchd has let go of it.

        :returns: whether there was one.
        :raises: exceptions.SwitchUnavailable
        """
        if self.port(name) is None:
            return False
        api = self._connected()
        try:
            api.del_port(name, if_exists=True).execute(check_error=True)
        except Exception as error:
            raise self._unavailable('it did not remove port %s: %s' % (
                name, describe(error))) from error
        with api.ovsdb_connection.lock:
            behind = any(row.cur_cfg < row.next_cfg for row
                         in api.tables['Open_vSwitch'].rows.values())
        if behind:
            # NOTE: if the link were made anew now, ovs-vswitchd would take
            # it for the old one and go on reading a dead socket.
            raise self._unavailable(
                'ovs-vswitchd has not let go of port %s' % name)
        return True

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._api is not None:
                self._api.ovsdb_connection.stop(self._timeout)
                self._api = None

    def _connected(self):
        with self._lock:
            if self._api is None:
                try:
                    idl = _Idl.from_server(self._remote, 'Open_vSwitch',
                                           helper_tables=_TABLES)
                    link = connection.Connection(idl, self._timeout)
                    idl.changed = threading.Condition(link.lock)
                    self._api = _API(link)
                except Exception as error:
                    raise self._unavailable(describe(error)) from error
            return self._api

    def _unavailable(self, reason):
        return exceptions.SwitchUnavailable(reason=reason,
                                            connection=self._remote)

    @staticmethod
    def _port(api, name):
        # NOTE: a port of one interface bears its name; bonds don't matter.
        port = api.lookup('Port', name, None)
        if port is None or len(port.interfaces) != 1:
            return None
        interface = port.interfaces[0]
        return Port(name, interface.external_ids.get('iface-id', ''),
                    interface.ofport[0] if interface.ofport else None,
                    interface.error[0] if interface.error else '',
                    interface.external_ids.get('ovn-installed') == 'true',
                    port.tag[0] if port.tag else None)
