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

"""Runs a case: the oracle against everything that was made of the objects."""

import dataclasses
import random
from typing import Callable, Optional

from kuryr_cilium.policy import world as policy_world
from tests.differential import cases
from tests.differential import questions
from tests.differential import reader

#: What no rule decides is compared one time in so many.
_OFTEN = 4


class Difference(AssertionError):
    """Somebody judges a packet otherwise than the oracle.

    :ivar question: the packet.
    """

    def __init__(self, question, message):
        super().__init__(message)
        self.question = question


@dataclasses.dataclass
class Count:
    """How much was compared.

    :ivar decisions: packets that all agree about.
    :ivar between: packets that were judged in the middle of a change.
    :ivar limit: no more decisions than this; None: all.
    """

    decisions: int = 0
    between: int = 0
    states: int = 0
    limit: Optional[int] = None

    @property
    def full(self):
        return self.limit is not None and self.decisions >= self.limit


class Check:
    """Compares the states of a case, one after the other.

    :param hosts: nodes whose pods are asked.
    :param nodes: name -> kernel.Node or simulated.Node, which judge by what
        is in their maps; none: only the tables are read.
    :param sample: about how many packets a state; None: all.
    :param between: packets after each step of a change.
    :param only: the one packet that is asked.
    """

    def __init__(self, hosts, nodes=None, sample=None, between=0,
                 count=None, only=None, make_world=policy_world.World,
                 truth: Callable = cases.truth):
        self._hosts = hosts
        self._nodes = nodes or {}
        self._sample = sample
        self._between = between
        self._only = only
        self._make_world = make_world
        self._truth = truth
        self.count = count or Count()

    def run(self, case, seed=0):
        """Compare.

        :raises: Difference
        """
        for node in self._nodes.values():
            node.reset()
        world = self._make_world()
        for kind, obj in case.objects:
            cases.tell(world, kind, cases.key(kind, obj), obj)
        truth = None
        readers = {}
        changed = set(self._hosts)
        states = case.states()
        for number, present in enumerate(states):
            if number:
                changed = cases.tell(world, *case.changes[number - 1]).hosts
            before, truth = truth, self._truth(present)
            self._bring(world, present, before, truth, readers, changed,
                        (seed, number))
            self._compare(present, truth, readers, (seed, number))
            self.count.states += 1
            if self.count.full:
                return

    def _bring(self, world, present, before, truth, readers, changed, seed):
        """Bring the views in force where something is said to be changed."""
        for host in self._hosts:
            if host not in changed:
                continue
            view = reader.view_of(world, host)
            old = readers.get(host)
            readers[host] = reader.Reader(
                view, reader.own_addresses(present, host))
            node = self._nodes.get(host)
            if node is None:
                continue
            after_step, wrong = None, []
            if self._between and old is not None and before is not None:
                after_step = self._watch(node, old, readers[host], before,
                                         truth, present, host, seed, wrong)
            node.apply(view, after_step)
            if wrong:
                raise wrong[0]

    def _watch(self, node, old, new, before, truth, present, host, seed,
               wrong):
        """A function that asks in the middle of a change.

        Differences are noted: a change that is broken off would leave what
        is in force unknown.
        """
        pods = [{cases.key('Pod', pod): pod for pod in cluster.pods}
                for cluster in (before, truth)]
        space = questions.Space(present, (host,))
        chosen = space.some(self._between, repr(('between', seed)))
        if self._only is not None:
            chosen = self._one_of(space)
        asked = [
            (question, {cluster.judge(
                known[question.uid], question.direction, question.peer,
                question.protocol, question.port).allowed
                for cluster, known in zip((before, truth), pods)})
            for question in chosen
            if all(judge.knows(question.uid) for judge in (old, new, node))]

        def ask(step):
            for question, verdicts in asked:
                found = node.judge(question).allowed
                if found not in verdicts:
                    wrong.append(Difference(
                        question, 'in step %s of the change before state %s: '
                        '%s is %s' % (step, seed[1], question, found)))
            self.count.between += len(asked)

        return ask

    def _compare(self, present, truth, readers, seed):
        pods = {cases.key('Pod', pod): pod for pod in truth.pods}
        space = questions.Space(present, self._hosts)
        asked = (space.everything() if self._sample is None
                 else space.some(_OFTEN * self._sample, repr(seed)))
        chosen = random.Random(repr(seed))
        if self._only is not None:
            asked = self._one_of(space)
        for question in asked:
            pod = pods[question.uid]
            host = pod['spec']['nodeName']
            wanted = truth.judge(pod, question.direction, question.peer,
                                 question.protocol, question.port)
            if (self._sample is not None and self._only is None and
                    not wanted.rules and chosen.randrange(_OFTEN)):
                # Most packets are decided by no rule.
                continue
            self._agree('compiled', wanted, question, readers[host], seed)
            node = self._nodes.get(host)
            if node is not None:
                self._agree('in force', wanted, question, node, seed)
            self.count.decisions += 1
            if self.count.full:
                break
        for node in self._nodes.values():
            node.check_drops()

    def _one_of(self, space):
        """The one packet that is asked, if its pod has its address."""
        return [self._only] if (
            self._only.uid, self._only.address) in space.subjects else []

    def _agree(self, who, wanted, question, judge, seed):
        if wanted.tier == 'Node' and who == 'compiled':
            # The program lets pass what the node itself sends.
            return
        if not judge.knows(question.uid):
            raise Difference(question, '%s, state %s: %s is not known' % (
                who, seed[1], question))
        found = judge.judge(question)
        if found.allowed != wanted.allowed:
            raise Difference(question, '%s, state %s: %s is %s, and not %s' % (
                who, seed[1], question, found, wanted))
        if found.names and wanted.rules and not set(
                found.names) & set(wanted.rules):
            raise Difference(
                question, '%s, state %s: %s is decided by %s, and not by %s'
                % (who, seed[1], question, found.names, wanted.rules))
