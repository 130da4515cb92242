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

"""Points at which tests make a process die, as power cuts and bugs do."""

import os
import signal

_VARIABLE = 'KURYR_CILIUM_FAULT_POINT'


def point(name: str) -> None:
    """Die at once if the environment names this point; else do nothing.

    :param name: what has just been done, as in agent/plug.py.
    """
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
