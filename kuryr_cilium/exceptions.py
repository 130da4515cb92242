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

"""Every exception of kuryr-cilium.

An exception has a class and a message with named fields, so that a caller
may catch the kind and an operator reads what to do.
"""


class KuryrCiliumException(Exception):
    """The base: ``message`` is formatted with the keyword arguments."""

    message = 'An unknown error occurred.'

    def __init__(self, message=None, **kwargs):
        self.kwargs = kwargs
        super().__init__(message or self.message % kwargs)


class InvalidVIF(KuryrCiliumException):
    message = ('The pod\'s VIF annotation cannot be used: %(reason)s. Delete '
               'the pod, so that it is made anew.')
    code = 101


class InvalidWireObject(KuryrCiliumException):
    message = 'A %(kind)s from the wire cannot be read: %(reason)s'


class Stopped(KuryrCiliumException):
    message = '%(what)s was stopped'


class RPCFailed(KuryrCiliumException):
    message = ('%(method)s over %(topic)s failed: %(reason)s. Look whether '
               'RabbitMQ (transport_url) and kuryr-cilium-controller run.')


class CNIError(KuryrCiliumException):
    """What a CNI request is answered with when it fails.

    :cvar code: the error code of the CNI specification (1.1, section
        "Error"); 100 and more are ours.
    """

    message = '%(reason)s'
    code = 100


class CNIVersionUnsupported(CNIError):
    message = ('cniVersion %(version)s is not supported: use one of '
               '%(supported)s in the network configuration.')
    code = 1


class CNIContainerUnknown(CNIError):
    message = ('Container %(container)s has no interface %(ifname)s of '
               'kuryr-cilium on this node.')
    code = 3


class CNIEnvironmentInvalid(CNIError):
    message = 'Environment of the CNI request: %(reason)s'
    code = 4


class CNIInputUnreadable(CNIError):
    message = 'The CNI request could not be read: %(reason)s'
    code = 5


class CNIConfigInvalid(CNIError):
    message = 'CNI network configuration: %(reason)s'
    code = 7


class TryAgainLater(CNIError):
    message = '%(reason)s'
    code = 11


class AnnotationMissing(TryAgainLater):
    message = '%(reason)s'


class EndpointNotInView(TryAgainLater):
    message = '%(reason)s'


class Abandoned(TryAgainLater):
    message = ('The request for %(what)s was given up: a DEL of the same '
               'container came in.')


class PluginNotAvailable(CNIError):
    message = '%(reason)s'
    code = 50


class PluginNotAvailableLimited(CNIError):
    message = '%(reason)s'
    code = 51


class StoreError(KuryrCiliumException):
    message = 'Cannot write %(path)s: %(reason)s'
    code = 106


class AlreadyRunning(KuryrCiliumException):
    message = ('Another kuryr-cilium-agent holds %(path)s (process %(pid)s): '
               'stop it first, or set [agent] run_dir to a folder of this '
               'one\'s own.')


class AgentUnreachable(KuryrCiliumException):
    message = ('No agent answers on %(path)s (%(reason)s). Is '
               'kuryr-cilium-agent running on this node, and is this '
               'command run as root with the same --config-file?')


class AgentRefused(KuryrCiliumException):
    message = ('The agent answered %(path)s with %(status)s: %(reason)s. Are '
               'agent and CLI of the same release?')


class QueryInvalid(KuryrCiliumException):
    message = 'The query is not usable: %(reason)s'


class NotFound(KuryrCiliumException):
    message = '%(what)s is not on this node; see "%(command)s".'


class ServicesOff(KuryrCiliumException):
    message = ('Services are switched off on this node: [services] enabled is '
               'false in the configuration of its agent.')


class PolicyUnknown(KuryrCiliumException):
    message = ('There is no policy %(policy)s%(near)s; name it as '
               'KIND/NAMESPACE/NAME, see "kuryr-cilium policy list".')


class ClusterNotAsked(KuryrCiliumException):
    message = ('Which policies there are only the API server knows, and it '
               'was not asked: %(reason)s. "kuryr-cilium ruleset list" shows '
               'what is loaded without it.')


class PlaceUnknown(KuryrCiliumException):
    message = '%(what)s can not be traced: %(reason)s.'


class NoPath(KuryrCiliumException):
    message = ('No %(packet)s goes from %(source)s (%(addresses)s) to '
               '%(destination)s (%(others)s): they have no addresses of one '
               'family that it could use.')


class TraceInvalid(KuryrCiliumException):
    message = '%(reason)s.'


class RuleSetTooLarge(KuryrCiliumException):
    message = ('Ruleset %(ruleset)s has %(count)d %(what)s and may have '
               '%(limit)d: its endpoints deny everything. Merge rules of the '
               'policies that select them.')


class LinkError(KuryrCiliumException):
    message = 'The kernel refused to %(what)s: %(reason)s'
    code = 104


class NetnsGone(KuryrCiliumException):
    message = ('%(path)s does not lead to a network namespace (%(reason)s): '
               'the pod\'s sandbox is gone, or the container runtime keeps '
               'its namespaces where the agent cannot see them (mount '
               '/run/netns with HostToContainer propagation).')
    code = 104


class VIFNotSupported(KuryrCiliumException):
    message = 'VIF %(vif)s cannot be bound on this node: %(reason)s'
    code = 102


class SwitchUnavailable(KuryrCiliumException):
    message = ('Open vSwitch did not do what was asked: %(reason)s. See '
               '[binding] ovsdb_connection (%(connection)s), and whether '
               'ovsdb-server and ovs-vswitchd run.')
    code = 11


class VIFNotWired(KuryrCiliumException):
    message = ('Port %(vif)s is plugged as %(tap)s, but %(process)s did not '
               'wire it in time: %(state)s. Look at its log (%(log)s) and at '
               '"ovs-vsctl list Interface %(tap)s".')
    code = 11


class PodNetworkBroken(KuryrCiliumException):
    message = 'The network of pod %(pod)s is not as it was made: %(problem)s'
    code = 103


class PlugBusy(KuryrCiliumException):
    message = ('%(link)s is still being worked on by another request; it will '
               'be tried again.')
    code = 11


class KubernetesAccessInvalid(KuryrCiliumException):
    message = ('The Kubernetes API cannot be reached: %(reason)s. Set '
               '[kubernetes] kubeconfig, or api_url with token_file and '
               'ca_file.')


class KubernetesError(KuryrCiliumException):
    message = 'Kubernetes: %(method)s %(path)s: %(status)s %(reason)s'


class KubernetesNotFound(KubernetesError):
    pass


class KubernetesConflict(KubernetesError):
    pass


class KubernetesGone(KubernetesError):
    pass


class KubernetesInvalid(KubernetesError):
    pass


class KubernetesBusy(KubernetesError):
    pass


class KubernetesUnavailable(KubernetesError):
    pass


class KubernetesUnauthorized(KubernetesError):
    message = ('Kubernetes: %(method)s %(path)s: %(status)s %(reason)s: the '
               'token or the client certificate is refused; look at '
               '[kubernetes] kubeconfig or token_file.')


class KubernetesForbidden(KubernetesError):
    message = ('Kubernetes: %(method)s %(path)s: %(status)s %(reason)s: add '
               'the verb to the ClusterRole of this process '
               '(deploy/base/rbac.yaml) and bind it to the user named here.')


class DatapathError(KuryrCiliumException):
    message = 'The datapath cannot work on this node: %(reason)s'
    code = 105


class ViewUnusable(KuryrCiliumException):
    message = ('The policy view cannot be brought in force: %(reason)s. It '
               'heals with the next complete sync; if it does not, compare '
               'the versions of the controllers and of this agent.')


class EndpointUnknown(KuryrCiliumException):
    message = ('Interface %(vif)s is not in the policy view of this node: it '
               'goes on dropping everything until the controller sends its '
               'endpoint.')


class TooManyEndpoints(DatapathError):
    message = ('This node has %(limit)d policed interfaces, the most that '
               'the datapath has room for: lower the kubelet\'s maxPods.')


class NeutronError(KuryrCiliumException):
    message = 'Neutron: %(method)s %(path)s: %(status)s %(reason)s'


class NeutronUnavailable(NeutronError):
    message = ('Neutron is not available: %(method)s %(path)s: %(reason)s. '
               'It will be tried again; see the options of [neutron] if it '
               'never was.')


class NeutronNotFound(NeutronError):
    pass


class NeutronConflict(NeutronError):
    pass


class QuotaExceeded(KuryrCiliumException):
    message = ('No port for pod %(pod)s: %(reason)s Raise the quota of the '
               'project ("openstack quota set --ports") or remove ports.')


class AddressesExhausted(KuryrCiliumException):
    message = ('No port for pod %(pod)s: %(reason)s Add a subnet to the '
               'network (and to [neutron] pod_subnets, if that is set).')


class BindingFailed(KuryrCiliumException):
    message = ('Neutron could not bind port %(port)s of pod %(pod)s to host '
               '%(host)s. Check that "openstack network agent list --host '
               '%(host)s" shows a live OVN controller or Open vSwitch agent: '
               'its host (external_ids:hostname in Open_vSwitch) has to be '
               'the name of the Kubernetes node; and that the agent can '
               'reach the network %(network)s (bridge mappings, tunnels).')


class PortNotSupported(KuryrCiliumException):
    message = ('Port %(port)s on host %(host)s cannot be given to a pod: '
               '%(reason)s')


class PodNetworkInvalid(KuryrCiliumException):
    message = '[neutron] %(option)s: %(reason)s'


class FolderNotOurs(KuryrCiliumException):
    message = ('%(path)s is not a folder that only this user writes to: '
               'remove it, somebody else has made it.')
