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

"""The interface of a binding driver: from a VIF to links on the host.

The caller holds the order (see agent/plug.py): links are made down, the
datapath is attached to them, and only then are they brought up and plugged.
"""

import abc
import dataclasses
from typing import Optional

from os_vif.objects import vif as osv_vif

_DEFAULT_MTU = 1500


@dataclasses.dataclass(frozen=True, slots=True)
class Links:
    """Names of a VIF's links on the host.

    :ivar kc: the host's end of the pod's veth pair.
    :ivar kq: our end of the veth pair into the bridge.
    :ivar tap: the bridge's end: the OVS port.
    """

    kc: str
    kq: str
    tap: str


def mtu(vif: osv_vif.VIFBase) -> int:
    """The MTU of a VIF's links, that of Neutron's network."""
    if vif.network.obj_attr_is_set('mtu') and vif.network.mtu:
        return vif.network.mtu
    return _DEFAULT_MTU


class Driver(abc.ABC):
    """Binds VIFs of one kind. Every method is idempotent."""

    @abc.abstractmethod
    def links(self, vif: osv_vif.VIFBase) -> Links:
        """The names of the VIF's links, whether they exist or not."""

    @abc.abstractmethod
    def create_links(self, vif: osv_vif.VIFBase, netns: str,
                     ifname: str) -> Links:
        """Make the links, down, hardened; the pod's end is in its netns.

        What an earlier attempt left is removed first.

        :param netns: path of the pod's network namespace.
        :param ifname: the pod's name of the interface, 'eth0' as a rule.
        :raises: exceptions.VIFNotSupported for a VIF that can't be bound,
            with what to configure.
        """

    @abc.abstractmethod
    def plug(self, vif: osv_vif.VIFBase, pod_uid: str, pod_name: str) -> None:
        """Bring the host's links up and plug the VIF into the switch."""

    @abc.abstractmethod
    def wait_wired(self, vif: osv_vif.VIFBase, deadline: float) -> None:
        """Wait until the switch reports the port wired.

        :param deadline: time.monotonic() at which to give up.
        :raises: exceptions.VIFNotWired with who should have done it.
        """

    @abc.abstractmethod
    def unplug(self, vif: osv_vif.VIFBase, pod_uid: str,
               pod_name: str) -> None:
        """Take the VIF out of the switch and remove every link of it."""

    @abc.abstractmethod
    def found_links(self) -> set[Links]:
        """Links of this driver's making that exist, each whole or in part."""

    @abc.abstractmethod
    def remove_links(self, links: Links) -> None:
        """Remove links, and their port in the switch, without their VIF."""

    @abc.abstractmethod
    def plugged(self) -> set[str]:
        """Ids of the Neutron ports that the switch of this node holds."""

    @abc.abstractmethod
    def check(self, vif: osv_vif.VIFBase) -> Optional[str]:
        """None if all is as plug left it, else what is wrong."""
