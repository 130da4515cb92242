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

"""Random cases until so many packets are judged, the same for each seed."""

import contextlib
import io
import random
import time

import hypothesis
from hypothesis import strategies as st

from tests.differential import check
from tests.unit.policy import strategies_policies
from tests.unit.policy import strategies_worlds

#: Own addresses of the nodes that have pods.
OWN = {name: frozenset(strategies_policies.NODE_ADDRESSES[name])
       for name in strategies_worlds.HOSTS}

_EXAMPLES = 20


class Found(Exception):
    """A difference.

    :ivar case: the smallest one that has it.
    """

    def __init__(self, case, error):
        super().__init__(str(error))
        self.case = case


class _Enough(BaseException):
    """Ends a round of hypothesis at once: no failure, which it would catch."""


class Search:
    """Runs cases.

    :param seed: the same one gives the same cases.
    :param count: what counts decisions: it has ``full``.
    :param strategy: of cases, which have dumps().
    :param check: called with a case, a number to be random by, the count
        and, while a case that differs is made smaller, the one question to
        ask; raises, if possible with a ``question``.
    :param progress: called with the count now and then.
    """

    def __init__(self, seed, count, strategy, check, progress=None):
        self._seeds = random.Random(seed)
        self.count = count
        self._strategy = strategy
        self._check = check
        self._progress = progress or (lambda count: None)
        self._smallest = None
        self._question = None
        self._told = time.monotonic()

    def run(self):
        """Judge packets.

        :raises: Found with the first difference.
        """
        while not self.count.full:
            self._some(self._seeds.getrandbits(64))

    def _some(self, seed):
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=_EXAMPLES, deadline=None, database=None,
            print_blob=False, report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink))
        @hypothesis.given(self._strategy, st.integers(0, 1 << 32))
        def examples(case, salt):
            self._one(case, salt)

        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                examples()
        except _Enough:
            return
        except Exception:
            if self._smallest is None:
                raise
            case, error = self._smallest
            raise Found(case, error) from error

    def _one(self, case, salt):
        if self.count.full:
            raise _Enough
        try:
            if self._smallest is None:
                self._check(case, salt, self.count, None)
            else:
                # What is smaller shall have the same difference.
                self._check(case, salt, type(self.count)(), self._question)
        except Exception as error:
            if self._smallest is None:
                self._question = getattr(error, 'question', None)
            if self._smallest is None or len(case.dumps()) <= len(
                    self._smallest[0].dumps()):
                self._smallest = case, error
            raise
        if time.monotonic() > self._told + 5:
            self._told = time.monotonic()
            self._progress(self.count)


def policies(seed, decisions, nodes=None, sample=100, between=16,
             progress=None, kinds=strategies_policies.KINDS, **more):
    """A Search for differences about policies.

    :param decisions: how many packets are to be judged.
    :param nodes: as check.Check has them.
    """
    def run(case, salt, count, question):
        also = more if question is None else {**more, 'only': question}
        check.Check(strategies_worlds.HOSTS, nodes, sample, between, count,
                    **also).run(case, salt)

    return Search(seed, check.Count(limit=decisions),
                  strategies_worlds.worlds(kinds), run, progress)
