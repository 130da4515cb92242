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

from hypothesis import stateful
from hypothesis import strategies as st

from kuryr_cilium.controller import pods
from kuryr_cilium.controller import releases
from tests import base

TRAVEL = 20


def pod(uid='u', vif_id=None, **fields):
    known = dict(uid=uid, namespace='ns', name='p', host='h',
                 host_network=False, terminal=False, deleting=False,
                 annotated=vif_id is not None, vif_id=vif_id)
    return pods.Pod(**dict(known, **fields))


class TestLedger(base.TestCase):

    def setUp(self):
        super().setUp()
        self.pods = {'u': pod(vif_id='v')}
        self.nodes = {'h', 'other'}
        self.now = 100.0
        self.ledger = releases.Ledger(self.pods.get, self.nodes.__contains__,
                                      TRAVEL, lambda: self.now)
        self.ledger.add('v', 'u', 'h')

    def released(self, host='h', uid='u'):
        self.ledger.released(host, [{'vif_id': 'v', 'pod_uid': uid}])

    def assertState(self, state):
        self.assertEqual(state, self.ledger.state('v'))

    def test_deleted_pod(self):
        self.ledger.plugged('h', ['v'])
        self.pods['u'] = pod(vif_id='v', deleting=True)
        self.released()
        # The API still shows the pod with this address.
        self.assertState(releases.ASSIGNED)
        del self.pods['u']
        self.assertState(releases.FREE)

    def test_forced_deletion_waits_for_the_agent(self):
        self.ledger.plugged('h', ['v'])
        del self.pods['u']
        self.assertState(releases.RELEASING)
        self.released()
        self.assertState(releases.FREE)

    def test_new_leader_waits_for_the_list_of_the_node(self):
        del self.pods['u']
        self.released()
        self.assertState(releases.RELEASING)
        self.ledger.plugged('other', [])
        self.assertState(releases.RELEASING)
        self.ledger.plugged('h', [])
        self.assertState(releases.FREE)

    def unknown(self):
        """A leader that has not listed Neutron's ports yet."""
        self.ledger = releases.Ledger(self.pods.get, self.nodes.__contains__,
                                      TRAVEL, lambda: self.now)
        self.ledger.plugged('h', ['v'])

    def test_release_before_the_port_is_known(self):
        self.unknown()
        self.pods['u'] = pod(vif_id='v', deleting=True)
        self.released()
        self.assertState(None)
        self.assertEqual(set(), self.ledger.ids())
        del self.pods['u']
        self.ledger.add('v', 'u', 'h')
        self.assertState(releases.FREE)

    def test_early_release_of_a_running_pod_is_a_new_sandbox(self):
        self.unknown()
        self.released()
        del self.pods['u']
        self.ledger.add('v', 'u', 'h')
        self.assertState(releases.RELEASING)

    def test_early_release_and_plugged_again(self):
        self.unknown()
        self.pods['u'] = pod(vif_id='v', deleting=True)
        self.released()
        self.ledger.plugged('h', ['v'])
        del self.pods['u']
        self.ledger.add('v', 'u', 'h')
        self.assertState(releases.RELEASING)

    def test_early_release_by_others_does_not_count(self):
        for what in ({'host': 'other'}, {'uid': 'w'}):
            self.unknown()
            self.pods['u'] = pod(vif_id='v', deleting=True)
            self.released(**what)
            del self.pods['u']
            self.ledger.add('v', 'u', 'h')
            self.assertState(releases.RELEASING)
            self.pods['u'] = pod(vif_id='v')

    def test_release_of_no_port(self):
        self.unknown()
        self.ledger.complete()
        self.pods['u'] = pod(vif_id='v', deleting=True)
        self.released()
        del self.pods['u']
        self.ledger.add('v', 'u', 'h')
        self.assertState(releases.RELEASING)

    def test_list_counts_only_after_the_time_it_may_travel(self):
        del self.pods['u']
        self.assertState(releases.RELEASING)
        self.now += TRAVEL - 1
        self.ledger.plugged('h', [])
        self.assertState(releases.RELEASING)
        self.now += 1
        self.ledger.plugged('h', ['v'])
        self.assertState(releases.RELEASING)
        self.ledger.plugged('h', [])
        self.assertState(releases.FREE)

    def test_release_of_a_running_pod_is_a_new_sandbox(self):
        self.ledger.plugged('h', [])
        self.released()
        del self.pods['u']
        self.assertState(releases.RELEASING)

    def test_release_before_the_pod_is_seen_to_have_ended(self):
        self.ledger.plugged('h', ['v'])
        self.released()
        self.assertState(releases.ASSIGNED)
        self.pods['u'] = pod(vif_id='v', terminal=True)
        self.assertState(releases.FREE)

    def test_plugged_again_after_a_release(self):
        self.released()
        self.ledger.plugged('h', ['v'])
        self.pods['u'] = pod(vif_id='v', terminal=True)
        self.assertState(releases.RELEASING)

    def test_reports_of_others_do_not_count(self):
        self.ledger.plugged('h', ['v'])
        del self.pods['u']
        self.released(host='other')
        self.released(uid='another')
        self.now += 2 * TRAVEL
        self.ledger.plugged('other', [])
        self.assertState(releases.RELEASING)

    def test_node_gone(self):
        self.nodes.discard('h')
        self.assertState(releases.ASSIGNED)
        del self.pods['u']
        self.assertState(releases.FREE)

    def test_surplus_port_of_a_pod(self):
        self.ledger.add('w', 'u', 'h')
        self.assertEqual(releases.RELEASING, self.ledger.state('w'))
        self.now += TRAVEL
        self.ledger.plugged('h', ['v'])
        self.assertEqual(releases.FREE, self.ledger.state('w'))
        self.assertState(releases.ASSIGNED)
        self.assertEqual({'assigned': 1, 'releasing': 0, 'free': 1},
                         self.ledger.states())

    def test_port_without_annotation_yet(self):
        self.pods['u'] = pod()
        self.now += TRAVEL
        self.ledger.plugged('h', [])
        self.assertState(releases.ASSIGNED)

    def test_add_and_remove(self):
        self.ledger.add('v', 'u', 'h')
        self.assertEqual(['v'], self.ledger.of_pod('u'))
        self.assertEqual(['v'], self.ledger.of_host('h'))
        self.ledger.remove('v')
        self.ledger.remove('v')
        self.assertEqual(([], [], set()), (
            self.ledger.of_pod('u'), self.ledger.of_host('h'),
            self.ledger.ids()))
        self.assertIsNone(self.ledger.state('v'))
        self.released()
        self.ledger.plugged('h', ['v'])


class LedgerMachine(stateful.RuleBasedStateMachine):
    """A node with a kubelet and an agent, and messages that take a while.

    Whatever happens in whatever order: no port is free while it is plugged
    or may be plugged again.
    """

    def __init__(self):
        super().__init__()
        self.pods = {'u': pod(vif_id='v')}
        self.now = 0.0
        self.ledger = self.new_ledger()
        self.plugged = False
        self.lists = []
        self.releases = []

    def new_ledger(self):
        ledger = releases.Ledger(self.pods.get, {'h'}.__contains__, TRAVEL,
                                 lambda: self.now)
        ledger.add('v', 'u', 'h')
        return ledger

    @property
    def runs(self):
        """Whether the kubelet may make a sandbox for the pod."""
        now = self.pods.get('u')
        return now is not None and not (now.deleting or now.terminal)

    @stateful.rule()
    def add(self):
        if self.runs:
            self.plugged = True

    @stateful.rule()
    def delete_sandbox(self):
        if self.plugged:
            self.plugged = False
            # NOTE: the agent sends one report after the other, each until
            # it is taken: lists that were sent earlier have arrived.
            self.deliver_lists()
            self.ledger.released('h', [{'vif_id': 'v', 'pod_uid': 'u'}])

    @stateful.rule()
    def list_plugged(self):
        self.lists = [(self.now, ['v'] if self.plugged else [])]

    @stateful.rule()
    def deliver_lists(self):
        for sent, vifs in self.lists:
            if self.now - sent < TRAVEL:
                self.ledger.plugged('h', vifs)
        self.lists = []

    @stateful.rule(seconds=st.integers(1, 30))
    def wait(self, seconds):
        self.now += seconds

    @stateful.rule()
    def delete_pod(self):
        if 'u' in self.pods:
            self.pods['u'] = pod(vif_id='v', deleting=True)
            self.ledger.state('v')

    @stateful.rule(forced=st.booleans())
    def pod_gone(self, forced):
        if forced or not self.plugged:
            self.pods.pop('u', None)
            self.ledger.state('v')

    @stateful.rule()
    def pod_ended(self):
        # The kubelet says so when it has torn the sandbox down.
        if self.runs and not self.plugged:
            self.pods['u'] = pod(vif_id='v', terminal=True)
            self.ledger.state('v')

    @stateful.rule()
    def new_leader(self):
        self.ledger = self.new_ledger()

    @stateful.invariant()
    def free_is_not_in_use(self):
        if self.ledger.state('v') == releases.FREE:
            assert not self.plugged
            assert not self.runs


TestLedgerMachine = LedgerMachine.TestCase
