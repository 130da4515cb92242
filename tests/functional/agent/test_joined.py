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

"""The controller's views and the agent's, joined by messages in one process.

From what the API server says to what the datapath is given: everything
between is real, except that RabbitMQ is oslo.messaging's fake driver.
"""

import pathlib
import time

import fixtures
from oslo_config import cfg
from oslo_messaging import conffixture

from kuryr_cilium.agent import report
from kuryr_cilium.agent import sync
from kuryr_cilium.agent import viewfile
from kuryr_cilium.conf import rpc as rpc_conf
from kuryr_cilium.controller import hints
from kuryr_cilium.controller import views as controller_views
from kuryr_cilium.k8s import reflector
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import client
from kuryr_cilium.rpc import server
from kuryr_cilium.rpc import sync as rpc_sync
from kuryr_cilium.rpc import transport
from kuryr_cilium import vif as kc_vif
from tests import base
from tests.unit.agent import samples
from tests.unit.binding import vifs

NODE = 'node-1'


def pod(name, number, host=NODE, **labels):
    """A pod as the API has it, with its VIF."""
    vif = vifs.make(f'7c0b1b8e-0a54-4c0b-9a57-{number:012d}', subnets=(
        ('10.99.0.0/16', '10.99.0.1', (f'10.99.3.{number}',), ()),))
    return {'metadata': {
        'uid': f'uid-{name}', 'namespace': 'default', 'name': name,
        'labels': labels,
        'annotations': {kc_vif.ANNOTATION: kc_vif.dumps(vif)}},
        'spec': {'nodeName': host}, 'status': {'phase': 'Running'}}


def policy(peer=None):
    """Only the empire lands on the deathstar; without peer nobody does."""
    rules = [] if peer is None else [{
        'from': [{'podSelector': {'matchLabels': {'org': peer}}}],
        'ports': [{'protocol': 'TCP', 'port': 80}]}]
    return {'metadata': {'uid': 'policy-1', 'namespace': 'default',
                         'name': 'landing'},
            'spec': {'podSelector': {'matchLabels': {'class': 'deathstar'}},
                     'policyTypes': ['Ingress'], 'ingress': rules}}


class Leader:

    def __init__(self):
        self.taken = []

    def released(self, ctxt, host, vifs):
        self.taken.append(('released', host, vifs))

    def plugged(self, ctxt, host, vifs):
        self.taken.append(('plugged', host, vifs))


class TestJoined(base.TestCase):

    def setUp(self):
        super().setUp()
        self.conf = cfg.ConfigOpts()
        rpc_conf.register_opts(self.conf)
        self.useFixture(conffixture.ConfFixture(
            self.conf)).transport_url = 'fake://'
        folder = self.useFixture(fixtures.TempDir()).path
        transport.set_defaults(self.conf, 'test', NODE, folder)
        self.conf([], project='test')
        self.epoch = 1
        self.current = True
        self.controller = controller_views.Views(
            lambda changes: self.hints.add(changes), lambda: self.epoch,
            lambda: self.current)
        pager = rpc_sync.Pager(self.controller.view, page_objects=2)
        self.sender = client.HintSender(self.conf)
        self.hints = hints.Hints(
            lambda host, objects: self.sender.send(host, self.epoch, objects),
            self.controller.pieces, self.controller.uses, pager.digest,
            lambda host: True)
        self.datapath = samples.Datapath()
        caller = client.ControllerClient(self.conf)
        self.views = sync.Views(
            NODE, caller, self.datapath,
            viewfile.ViewFile(pathlib.Path(folder) / 'view.json'), 600)
        self.leader = Leader()
        reports = client.LeaderClient(self.conf)
        self.reporter = report.Reporter(
            NODE, reports, lambda: [samples.VIF], lambda vif_id: False)
        self.controller.namespace(reflector.ADDED, {'metadata': {
            'name': 'default', 'uid': 'ns',
            'labels': {'kubernetes.io/metadata.name': 'default'}}})
        for part in (server.ControllerServer(self.conf, pager),
                     server.LeaderServer(self.conf, self.leader),
                     server.HintServer(self.conf, NODE, self.views.hint),
                     self.sender, self.hints, caller, reports, self.views,
                     self.reporter):
            part.start()
            self.addCleanup(part.stop)
            if hasattr(part, 'listening'):
                base.wait_until(lambda: part.listening)

    def ingress(self, name='deathstar'):
        """What the datapath judges a pod's ingress by; None: not there."""
        view = self.views.current
        endpoint = view and view.endpoints.get('uid-' + name)
        if not endpoint or endpoint.ingress in (model.ALLOW_ALL,
                                                model.DENY_ALL):
            return endpoint and endpoint.ingress
        return view.rulesets[endpoint.ingress]

    def allowed(self):
        """Addresses that the deathstar's ingress allows."""
        ruleset = self.ingress()
        if not isinstance(ruleset, model.RuleSet):
            return ruleset
        return {address for group in ruleset.groups
                for peer in group.peers
                for member in self.views.current.selectors[peer].members
                for address in member.addresses}

    def test_from_the_api_to_the_datapath(self):
        self.controller.pod(reflector.ADDED, pod(
            'deathstar', 1, **{'class': 'deathstar'}))
        self.views.wait_endpoint(
            'uid-deathstar', '7c0b1b8e-0a54-4c0b-9a57-000000000001',
            time.monotonic() + 5)
        self.assertEqual(model.ALLOW_ALL, self.ingress())
        self.controller.pod(reflector.ADDED, pod(
            'xwing', 2, 'node-2', org='alliance'))
        self.controller.policy('NetworkPolicy')(reflector.ADDED, policy())
        base.wait_until(lambda: self.allowed() == set())
        self.controller.policy('NetworkPolicy')(reflector.MODIFIED,
                                                policy('empire'))
        base.wait_until(lambda: self.ingress().groups)
        self.assertEqual(set(), self.allowed())
        self.controller.pod(reflector.ADDED, pod(
            'tiefighter', 3, 'node-2', org='empire'))
        base.wait_until(lambda: self.allowed() == {'10.99.3.3'})
        self.controller.pod(reflector.MODIFIED, pod(
            'xwing', 2, 'node-2', org='empire'))
        base.wait_until(lambda: self.allowed() == {'10.99.3.2', '10.99.3.3'})
        self.controller.pod(reflector.DELETED, pod('tiefighter', 3))
        base.wait_until(lambda: self.allowed() == {'10.99.3.2'})
        self.controller.policy('NetworkPolicy')(reflector.DELETED, policy())
        base.wait_until(lambda: self.allowed() == model.ALLOW_ALL)
        self.controller.pod(reflector.DELETED, pod('deathstar', 1))
        base.wait_until(lambda: self.allowed() is None)
        for view in self.datapath.applied:
            self.assertTrue(view.synced)

    def test_a_controller_that_forgot_opens_nothing(self):
        self.controller.policy('NetworkPolicy')(reflector.ADDED, policy())
        self.controller.pod(reflector.ADDED, pod(
            'deathstar', 1, **{'class': 'deathstar'}))
        base.wait_until(lambda: self.allowed() == set())
        self.current = False
        self.controller.policy('NetworkPolicy')(reflector.DELETED, policy())
        self.views.pull_soon()
        base.wait_until(lambda: 'has not listed' in (
            self.views.trouble() or ''))
        self.assertEqual(set(), self.allowed())

    def test_reports_reach_the_leader(self):
        self.reporter.released(samples.record(
            vif_id='9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'))
        base.wait_until(lambda: [
            ('plugged', NODE, [samples.VIF]),
            ('released', NODE, [{
                'vif_id': '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02',
                'pod_uid': samples.UID}])] == self.leader.taken)
