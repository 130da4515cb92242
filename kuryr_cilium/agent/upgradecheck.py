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

"""Checks whether a host has what the agent needs.

Run them before an agent is installed or upgraded on a node:
``kuryr-cilium-status upgrade check``.
"""

import ctypes
import ipaddress
import pathlib
import shutil

from oslo_upgradecheck import upgradecheck

from kuryr_cilium.agent import probe
from kuryr_cilium.agent import service
from kuryr_cilium.agent import store
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink

BTF = pathlib.Path('/sys/kernel/btf/vmlinux')
MOUNTS = pathlib.Path('/proc/self/mountinfo')
SYSCTLS = pathlib.Path('/proc/sys')
#: What has to be 1 for a node to send on what is not for itself.
FORWARDING = {4: 'net.ipv4.ip_forward', 6: 'net.ipv6.conf.all.forwarding'}
PORT_RANGE = 'net.ipv4.ip_local_port_range'

_OK = upgradecheck.Code.SUCCESS
_WARNING = upgradecheck.Code.WARNING
_FAILURE = upgradecheck.Code.FAILURE

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError,
               exceptions.KuryrCiliumException)


class Checks(upgradecheck.UpgradeCommands):
    """The checks, on this host.

    :param conf: a cfg.ConfigOpts with the agent's options.
    """

    def __init__(self, conf):
        super().__init__()
        self._conf = conf

    def check_kernel(self):
        """Type information, and links for tc programs (Linux 6.6)."""
        try:
            types = BTF.read_bytes()
        except OSError as error:
            return _result(_FAILURE, '%s: use a kernel with '
                           'CONFIG_DEBUG_INFO_BTF' % error)
        if b'\0tcx_link\0' not in types:
            return _result(_FAILURE, 'the kernel has no tcx: use Linux 6.6 '
                           'or later')
        return _result(_OK)

    def check_bpf_file_system(self):
        """Programs and maps have to outlive the agent."""
        folder = pathlib.Path(self._conf.datapath.pin_dir)
        kind = file_system(folder, MOUNTS.read_text())
        if kind != 'bpf':
            return _result(_FAILURE, '%s is not in a BPF file system but in '
                           '%s: mount -t bpf bpf /sys/fs/bpf' % (folder, kind))
        return _result(_OK)

    def check_libbpf(self):
        """The library that loads the programs."""
        try:
            library = ctypes.CDLL('libbpf.so.1')
        except OSError as error:
            return _result(_FAILURE, '%s: install libbpf1' % error)
        major, minor = (library.libbpf_major_version(),
                        library.libbpf_minor_version())
        if (major, minor) < (1, 1):
            return _result(_FAILURE, 'libbpf %d.%d is too old, 1.1 is '
                           'needed' % (major, minor))
        return _result(_OK)

    def check_programs(self):
        """Compiled programs, or what compiles them at the first start."""
        settings = self._conf.datapath
        if settings.object_file:
            if not pathlib.Path(settings.object_file).is_file():
                return _result(_FAILURE, '[datapath] object_file: there is '
                               'no %s' % settings.object_file)
            return _result(_OK)
        package = pathlib.Path(__file__).parent.parent / 'datapath'
        folders = (package, pathlib.Path(settings.cache_dir))
        if any(any(folder.glob('**/*.bpf.o')) for folder in folders):
            return _result(_OK)
        if not shutil.which(settings.clang):
            return _result(_FAILURE, 'the programs are not compiled (tox -e '
                           'bpf) and there is no %s' % settings.clang)
        return _result(_OK, 'they will be compiled at the first start')

    def check_ovsdb(self):
        """The switch that ports are plugged into."""
        trouble = probe.ovsdb(self._conf.binding.ovsdb_connection, 5.0)
        return _result(_FAILURE if trouble else _OK, trouble)

    def check_state(self):
        """Records and view of an earlier release can be read."""
        folder = pathlib.Path(self._conf.agent.state_dir)
        if not folder.is_dir():
            return _result(_OK, 'there is no %s yet' % folder)
        unreadable = []
        for file in sorted((folder / 'endpoints').glob('*.json')):
            unreadable += _unreadable(file, store.parse)
        for view in (folder / 'view.json', folder / 'services.json'):
            if view.exists():
                unreadable += _unreadable(view, viewfile.parse)
        if unreadable:
            return _result(_WARNING, 'the agent would set aside: ' +
                           '; '.join(unreadable))
        return _result(_OK)

    def check_routes(self):
        """What the node sends to pods of other nodes: Neutron's router."""
        subnets = self._subnets()
        if not subnets:
            return _result(_OK, 'no pod is on this node yet: check again '
                           'when there is one')
        with netlink.Netlink() as net:
            ways = {subnet: net.way_to(address)
                    for subnet, address in subnets.items()}
        missing = [subnet for subnet, way in sorted(ways.items()) if not way]
        if missing:
            return _result(_WARNING, 'what this node sends to pods of other '
                           'nodes goes nowhere: %s, with the address that '
                           'Neutron\'s router has on the network of the '
                           'nodes, or route it there upstream' % '; '.join(
                               'ip route add %s via ROUTER_GATEWAY' % subnet
                               for subnet in missing))
        return _result(_OK, 'sent to Neutron\'s router, or to what has to '
                       'lead there: ' + '; '.join(
                           '%s %s' % way for way in sorted(ways.items())))

    def check_forwarding(self):
        """What comes from outside to services, and goes on to pods."""
        if not self._replaces_kube_proxy():
            return _result(_OK, 'services from outside are left to others')
        versions = {ipaddress.ip_address(address).version
                    for address in service.node_ips(self._conf)}
        wrong = [FORWARDING[version] for version in sorted(versions)
                 if _sysctl(FORWARDING[version]) != '1']
        if wrong:
            return _result(_WARNING, 'what comes to services from outside '
                           'does not get to pods: sysctl -w ' + ' '.join(
                               '%s=1' % name for name in wrong))
        first, last = map(int, self._conf.services.source_ports.split('-'))
        low, high = map(int, _sysctl(PORT_RANGE).split())
        if first <= high and low <= last:
            return _result(_WARNING, '[services] source_ports %d-%d and '
                           'sysctl %s (%d %d) have ports in common: this '
                           'node\'s own connections would be taken for those '
                           'of clients. Change one of them' % (
                               first, last, PORT_RANGE, low, high))
        return _result(_OK)

    def check_cgroup(self):
        """Where programs see what the node itself sends to services."""
        if not self._replaces_kube_proxy():
            return _result(_OK, 'the node\'s own traffic is left to others')
        folder = self._conf.services.cgroup_dir
        mountinfo = MOUNTS.read_text()
        if folder:
            kind = file_system(pathlib.Path(folder), mountinfo)
            if kind != 'cgroup2' or not pathlib.Path(folder).is_dir():
                return _result(_FAILURE, '[services] cgroup_dir: %s is no '
                               'folder of a cgroup version 2 hierarchy, but '
                               'of %s' % (folder, kind))
        elif 'cgroup2' not in kinds(mountinfo):
            return _result(_FAILURE, 'there is no cgroup version 2 '
                           'hierarchy: mount -t cgroup2 none '
                           '/sys/fs/cgroup/unified, or keep kube-proxy and '
                           'set [services] replace_kube_proxy = false')
        return _result(_OK)

    def _replaces_kube_proxy(self):
        return (self._conf.services.enabled
                and self._conf.services.replace_kube_proxy)

    def _subnets(self):
        """Subnets of this node's pods -> an address in each of no pod."""
        folder = pathlib.Path(self._conf.agent.state_dir) / 'endpoints'
        found = {}
        for file in sorted(folder.glob('*.json')):
            try:
                vif = store.parse(file.read_bytes()).load_vif()
            except _UNREADABLE:
                # check_state tells of it.
                continue
            for subnet in vif.network.subnets.objects:
                network = ipaddress.ip_network(str(subnet.cidr))
                gateway = None
                if subnet.obj_attr_is_set('gateway'):
                    gateway = subnet.gateway
                found[str(network)] = str(gateway or network[-1])
        return found

    _upgrade_checks = (
        ('Kernel', check_kernel),
        ('BPF file system', check_bpf_file_system),
        ('libbpf', check_libbpf),
        ('BPF programs', check_programs),
        ('Open vSwitch', check_ovsdb),
        ('State of an earlier release', check_state),
        ('Routes to pods', check_routes),
        ('Services from outside', check_forwarding),
        ('Services of the node itself', check_cgroup),
    )


def file_system(path: pathlib.Path, mountinfo: str) -> str:
    """Type of the file system that a path is or would be in.

    Source: proc_pid_mountinfo(5).
    """
    depth, kind = -1, 'none'
    for row in mountinfo.splitlines():
        fields = row.split()
        point = pathlib.PurePosixPath(fields[4])
        if point == path or point in path.parents:
            # NOTE: of two at one point the later one is on top.
            if len(point.parts) >= depth:
                depth = len(point.parts)
                kind = fields[fields.index('-') + 1]
    return kind


def kinds(mountinfo: str) -> set[str]:
    """Types of the file systems that are mounted."""
    return {fields[fields.index('-') + 1]
            for fields in map(str.split, mountinfo.splitlines())}


def _sysctl(name):
    """Its value; '' if the kernel has no such thing."""
    try:
        return SYSCTLS.joinpath(*name.split('.')).read_text().strip()
    except OSError:
        return ''


def _unreadable(file, parse):
    try:
        parse(file.read_bytes())
    except _UNREADABLE as error:
        return ['%s (%s)' % (file, error)]
    return []


def _result(code, details=None):
    return upgradecheck.Result(code, details)
