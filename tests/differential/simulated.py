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

"""The planner's writes on maps in memory, read as the programs read them."""

import dataclasses

from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.policy import model
from tests.differential import reader
from tests.unit.datapath import sim


class Node:
    """A planner, and the maps that its plans make.

    In the middle of a change it is asked after each single write.

    :param own: addresses of the node.
    """

    def __init__(self, own):
        self._own = own
        self.reset()

    def reset(self):
        """Forget everything: the next case has pods of the same UIDs."""
        self._planner = plan.Planner(sim.allocator())
        self._maps = sim.Maps()
        self._numbers = {}
        self._next = 1

    def apply(self, view, after_step=None):
        """Bring a view in force, then plug and unplug its pods."""
        self._carry_out(self._planner.plan(view, self._locals(), self._own),
                        after_step)
        for uid in self._numbers.keys() - view.endpoints.keys():
            del self._numbers[uid]
        for uid, endpoint in view.endpoints.items():
            if uid not in self._numbers:
                self._numbers[uid] = dataclasses.replace(
                    sim.make_local(self._next, uid),
                    vif_id=endpoint.vif_id, addresses=endpoint.addresses)
                self._next += 1
        self._carry_out(self._planner.settle(self._locals()))

    def _locals(self):
        return {local.number: local for local in self._numbers.values()}

    def _carry_out(self, planned, after_step=None):
        assert not planned.denied, planned.denied
        for step in planned.walk():
            for write in step.writes:
                self._maps.write(write)
                if after_step is not None:
                    after_step(step.phase)

    def knows(self, uid):
        return uid in self._numbers

    def judge(self, question):
        if question.direction == 'ingress' and question.peer in self._own:
            # The program lets pass what the node itself sends.
            return reader.Read(True)
        found = sim.read(lambda: self._maps,
                         self._numbers[question.uid].number,
                         question.direction, question.peer,
                         question.protocol, question.port or 0)
        return reader.Read(found == model.Verdict.ALLOW.value)

    def check_drops(self):
        """There are none for other reasons here."""
