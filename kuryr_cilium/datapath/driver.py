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

"""The interface of a datapath: what an agent asks of a policy driver.

A driver keeps two things: what is attached (the host's ends of a pod's
links) and what is in force (the last view). It never lets a packet of an
attached pod pass before :meth:`Driver.activate` has returned.
"""

import abc
import dataclasses
from typing import Iterable, Iterator, Mapping, Optional

from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.policy import model


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's interface as the host sees it.

    :ivar vif_id: id of the Neutron port; the key of an attachment.
    :ivar uid: UID of the pod in the API, the key of its model.Endpoint.
    :ivar kc: host end of the veth pair whose other end is the pod's.
    :ivar kq: host end of the veth pair that leads into the switch.
    :ivar mac: the pod's MAC address.
    :ivar addresses: the pod's canonical addresses, at most 8.
    :ivar network_id: id of the Neutron network.
    :ivar gateway_macs: MAC addresses of the network's gateways, if known.
    :ivar netns: path of the pod's network namespace, if known: connections
        that its sockets ask of services are led to backends at once.
    """

    vif_id: str
    uid: str
    kc: str
    kq: str
    mac: str
    addresses: tuple[str, ...]
    network_id: str
    gateway_macs: tuple[str, ...] = ()
    netns: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What became of a view.

    :ivar epoch: the node's policy epoch after it.
    :ivar denied: pod UID -> why its endpoint was set to deny everything
        (a limit was exceeded).
    """

    epoch: int
    denied: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class FlowEvent:
    """A first verdict or a drop, as the datapath saw it.

    :ivar time: seconds since the epoch (UTC).
    :ivar uid: UID of the pod judged; '' if no endpoint was found.
    :ivar direction: 'ingress' or 'egress' as the pod sees it.
    :ivar verdict: 'allow' or 'drop'.
    :ivar reason: name of the drop reason ('' when allowed).
    :ivar protocol: IANA number; 0 where there is none (ARP, other frames).
    :ivar rule: names of the policies of the deciding group, if any.
    :ivar service: id of the service that it was sent to, '' for none; the
        destination is the backend.
    """

    time: float
    uid: str
    direction: str
    verdict: str
    reason: str
    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    rule: tuple[str, ...] = ()
    service: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """How what is loaded judges a packet.

    :ivar class_: number of the peer's class on this node.
    :ivar entity: 'pod', 'host', 'remote-node' or 'world'.
    :ivar prefix: the block by which the peer was found; '' if it was found
        by its address, or by nothing.
    :ivar ruleset: number on this node.
    :ivar ruleset_id: '' if the last view does not tell.
    :ivar bit: number of the deciding group, None if none decided.
    :ivar verdict: 'allow'; 'deny' if something denies it; 'drop' if nothing
        allows it.
    :ivar reason: name of the drop reason; 'own-node' if it is allowed
        because the node itself sends it; '' if a rule allows it.
    :ivar rule: names of what the deciding group was made of.
    :ivar tier: of the deciding group, '' if none decided.
    """

    uid: str
    direction: str
    peer: str
    protocol: int
    port: Optional[int]
    class_: int
    entity: str
    prefix: str
    ruleset: int
    ruleset_id: str
    bit: Optional[int]
    verdict: str
    reason: str
    rule: tuple[str, ...] = ()
    tier: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Entries:
    """What a ruleset costs on this node.

    :ivar ruleset: number on this node.
    :ivar ruleset_id: '' if the last view does not tell.
    :ivar direction: '' likewise.
    :ivar endpoints: UIDs of the pods that it judges.
    :ivar groups: rows of rule groups; ports, peers: likewise.
    """

    ruleset: int
    ruleset_id: str
    direction: str
    endpoints: tuple[str, ...]
    groups: int
    ports: int
    peers: int


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A service that is asked.

    :ivar service: its id, '' if it is not known.
    :ivar backends: (address, port); none: who asks is refused.
    """

    service: str
    backends: tuple[tuple[str, int], ...]


class Driver(abc.ABC):
    """Enforces views on attached interfaces.

    Methods may be called from several threads; a driver has one writer.
    """

    @abc.abstractmethod
    def start(self, node_addresses: Iterable[str],
              node_ips: Iterable[str] = ()) -> None:
        """Take over what an earlier process left in force, or begin anew.

        :param node_addresses: every address of this node: its own traffic
            to its pods is allowed, its pods' traffic to them is judged as
            the entity host.
        :param node_ips: under which of them it sends to other nodes what
            comes from outside to services; one of each family.
        :raises: exceptions.DatapathError with what to do, if the kernel
            lacks something.
        """

    @abc.abstractmethod
    def attach(self, attachment: Attachment) -> None:
        """Make both links drop everything; they exist and are down.

        Idempotent: a second call, also of another process after a crash,
        leaves one attachment that drops everything.
        """

    @abc.abstractmethod
    def adopt(self, attachment: Attachment) -> bool:
        """Take over what an earlier process attached and activated.

        An agent calls this after :meth:`start` and before :meth:`apply` for
        each interface that its records name as ready. No packet is dropped
        for it: what the earlier process put in force stays in force until
        the first apply().

        :returns: True if everything was found: the interface is attached
            and active. False if something is missing (the node was
            rebooted, a link is another one than it was): then nothing was
            changed, and attach() and activate() make it anew.
        """

    @abc.abstractmethod
    def activate(self, vif_id: str) -> None:
        """Judge an attached interface by the last view from now on.

        :raises: exceptions.EndpointUnknown if the last synced view has no
            endpoint for it.
        """

    @abc.abstractmethod
    def detach(self, vif_id: str) -> None:
        """Forget an attachment with all entries and links. Idempotent."""

    @abc.abstractmethod
    def attachments(self) -> Mapping[str, Attachment]:
        """What this process attached or adopted, by vif_id."""

    @abc.abstractmethod
    def apply(self, view: model.View) -> Applied:
        """Bring a view in force, on open connections too."""

    @abc.abstractmethod
    def serve(self, found: Mapping[str, lb_model.Service],
              node: lb_model.Node, nodes: frozenset[str]
              ) -> Mapping[str, str]:
        """Lead what pods, and the node, send to services to their backends.

        Open connections keep theirs.

        :param found: all services, by id.
        :param node: this node.
        :param nodes: addresses on which there are node ports.
        :returns: id of a service -> why it is refused (a limit).
        """

    @abc.abstractmethod
    def conflicts(self) -> Mapping[str, str]:
        """Services that want an address that another one has: id -> why."""

    @abc.abstractmethod
    def backends(self, address: str, port: int, protocol: int
                 ) -> Optional[Asked]:
        """Who gets what pods send to an address, by what is really loaded.

        :param address: canonical.
        :param protocol: IANA number.
        :returns: None if it is no service's.
        :raises: ValueError that names what is not a valid argument.
        """

    @abc.abstractmethod
    def events(self) -> Iterator[FlowEvent]:
        """Events as they come; ends when the driver is stopped."""

    @abc.abstractmethod
    def drops(self) -> Mapping[str, int]:
        """Packets dropped since start of the datapath, by reason name."""

    @abc.abstractmethod
    def connections(self) -> Mapping[str, int]:
        """How many connections are open, by UID of what is attached."""

    @abc.abstractmethod
    def explain(self, uid: str, direction: model.Direction, peer: str,
                protocol: int, port: Optional[int] = None) -> Explanation:
        """Judge a connection's first packet by what is really loaded.

        :param peer: the other end's address, canonical.
        :param protocol: IANA number.
        :param port: destination port; of ICMP and ICMPv6
            ``type << 8 | code``.
        :raises: exceptions.NotFound if nothing is attached for the
            pod; ValueError that names what is not a valid argument.
        """

    @abc.abstractmethod
    def entries(self) -> list[Entries]:
        """Count what is really loaded, by ruleset."""

    @abc.abstractmethod
    def sweep(self) -> None:
        """Remove expired connections and what belongs to nothing.

        Before the first apply() only connections: what an earlier process
        attached may still be adopted. After it, what was neither attached
        nor adopted is removed.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """End threads and close files; what is in force stays in force."""
