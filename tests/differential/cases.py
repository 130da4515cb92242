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

"""A case: API objects and changes of them; as JSON, and in the world."""

import dataclasses
import json

from kuryr_cilium.policy import oracle

#: What is known by its name in the world, not by its UID.
_NAMED = ('Namespace', 'Node')
_METHODS = {'Namespace': 'namespace', 'Node': 'node', 'Pod': 'pod',
            'Service': 'service', 'EndpointSlice': 'slice'}


@dataclasses.dataclass
class Case:
    """A cluster and what happens to it.

    :ivar objects: (kind, object).
    :ivar changes: (kind, key, object), an object of None deletes.
    """

    objects: list
    changes: list

    def present(self):
        """The objects at the beginning, by (kind, key)."""
        return {(kind, key(kind, obj)): obj for kind, obj in self.objects}

    def states(self):
        """The objects at the beginning and after each change."""
        present = self.present()
        yield dict(present)
        for item in self.changes:
            change(present, *item)
            yield dict(present)

    def dumps(self):
        return json.dumps(dataclasses.asdict(self), indent=1,
                          sort_keys=True) + '\n'


def loads(text):
    """The case of a JSON text."""
    found = json.loads(text)
    return Case([tuple(item) for item in found['objects']],
                [tuple(item) for item in found['changes']])


def key(kind, obj):
    """What an object of a kind is known by."""
    return obj['metadata']['name' if kind in _NAMED else 'uid']


def change(present, kind, known_by, obj):
    """Take over one change."""
    if obj is None:
        present.pop((kind, known_by), None)
    else:
        present[kind, known_by] = obj


def tell(world, kind, known_by, obj):
    """Tell a world of one change; what it says changed in views."""
    if kind in _METHODS:
        if obj is None:
            return getattr(world, 'delete_' + _METHODS[kind])(known_by)
        return getattr(world, 'set_' + _METHODS[kind])(obj)
    if obj is None:
        return world.delete_policy(known_by)
    return world.set_policy(kind, obj)


def of_kind(present, kind):
    """The objects of one kind."""
    return [obj for (its, _), obj in present.items() if its == kind]


def truth(present):
    """The oracle's cluster of these objects."""
    return oracle.Cluster(
        pods=of_kind(present, 'Pod'),
        namespaces=of_kind(present, 'Namespace'),
        nodes=of_kind(present, 'Node'),
        services=of_kind(present, 'Service'),
        slices=of_kind(present, 'EndpointSlice'),
        policies={kind: of_kind(present, kind) for kind in oracle.KINDS})
