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

"""Everything the lab needs from elsewhere: packages, programs, images.

Each step leaves a stamp, the hash of what it was made from, in the cache;
a step whose stamp is right is not run again.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from kclab import images
from kclab import neutron
from kclab import product
from kclab import settings
from kclab import ui

PACKAGES = (
    'bpftool', 'busybox-static', 'clang', 'conntrack', 'containerd',
    'containernetworking-plugins', 'curl', 'ethtool', 'gcc', 'git', 'iperf3',
    'iproute2', 'iptables', 'iputils-arping', 'iputils-ping', 'libbpf-dev',
    'libbpf1', 'libc6-dev', 'llvm', 'mariadb-client-core',
    'mariadb-server-core', 'nftables', 'openssl', 'openvswitch-switch',
    'ovn-central', 'ovn-host', 'procps', 'python3-venv', 'rabbitmq-server',
    'radvd', 'runc', 'tcpdump', 'util-linux')
KUBE_TOOLS = ('etcd', 'kube-apiserver', 'kube-controller-manager',
              'kube-scheduler', 'kubelet', 'kubectl', 'kube-proxy')
#: Programs that run in containers.
IMAGES = ('agnhost', 'pause', 'coredns')
POLICY = pathlib.Path('/usr/sbin/policy-rc.d')
GO_ENV = {'CGO_ENABLED': '0', 'GOFLAGS': '-trimpath'}
REQUIREMENTS = settings.LAB / 'neutron-requirements.txt'
MODULE = settings.LAB / 'kube'
DNS_MODULE = settings.LAB / 'dns'


def command(*argv, cwd=None, env=None):
    """Run a build command; its output is shown only when it fails."""
    done = subprocess.run([str(a) for a in argv], text=True, cwd=cwd,
                          env=dict(os.environ) | (env or {}),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise settings.LabError(f'{" ".join(str(a) for a in argv)}:\n'
                                + done.stdout.strip()[-4000:])
    return done.stdout


def digest(*parts):
    """Hash of files, of all files in folders, and of other values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path) and part.is_dir():
            files = sorted(p for p in part.rglob('*') if p.is_file()
                           and '__pycache__' not in p.parts)
        else:
            files = [part]
        for item in files:
            data = (item.read_bytes() if isinstance(item, pathlib.Path)
                    else str(item).encode())
            name = getattr(item, 'name', '')
            total.update(f'{name} {len(data)} '.encode() + data)
    return total.hexdigest()


def once(lab, name, what, stamp, make, product_of=()):
    """Run make unless its stamp and its results are there.

    :param product_of: files that must be there afterwards.
    :returns: whether it ran.
    """
    path = lab.cache / 'stamps' / name
    if (path.exists() and path.read_text() == stamp
            and all(pathlib.Path(f).exists() for f in product_of)):
        return False
    path.unlink(missing_ok=True)
    ui.say(f'{what} ...')
    with ui.step(what):
        make()
    settings.write(path, stamp)
    return True


@contextlib.contextmanager
def cache_lock(lab):
    lab.bin.mkdir(parents=True, exist_ok=True)
    with open(lab.cache / '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ui.say('another build is under way: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing_packages():
    done = subprocess.run(
        ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n',
         *PACKAGES], capture_output=True, text=True)
    there = {line.split()[0] for line in done.stdout.splitlines()
             if line.endswith(' installed')}
    return [p for p in PACKAGES if p not in there]


@contextlib.contextmanager
def no_service_starts():
    """Packages may not start their services while they are installed."""
    kept = None
    if POLICY.exists():
        done = subprocess.run([POLICY, 'any', 'start'], capture_output=True)
        if done.returncode == 101:
            yield
            return
        kept = POLICY.with_name('policy-rc.d.kuryr-cilium-lab')
        POLICY.rename(kept)
    settings.write(POLICY, '#!/bin/sh\nexit 101\n', 0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if kept:
            kept.rename(POLICY)


def install_packages():
    wanted = missing_packages()
    if not wanted:
        return
    with ui.step(f'{len(wanted)} Debian packages'), no_service_starts():
        command('apt-get', 'update', '-qq')
        command('apt-get', 'install', '-y', '-qq', '--no-install-recommends',
                *wanted, env={'DEBIAN_FRONTEND': 'noninteractive'})


def found_tools(folder=None):
    """Programs that need not be built: {name: path}.

    :param folder: programs to use whatever their version. Otherwise those
        in PATH whose version is the right one.
    """
    found = {}
    for name in (*KUBE_TOOLS, *IMAGES):
        if folder:
            path = pathlib.Path(folder).absolute() / name
            if os.access(path, os.X_OK):
                found[name] = str(path)
            continue
        path = shutil.which(name)
        if path and name in KUBE_TOOLS and _right_version(name, path):
            found[name] = os.path.abspath(path)
    return found


def _right_version(name, path):
    if name == 'etcd':
        wanted, argv = 'etcd Version: 3', [path, '--version']
    elif name == 'kubectl':
        wanted, argv = settings.KUBERNETES, [path, 'version', '--client']
    else:
        wanted, argv = settings.KUBERNETES, [path, '--version']
    done = subprocess.run(argv, capture_output=True, text=True)
    return wanted in done.stdout


def build_programs(lab, found, kube_proxy):
    """The Kubernetes programs, agnhost, pause and CoreDNS, from Go modules."""
    tools = [t for t in KUBE_TOOLS if kube_proxy or t != 'kube-proxy']
    programs = [('agnhost', 'k8s.io/kubernetes/test/images/agnhost', MODULE),
                ('pause', './cmd/pause', MODULE),
                ('coredns', '.', DNS_MODULE)]
    if not all(name in found for name in tools):
        programs.insert(0, ('kube', './cmd/kube', MODULE))
    programs = [p for p in programs if p[0] not in found]
    if not programs:
        return
    go = shutil.which('go') or '/usr/local/go/bin/go'
    if not os.access(go, os.X_OK):
        raise settings.LabError(
            'Go is not installed: install the version that '
            f'{MODULE}/go.mod names, or give --kube-bin a folder with '
            f'{", ".join((*tools, *IMAGES))}')
    version = settings.KUBERNETES
    major, minor, _ = version[1:].split('.')
    package = 'k8s.io/component-base/version'
    flags = (f'-s -w -X {package}.gitVersion={version} '
             f'-X {package}.gitMajor={major} -X {package}.gitMinor={minor}')
    env = GO_ENV | {'GOCACHE': str(lab.cache / 'go-build'),
                    'GOMODCACHE': str(lab.cache / 'go-mod')}
    go_version = command(go, 'version', cwd=MODULE, env=env)

    def make(name, package, module):
        command(go, 'build', '-buildvcs=false', f'-ldflags={flags}', '-o',
                lab.bin / name, package, cwd=module, env=env)

    for name, package, module in programs:
        once(lab, name, f'Go: {name}', digest(module, flags, go_version),
             lambda: make(name, package, module), [lab.bin / name])
        for tool in KUBE_TOOLS if name == 'kube' else ():
            link = lab.bin / tool
            if not link.is_symlink():
                link.unlink(missing_ok=True)
                link.symlink_to('kube')


def build_images(lab, found):
    programs = {name: found.get(name) or str(lab.bin / name)
                for name in IMAGES}
    times = [os.stat(p).st_mtime_ns for p in programs.values()]
    once(lab, 'images', 'images', digest(
        settings.LAB / 'kclab' / 'images.py', *programs.values(), *times),
        lambda: images.make_all(lab, programs),
        [lab.images / f'{name}.tar' for name in programs])


def make_venv(where, *pip):
    """A virtual environment; an existing one is brought up to date."""
    if not (where / 'bin' / 'pip').exists():
        shutil.rmtree(where, ignore_errors=True)
        command(getattr(sys, '_base_executable', sys.executable), '-m',
                'venv', where)
    command(where / 'bin' / 'pip', 'install', '--quiet', *pip)


def build_neutron(lab):
    stamp = digest(REQUIREMENTS, sys.version, str(lab.venv_neutron))
    once(lab, 'venv-neutron', 'Python environment of Neutron', stamp,
         lambda: make_venv(lab.venv_neutron, '-r', REQUIREMENTS),
         [lab.venv_neutron / 'bin' / 'uwsgi'])

    def template():
        scratch = lab.cache / 'mysql-scratch'
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            neutron.make_template(lab, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    server = command('mariadbd', '--no-defaults', '--version')
    once(lab, 'mysql-template', "Neutron's database schema",
         digest(stamp, server), template, [lab.mysql_template])


def build_product(lab):
    """The product's Python environment and its two compiled programs."""
    files = [lab.clone / name for name in (
        'requirements.txt', 'test-requirements.txt', 'setup.cfg',
        'pyproject.toml')]
    once(lab, 'venv', 'Python environment of kuryr-cilium',
         digest(*files, sys.version, str(lab.clone), str(lab.venv)),
         lambda: make_venv(lab.venv, '--editable', lab.clone, '-r',
                           lab.clone / 'test-requirements.txt'),
         [lab.venv / 'bin' / 'kuryr-cilium-agent'])
    for name in ('kuryr-cilium', 'kuryr-cilium-status'):
        # The folder of programs is on the PATH in every node.
        link = lab.bin / name
        if not link.is_symlink():
            link.symlink_to(lab.venv / 'bin' / name)
    source = product.cni_source(lab)
    once(lab, 'cni', 'CNI client', digest(source),
         lambda: command('gcc', '-static', '-O2', '-Wall', '-o',
                         product.cni_client(lab), source),
         [product.cni_client(lab)])
    script = lab.clone / 'tools' / 'build_bpf.sh'
    once(lab, 'bpf', 'BPF programs',
         digest(script, lab.clone / 'kuryr_cilium' / 'datapath' / 'src'),
         lambda: command(script, product.bpf_object(lab)),
         [product.bpf_object(lab)])


def run(lab, bare=False, kube_bin=None, kube_proxy=False):
    """Make what is not there yet.

    :param bare: leave the product out.
    :param kube_proxy: kube-proxy is needed too.
    :returns: {name: path} of programs that need not be built.
    """
    found = found_tools(kube_bin)

    def others():
        install_packages()
        build_neutron(lab)
        if not bare:
            build_product(lab)

    with cache_lock(lab):
        ui.together(lambda: build_programs(lab, found, kube_proxy), others)
        build_images(lab, found)
    return found
