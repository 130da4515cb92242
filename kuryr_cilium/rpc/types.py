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

"""Checks of what came over the wire."""

import ipaddress


def typed(value, cls):
    """A value that must be of a JSON type; bool is not taken for a number.

    :raises: ValueError
    """
    if not isinstance(value, cls) or (
            isinstance(value, bool) and cls is not bool):
        raise ValueError('%.64r is not of type %s' % (value, cls.__name__))
    return value


def text(wire, field):
    """A string that must be there."""
    return typed(wire[field], str)


def texts(values):
    """A list of strings, as a tuple."""
    return tuple(typed(value, str) for value in typed(values, list))


def network(value, field):
    """A network in canonical text.

    :param field: what it is called in errors.
    :raises: ValueError
    """
    try:
        canonical = str(ipaddress.ip_network(value))
    except ValueError:
        canonical = None
    if canonical != value or '%' in value:
        raise ValueError('%s %.64r is not a canonical network (as '
                         '10.0.0.0/8 or fd00::/8)' % (field, value))
    return value
