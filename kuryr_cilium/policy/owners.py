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

"""Who has an address, when several claim it.

An address may be given to a new pod before the deletion of the old one is
seen, and deletions may come after creations. So every claim is kept by its
owner's UID, and the one of the highest rank has the address.
"""

from typing import Iterable, Mapping, Optional


class Owners:
    """Claims of addresses."""

    def __init__(self):
        self._claims: dict[str, dict[str, tuple]] = {}
        self._claimed: dict[str, tuple[str, ...]] = {}
        self._owner: dict[str, str] = {}

    def claim(self, owner: str, addresses: Iterable[str], rank: tuple
              ) -> Mapping[str, tuple[Optional[str], Optional[str]]]:
        """Replace an owner's claims; none: it is forgotten.

        :returns: addresses that change hands -> (former owner, new owner).
        """
        before = self._claimed.pop(owner, ())
        addresses = tuple(addresses)
        if addresses:
            self._claimed[owner] = addresses
        for address in before:
            del self._claims[address][owner]
        for address in addresses:
            self._claims.setdefault(address, {})[owner] = rank
        moved = {}
        for address in dict.fromkeys((*before, *addresses)):
            claims = self._claims[address]
            old = self._owner.get(address)
            new = max(claims, key=claims.get) if claims else None
            if new is None:
                del self._claims[address]
                self._owner.pop(address, None)
            else:
                self._owner[address] = new
            if new != old:
                moved[address] = old, new
        return moved

    def owner(self, address: str) -> Optional[str]:
        """Who has an address."""
        return self._owner.get(address)

    def owned(self, owner: str) -> tuple[str, ...]:
        """Addresses that an owner has, sorted."""
        return tuple(sorted({
            address for address in self._claimed.get(owner, ())
            if self._owner.get(address) == owner}))
