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

"""How often Python looks for garbage in a process that keeps a cluster.

What is known of a big cluster is millions of objects that stay, and none of
them in cycles. Python's collector walks them again and again: a quarter of the
time of a change in a controller of 10,000 pods, and tenths of a second in the
middle of a change in an agent.
"""

import gc

#: Objects made until the youngest are looked at: ten thousands are made of a
#: page of a list.
_YOUNG = 50_000


def tune() -> None:
    """Look seldom; at the start of the process."""
    gc.set_threshold(_YOUNG, 20, 20)


def settle() -> None:
    """Look no more at what is there now; when all is known."""
    gc.collect()
    gc.freeze()
