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

"""Objects that are no longer as their schema asks."""

import json

JUNK = (None, True, False, 0, -1, 1, 65536, 2 ** 80, 1.5, -1e308, '', 'x',
        '0', '080', '/', '10.0.0.0/33', '::ffff:10.0.0.0/104', '%s%n', '\0',
        '\ud800', '9' * 5000, 'k8s:', 'reserved:host', '$host', '*', [], {},
        [[]], [{}], [None], {'': {}}, {'matchLabels': {'': ''}}, [1] * 1000,
        {'x' * 5000: 1})


def structure(value, rng):
    """Replace, drop, rename, repeat or wrap some parts."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = list(_places(value))
        if not places:
            return value
        holder, key = rng.choice(places)
        way = rng.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[rng.choice(('more', '', 'from', 'to', 'ports', 'spec',
                               str(key).upper()))] = holder.pop(key)
        elif way == 2:
            holder[key] = [holder[key]]
        elif way == 3:
            holder[key] = {'spec': holder[key]}
        elif way == 4 and isinstance(holder, list):
            holder.extend(json.loads(json.dumps([holder[key]])) * 3)
        else:
            holder[key] = json.loads(json.dumps(rng.choice(JUNK)))
    return value


def nested(rng):
    """What is deep: nothing of a policy is."""
    value = rng.choice(JUNK)
    for _ in range(rng.choice((1, 10, 100))):
        value = rng.choice(([value], {'spec': value}, {
            'matchExpressions': [value]}))
    return {rng.choice(('spec', 'specs')): value}


def text(value, rng):
    """Change characters of the JSON; whatever can still be read."""
    before = json.dumps(value)
    for _ in range(20):
        chars = list(before)
        for _ in range(rng.choice((1, 2, 8))):
            place = rng.randrange(len(chars))
            way = rng.randrange(4)
            if way == 0:
                chars[place] = rng.choice('{}[]",:0123456789.-eaZ /\\ntf')
            elif way == 1 and len(chars) > 1:
                del chars[place]
            elif way == 2:
                chars[place:place] = chars[place:place + rng.randrange(40)]
            else:
                del chars[place:place + rng.randrange(8)]
            if not chars:
                break
        try:
            found = json.loads(''.join(chars))
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {'spec': before}


def _places(value):
    stack = [value]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(
            len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                stack.append(holder[key])
