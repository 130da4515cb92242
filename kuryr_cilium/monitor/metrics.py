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

"""Metrics of the agent. Names are stable: dashboards are made of them."""

import prometheus_client

_SECONDS = (.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40)

CNI_REQUESTS = prometheus_client.Counter(
    'kuryr_cilium_cni_requests_total',
    'CNI requests answered, by command and error code (0 is success).',
    ['command', 'code'])
CNI_SECONDS = prometheus_client.Histogram(
    'kuryr_cilium_cni_request_seconds',
    'Time from a CNI request to its answer.', ['command'],
    buckets=_SECONDS)
ENDPOINTS = prometheus_client.Gauge(
    'kuryr_cilium_endpoints',
    'Endpoint records on this node, by state.', ['state'])
STORE_CORRUPT = prometheus_client.Counter(
    'kuryr_cilium_store_corrupt_files_total',
    'Endpoint records that could not be read and were set aside.')
VIEW_AGE = prometheus_client.Gauge(
    'kuryr_cilium_policy_view_age_seconds',
    'Time since a controller confirmed the policy view of this node. It '
    'grows while no controller answers: policy changes wait.')
VIEW_OBJECTS = prometheus_client.Gauge(
    'kuryr_cilium_policy_view_objects',
    'Objects of the policy view, by kind.', ['kind'])
VIEW_EPOCH = prometheus_client.Gauge(
    'kuryr_cilium_policy_view_epoch',
    'Epoch (leaseTransitions of the controllers) of the policy view.')
VIEW_APPLY_SECONDS = prometheus_client.Histogram(
    'kuryr_cilium_policy_view_apply_seconds',
    'Time to bring a changed view in force in the datapath.',
    buckets=(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5))
SERVICE_OBJECTS = prometheus_client.Gauge(
    'kuryr_cilium_services',
    'Services, their ports and backends on this node, by kind.', ['kind'])
SERVICES_REFUSED = prometheus_client.Gauge(
    'kuryr_cilium_services_refused',
    'Services whose addresses are not served: a limit was exceeded.')
SERVICES_CONFLICTS = prometheus_client.Gauge(
    'kuryr_cilium_services_conflicts',
    'Services of which an address is not served: another service has it.')
SERVICES_APPLY_SECONDS = prometheus_client.Histogram(
    'kuryr_cilium_services_apply_seconds',
    'Time to bring changed services in force in the datapath.',
    buckets=(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5))
SYNCS = prometheus_client.Counter(
    'kuryr_cilium_policy_syncs_total',
    'Comparisons of the policy view with the controller, by result: '
    'changed, same, unsynced, old-epoch, no-answer, invalid, not-applied.',
    ['result'])
ENDPOINTS_DENIED = prometheus_client.Gauge(
    'kuryr_cilium_endpoints_denied',
    'Endpoints set to deny everything because a limit was exceeded.')
SWEPT = prometheus_client.Counter(
    'kuryr_cilium_swept_endpoints_total',
    'Endpoints removed without a DEL: their network namespace was gone or '
    'their ADD had not ended.')
RELEASES_WAITING = prometheus_client.Gauge(
    'kuryr_cilium_releases_waiting',
    'Ports unplugged here whose release no controller has accepted yet.')
FLOW_EVENTS = prometheus_client.Counter(
    'kuryr_cilium_flow_events_total',
    'Flow events seen, by verdict, direction and drop reason.',
    ['verdict', 'direction', 'reason'])
DROPS = 'kuryr_cilium_dropped_packets'


class DropsCollector:
    """The datapath's drop counters, read when they are asked for.

    :param drops: callable that returns packets by reason.
    """

    def __init__(self, drops):
        self._drops = drops

    def describe(self):
        return [self._metric()]

    def collect(self):
        metric = self._metric()
        for reason, packets in self._drops().items():
            metric.add_metric([reason], packets)
        return [metric]

    @staticmethod
    def _metric():
        return prometheus_client.metrics_core.CounterMetricFamily(
            DROPS, 'Packets dropped by the datapath, by reason.',
            labels=['reason'])
