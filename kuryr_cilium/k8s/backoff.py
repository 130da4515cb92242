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

"""How long to wait before trying again."""

import random


class Backoff:
    """Jittered exponential delays.

    :param first: seconds, about, after the first failure.
    :param longest: seconds that no delay exceeds.
    """

    def __init__(self, first, longest):
        self._first = first
        self._longest = longest
        self.failures = 0

    def next(self):
        """Count a failure; returns the seconds to wait.

        Between half and the whole of what doubles with each failure, so
        that many clients of one server do not come back together.
        """
        whole = min(self._longest,
                    self._first * 2 ** min(self.failures, 30))
        self.failures += 1
        return whole * random.uniform(0.5, 1)

    def reset(self):
        """Count from the beginning again."""
        self.failures = 0
