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
from typing import Mapping, NamedTuple, Optional

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


class Judgement(NamedTuple):
    """What an interface is judged by.

    :ivar ingress: number of the ruleset; egress likewise.
    :ivar fastpath: whether the local hop may be taken.
    :ivar reason: why everything is denied, if it is against the view.
    """

    ingress: int
    egress: int
    fastpath: bool = False
    reason: Optional[str] = None


_INACTIVE = Judgement(rows.RULESET_NONE, rows.RULESET_NONE)
_UNKNOWN = Judgement(rows.RULESET_DENY, rows.RULESET_DENY)


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

    def judge(self, locals_: Mapping[int, Local]
              ) -> dict[int, Judgement]:
        """Judge interfaces, in the order of their numbers.

        What an earlier process made active stays as it is until there is a
        view, and is left out.
        """
        return {number: self._judge(locals_[number])
                for number in sorted(locals_)
                if self.view is not None or not locals_[number].active}

    def _judge(self, local):
        if not local.active:
            return _INACTIVE
        deny = rows.RULESET_DENY
        if not self.knows(local):
            return _UNKNOWN
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
                return Judgement(deny, deny, endpoint.fastpath,
                                 self.refused[name])
        return Judgement(*numbers, endpoint.fastpath)


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
             judged: Mapping[int, Judgement]) -> list[rows.Write]:
        """Writes for endpoints whose ruleset was refused.

        They come before everything else.
        """
        writes = []
        for number, judgement in judged.items():
            if judgement.reason is None:
                continue
            known = self._endpoints.get(number)
            row, _ = self._rows(locals_[number], judgement)
            if known and known != row:
                self._endpoints[number] = row
                writes.append(rows.Write(rows.ENDPOINT, number, row))
        return writes

    def flip(self, locals_: Mapping[int, Local],
             judged: Mapping[int, Judgement]
             ) -> tuple[list[rows.Write], bool]:
        """Writes that bring endpoints under what judges them.

        :returns: the writes, endpoints first; and whether an endpoint that
            already judged judges by something else now.
        """
        writes = []
        rejudge = False
        found = {}
        for number, judgement in judged.items():
            row, of_addresses = self._rows(locals_[number], judgement)
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

    def _rows(self, local, judgement):
        """The row of an endpoint, and those of its addresses."""
        made = self._made.get(local.number)
        if made is None or made[0] is not local or made[1] != judgement:
            made = local, judgement, self._row(
                local, judgement), self._local_rows(local)
            self._made[local.number] = made
        return made[2], made[3]

    def _row(self, local, judgement):
        return rows.EndpointRow(
            self._spaces[4], self._spaces[6], judgement.ingress,
            judgement.egress, local.mac, local.addresses, local.kc, local.kq,
            local.network, local.gateway_macs, judgement.fastpath)

    def _local_rows(self, local):
        row = rows.LocalRow(local.number, local.kc, local.mac)
        return {rows.LocalKey(self._spaces[rows.family(address)],
                              address): row
                for address in local.addresses}
