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

from typing import Iterable


class Owners:
    """Claims of addresses."""

    def __init__(self):
        self._claims: dict[str, dict[str, tuple]] = {}
        self._claimed: dict[str, tuple[str, ...]] = {}

    def claim(self, owner: str, addresses: Iterable[str],
              rank: tuple) -> set[str]:
        """Replace an owner's claims; none: it is forgotten.

        :returns: all owners whose addresses may have changed by it.
        """
        affected = {owner}
        for address in self._claimed.pop(owner, ()):
            claims = self._claims[address]
            del claims[owner]
            affected.update(claims)
            if not claims:
                del self._claims[address]
        addresses = tuple(addresses)
        for address in addresses:
            claims = self._claims.setdefault(address, {})
            affected.update(claims)
            claims[owner] = rank
        if addresses:
            self._claimed[owner] = addresses
        return affected

    def owned(self, owner: str) -> tuple[str, ...]:
        """Addresses that an owner has, sorted."""
        return tuple(sorted(
            address for address in self._claimed.get(owner, ())
            if self._has(owner, address)))

    def _has(self, owner, address):
        claims = self._claims[address]
        return len(claims) == 1 or max(claims, key=claims.get) == owner
