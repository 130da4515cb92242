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

"""Reading the fields of an API object that may be anything.

The API server checks most of this; an object that comes past an older or a
newer schema must still never open a hole.
"""

import contextlib
from typing import Any, Callable, Iterable, Iterator, Mapping

#: Of an unknown field's name so many characters are repeated.
_LONGEST = 64


class Problem(Exception):
    """Why a policy can't be expressed.

    :ivar field: path of the field, as ``spec.ingress[0].ports[1].port``.
    :ivar message: what is wrong and what to do, for the policy's author.
    """

    def __init__(self, field: str, message: str):
        super().__init__('%s: %s' % (field, message))
        self.field = field
        self.message = message

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Problem) and
                (self.field, self.message) == (other.field, other.message))

    def __hash__(self) -> int:
        return hash((self.field, self.message))


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    """An object; absent is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Problem(path, 'must be an object')
    return value


def items(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """The items of a list, each with its path; absent is empty."""
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        raise Problem(path, 'must be a list')
    for index, item in enumerate(value):
        yield item, '%s[%d]' % (path, index)


def text(value: Any, path: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise Problem(path, 'must be a string')
    return value


def number(value: Any, path: str, least: int, most: int) -> int:
    """A whole number within limits."""
    if (not isinstance(value, int) or isinstance(value, bool)
            or not least <= value <= most):
        raise Problem(path, 'must be a number from %d to %d' % (least, most))
    return value


def only(obj: Mapping[str, Any], path: str, known: Iterable[str]) -> None:
    """Refuse what isn't known: it might narrow what is allowed."""
    unknown = sorted(str(key) for key in obj if key not in known)
    if unknown:
        raise Problem('%s.%s' % (path, unknown[0][:_LONGEST]),
                      'is not known to kuryr-cilium: remove it, or write the '
                      'policy without it')


@contextlib.contextmanager
def noted(problems: list[Problem]) -> Iterator[None]:
    """Go on after a problem, with the problem on a list."""
    try:
        yield
    except Problem as problem:
        problems.append(problem)


def each(value: Any, path: str, problems: list[Problem],
         parse: Callable[[Any, str], Any]) -> list[Any]:
    """Parse the items of a list, each with its path.

    :param problems: takes what is wrong with some of them.
    :returns: the others.
    """
    found = []
    with noted(problems):
        for item, item_path in items(value, path):
            with noted(problems):
                if item is None:
                    # Not what is absent, which may mean everything.
                    raise Problem(item_path, 'is null: remove it')
                found.append(parse(item, item_path))
    return found
