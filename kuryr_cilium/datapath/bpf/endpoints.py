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

"""The endpoints of this node in the maps: rows and flips; pure."""

import dataclasses
from typing import Mapping, Optional

from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import model


@dataclasses.dataclass(frozen=True, slots=True)
class Local:
    """An interface on this node.

    :ivar number: of the endpoint in the datapath.
    :ivar kc: ifindex of the pod's host veth.
    :ivar kq: ifindex of the veth that leads into the switch.
    :ivar network: node-local number of the Neutron network.
    :ivar active: judged by the view; otherwise it drops everything.
    """

    number: int
    uid: str
    vif_id: str
    kc: int
    kq: int
    mac: str
    addresses: tuple[str, ...]
    network: int
    gateway_macs: tuple[str, ...] = ()
    active: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Judges:
    """What judges endpoints now.

    :ivar numbers: ruleset id -> number, of the rulesets in force.
    :ivar refused: ruleset id -> why it is not in force.
    """

    view: Optional[model.View] = None
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def knows(self, local: Local) -> bool:
        """Whether the view has an endpoint for an interface."""
        endpoint = self.view.endpoints.get(local.uid)
        return endpoint is not None and endpoint.vif_id == local.vif_id

    def of(self, local: Local) -> tuple[int, int, bool, Optional[str]]:
        """Judge an interface.

        :returns: numbers of the rulesets of both directions, whether the
            local hop may be taken, and why everything is denied if it is
            against the view.
        """
        if not local.active:
            return rows.RULESET_NONE, rows.RULESET_NONE, False, None
        deny = rows.RULESET_DENY
        if not self.knows(local):
            return deny, deny, False, None
        endpoint = self.view.endpoints[local.uid]
        numbers = []
        for name in (endpoint.ingress, endpoint.egress):
            if name == model.ALLOW_ALL:
                numbers.append(rows.RULESET_ALLOW)
            elif name == model.DENY_ALL:
                numbers.append(deny)
            elif name in self.numbers:
                numbers.append(self.numbers[name])
            else:
                return deny, deny, endpoint.fastpath, self.refused[name]
        return *numbers, endpoint.fastpath, None


class Endpoints:
    """The rows of kc_endpoint and kc_local of one generation.

    :param spaces: address family (4, 6) -> number.
    """

    def __init__(self, spaces: Mapping[int, int]):
        self._spaces = spaces
        self._endpoints: dict[int, rows.EndpointRow] = {}
        self._locals: dict[rows.LocalKey, rows.LocalRow] = {}
        # Number -> what its rows were made of, and they: most stay the same
        # from one view to the next.
        self._made: dict[int, tuple] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._endpoints

    def tables(self) -> dict[tuple, tuple]:
        """(table, key) -> value."""
        found: dict[tuple, tuple] = {
            (rows.ENDPOINT, key): row
            for key, row in self._endpoints.items()}
        for key, row in self._locals.items():
            found[rows.LOCAL, key] = row
        return found

    def deny(self, locals_: Mapping[int, Local],
             judges: Judges) -> list[rows.Write]:
        """Writes for endpoints whose ruleset was refused.

        They come before everything else.
        """
        writes = []
        for number, local in sorted(locals_.items()):
            known = self._endpoints.get(number)
            row, reason, _ = self._rows(local, judges)
            if reason and known and known != row:
                self._endpoints[number] = row
                writes.append(rows.Write(rows.ENDPOINT, number, row))
        return writes

    def flip(self, locals_: Mapping[int, Local],
             judges: Judges) -> tuple[list[rows.Write], bool]:
        """Writes that bring all endpoints under what judges them.

        :returns: the writes, endpoints first; and whether an endpoint that
            already judged judges by something else now.
        """
        writes = []
        rejudge = False
        found = {}
        for number, local in sorted(locals_.items()):
            if local.active and judges.view is None:
                # An earlier process made it active: stays as it is.
                continue
            row, _, of_addresses = self._rows(local, judges)
            if row.judges:
                # Of two with one address the younger has it.
                found.update(of_addresses)
            known = self._endpoints.get(number)
            if known != row:
                rejudge |= bool(known and known.judges)
                self._endpoints[number] = row
                writes.append(rows.Write(rows.ENDPOINT, number, row))
        writes += [rows.Write(rows.LOCAL, key, row)
                   for key, row in found.items()
                   if self._locals.get(key) != row]
        writes += [rows.Write(rows.LOCAL, key)
                   for key in self._locals.keys() - found.keys()]
        self._locals = found
        for number in self._endpoints.keys() - locals_.keys():
            del self._endpoints[number]
            self._made.pop(number, None)
            writes.append(rows.Write(rows.ENDPOINT, number))
        return writes, rejudge

    def _rows(self, local, judges):
        """The row of an endpoint, why it denies, rows of its addresses."""
        judged = judges.of(local)
        made = self._made.get(local.number)
        if made is None or made[0] is not local or made[1] != judged:
            made = local, judged, self._row(local, judged), self._local_rows(
                local)
            self._made[local.number] = made
        return made[2], judged[3], made[3]

    def _row(self, local, judged):
        ingress, egress, fastpath, _ = judged
        return rows.EndpointRow(
            self._spaces[4], self._spaces[6], ingress, egress, local.mac,
            local.addresses, local.kc, local.kq, local.network,
            local.gateway_macs, fastpath)

    def _local_rows(self, local):
        row = rows.LocalRow(local.number, local.kc, local.mac)
        return {rows.LocalKey(self._spaces[rows.family(address)],
                              address): row
                for address in local.addresses}
