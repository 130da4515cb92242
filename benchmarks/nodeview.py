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

"""A large view of one node, and how it changes: wire forms."""

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import members
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects

PODS = 10000
NAMESPACES = 200
APPS = 500
NODES = 100
BLOCKS = 50
ENDPOINTS = 200
RULESETS = 20


def member(place):
    return model.Member('uid-%d' % place, (
        '10.%d.%d.%d' % (64 + place // 65536, place // 256 % 256,
                         place % 256), 'fd00:64::%x' % place))


class Cluster:
    """What the controller sends of it: wire forms by key."""

    def __init__(self):
        self.objects = {}
        self._members = members.Members()
        pods = [member(place) for place in range(PODS)]
        by_app, by_namespace = {}, {}
        for place, pod in enumerate(pods):
            by_app.setdefault(place % APPS, []).append(pod)
            by_namespace.setdefault(place % NAMESPACES, []).append(pod)
        for place, found in by_app.items():
            self.selector('app-%d' % place, found)
        for place, found in by_namespace.items():
            self.selector('namespace-%d' % place, found)
        self.selector(entities.CLUSTER, pods)
        self.selector(entities.REMOTE_NODE, [
            model.Member('node-%d' % place, ('192.0.2.%d' % (place + 1),),
                         entities.Entity.REMOTE_NODE)
            for place in range(NODES)])
        for place in range(BLOCKS):
            self.selector('block-%d' % place, (), model.Block(
                '10.%d.0.0/16' % (64 + place // 4),
                ('10.%d.%d.0/24' % (64 + place // 4, place),)))
        for place in range(RULESETS):
            self.ruleset('base-%d' % place, place)
        for place in range(ENDPOINTS):
            self.endpoint(place, 'base-%d' % (place % RULESETS))

    def put(self, obj):
        self.objects[objects.key(obj)] = objects.dump(obj)

    def selector(self, name, found, block=None):
        """A selector with its members, in the pieces that are sent."""
        self._members.hold(name, name, block)
        for peer in found:
            self._members.put(name, peer.uid, peer)
        for key in self._members.keys(name):
            self.put(self._members.piece(key))

    def add_member(self, name, peer):
        """One more member; the keys of what is sent of it."""
        keys = self._members.put(name, peer.uid, peer)
        for key in keys:
            self.put(self._members.piece(key))
        return keys

    def ruleset(self, name, place, *more):
        """What one application's endpoints are judged by."""
        def group(verdict, *peers, port=None, priority=0):
            return model.RuleGroup(
                model.Tier.NETWORK_POLICY, priority, verdict,
                frozenset(peers), port and frozenset((
                    model.PortRange(6, port, port),)))

        groups = [group(model.Verdict.ALLOW, 'app-%d' % app, port=8000 + app)
                  for app in range(place, APPS, APPS // 5)]
        groups += [group(model.Verdict.ALLOW, 'namespace-%d' % number,
                         port=9000)
                   for number in range(place, NAMESPACES, NAMESPACES // 2)]
        groups += [group(model.Verdict.DENY, 'block-%d' % number)
                   for number in range(place, BLOCKS, BLOCKS // 2)]
        groups += [group(model.Verdict.ALLOW, entities.CLUSTER, port=53)]
        groups += more
        self.put(model.RuleSet(
            name, model.Direction.INGRESS, tuple(groups),
            tuple(('NetworkPolicy/ns/%s ingress[%d]' % (name, number),)
                  for number in range(len(groups)))))

    def endpoint(self, place, ingress):
        self.put(model.Endpoint(
            'local-%d' % place, 'ns', 'local-%d' % place, 'node',
            'vif-%d' % place, '02:00:00:00:%02x:%02x' % divmod(place, 256),
            'net', ('10.9.0.%d' % place,), ingress, model.ALLOW_ALL))

    def policy(self, number, rulesets):
        """What a policy changes that comes and goes.

        It selects those endpoints that some rulesets judge.

        :param rulesets: how many of RULESETS.
        :returns: twice wire forms that change, and keys of those that go.
        """
        places = [place for place in range(ENDPOINTS)
                  if place % RULESETS < rulesets]
        endpoints_ = ['endpoint:local-%d' % place for place in places]
        bases = ['ruleset:base-%d' % place for place in range(rulesets)]
        before = {key: self.objects[key] for key in (*endpoints_, *bases)}
        known = set(self.objects)
        name = 'new-%d' % number
        self.selector(name, [
            member(place) for place in range(number, PODS, 97)])
        more = model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
            frozenset((name,)), frozenset((model.PortRange(6, 443, 443),)))
        for place in range(rulesets):
            self.ruleset('policy-%d-%d' % (number, place), place, more)
        for place in places:
            self.endpoint(place, 'policy-%d-%d' % (number, place % RULESETS))
        new = self.objects.keys() - known
        changed = {key: self.objects[key] for key in (*new, *endpoints_)}
        self._members.drop(name)
        for key in new:
            del self.objects[key]
        self.objects.update(before)
        return (changed, bases), (before, new)
