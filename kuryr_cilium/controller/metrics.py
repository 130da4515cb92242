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

"""Metrics of the controller. Names are stable: dashboards are made of them."""

import prometheus_client

POLICIES = prometheus_client.Gauge(
    'kuryr_cilium_policies',
    'Policy objects that are followed, by kind.', ['kind'])
POLICY_PROBLEMS = prometheus_client.Gauge(
    'kuryr_cilium_policies_with_problems',
    'Policy objects that are refused or only partly expressible, by kind: '
    'they deny what can not be expressed.', ['kind'])
CHANGE_SECONDS = prometheus_client.Histogram(
    'kuryr_cilium_policy_change_seconds',
    'Time to work a change of the API into the views of nodes, by what '
    'was changed.', ['change'],
    buckets=(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1,
             .5, 1))
STATUS_WRITES = prometheus_client.Counter(
    'kuryr_cilium_policy_status_writes',
    'Status conditions of policies written, by result: written, conflict, '
    'refused.', ['result'])
