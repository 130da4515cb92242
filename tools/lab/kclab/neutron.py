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

"""Neutron with ML2/OVN on MariaDB, behind uWSGI, and its networks."""

import http.client
import json
import shutil
import subprocess

from kclab import parts
from kclab import procs
from kclab import settings
from kclab import ui

NB, SB = 'tcp:127.0.0.1:6641', 'tcp:127.0.0.1:6642'


def mariadbd(data, scratch, socket):
    """Arguments of a server for a database that may be thrown away."""
    return ['mariadbd', '--no-defaults', f'--datadir={data}', '--user=root',
            f'--socket={socket}', f'--tmpdir={scratch}', '--skip-networking',
            '--skip-grant-tables', '--performance-schema=OFF',
            # Survives kill -9 of the server, not of the machine.
            '--innodb-flush-log-at-trx-commit=2', '--sync-binlog=0',
            '--innodb-buffer-pool-size=64M', '--innodb-log-file-size=32M']


def write_config(lab, where, socket, backend='ovn', rabbit=None):
    """neutron.conf and uwsgi.ini in a folder."""
    for name in (f'neutron-{backend}.conf', 'uwsgi.ini'):
        target = 'neutron.conf' if name.startswith('neutron') else name
        settings.write(where / target, settings.template(
            f'{name}.in', venv=lab.venv_neutron, where=where,
            lab=settings.LAB, socket=socket, rabbit=rabbit or 'fake:///'), 0o600)
    for name in ('lock', 'scratch'):
        (where / name).mkdir(parents=True, exist_ok=True)


def make_template(lab, where):
    """A data directory with Neutron's empty schema, made once.

    :param where: scratch folder; the template replaces lab.mysql_template.
    """
    data, socket = where / 'data', where / 'my.sock'
    where.mkdir(parents=True)
    write_config(lab, where, socket)

    def do(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, cwd=where,
                              env=parts.environment(lab)
                              | {'TMPDIR': str(where / 'scratch')})
        if done.returncode:
            raise settings.LabError(f'{argv[0]}: {done.stdout[-2000:]}'
                                    f'{done.stderr[-2000:]}')

    do('mariadb-install-db', '--no-defaults', f'--datadir={data}',
       '--user=root', '--auth-root-authentication-method=normal',
       '--skip-test-db', '--skip-name-resolve',
       '--innodb-log-file-size=32M')
    with open(where / 'mariadbd.log', 'w') as log:
        server = subprocess.Popen(mariadbd(data, where / 'scratch', socket),
                                  stdout=log, stderr=log, cwd=where)
    try:
        ui.wait_for(parts.unix_answers(str(socket)), 60, 'MariaDB')
        do('mariadb', '--no-defaults', '-S', str(socket), '-e',
           'CREATE DATABASE neutron CHARACTER SET utf8mb3')
        do(str(lab.venv_neutron / 'bin' / 'neutron-db-manage'),
           '--config-file', str(where / 'neutron.conf'), 'upgrade', 'heads')
    finally:
        server.terminate()
        server.wait(60)
    shutil.rmtree(lab.mysql_template, ignore_errors=True)
    data.rename(lab.mysql_template)


def make_parts(lab):
    ovn, mysql = lab.state / 'ovn', lab.state / 'mysql'
    where, socket = lab.state / 'neutron', lab.state / 'mysql' / 'my.sock'

    def database(name, port):
        path = ovn / f'{name}.db'

        def before():
            ovn.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                parts.run(lab, ['ovsdb-tool', 'create', path,
                                f'/usr/share/ovn/ovn-{name}.ovsschema'])

        def after():
            parts.run(lab, [f'ovn-{name}ctl', f'--db=tcp:127.0.0.1:{port}',
                            'init'])

        return parts.Part(
            lab, f'ovn-{name}',
            lambda: ['ovsdb-server', path, f'--remote=ptcp:{port}:0.0.0.0',
                     f'--remote=punix:{ovn}/{name}.sock',
                     f'--unixctl={ovn}/{name}.ctl'],
            before=before, after=after,
            ready=parts.tcp_answers('127.0.0.1', port))

    def copy_template():
        (mysql / 'scratch').mkdir(parents=True, exist_ok=True)
        if not (mysql / 'data').exists():
            subprocess.run(['cp', '-a', '--reflink=auto', lab.mysql_template,
                            mysql / 'data.part'], check=True)
            (mysql / 'data.part').rename(mysql / 'data')

    return [
        database('nb', 6641), database('sb', 6642),
        parts.Part(lab, 'northd',
                   lambda: ['ovn-northd', f'--ovnnb-db={NB}',
                            f'--ovnsb-db={SB}',
                            f'--unixctl={ovn}/northd.ctl'],
                   env={'OVN_RUNDIR': ovn}),
        parts.Part(lab, 'mariadb',
                   lambda: mariadbd(mysql / 'data', mysql / 'scratch',
                                    socket),
                   before=copy_template,
                   ready=parts.unix_answers(str(socket))),
        parts.Part(lab, 'neutron',
                   lambda: [lab.venv_neutron / 'bin' / 'uwsgi', '--ini',
                            where / 'uwsgi.ini'],
                   before=lambda: write_config(
                       lab, where, socket, lab.spec['backend']),
                   env={'OS_NEUTRON_CONFIG_DIR': where, 'TMPDIR':
                        where / 'scratch', 'PYTHONWARNINGS': 'ignore',
                        'OS_NEUTRON_CONFIG_FILES': 'neutron.conf'},
                   ready=parts.http_answers(settings.CP_IP, 9696,
                                            '/v2.0/networks'),
                   cwd='/', whole=True, timeout=120)]


def call(method, path, body=None, timeout=60):
    """One request to Neutron; the answer as an object."""
    def request():
        link = http.client.HTTPConnection(settings.CP_IP, 9696,
                                          timeout=timeout)
        try:
            link.request(method, f'/v2.0/{path}',
                         json.dumps(body) if body else None,
                         {'Content-Type': 'application/json'})
            answer = link.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as exc:
            raise OSError(str(exc)) from exc
        finally:
            link.close()

    status, data = procs.in_netns(parts.CP_NETNS, request)
    if status >= 300:
        raise settings.LabError(f'{method} {path}: {status} '
                                f'{data[:500].decode(errors="replace")}')
    return json.loads(data) if data else None


def ensure(kind, name, create=True, **fields):
    """The object of that name, made when it is not there."""
    plural = f'{kind}s'
    found = call('GET', f'{plural.replace("_", "-")}?name={name}')[plural]
    if found or not create:
        return found[0] if found else None
    return call('POST', plural.replace('_', '-'),
                {kind: dict(fields, name=name)})[kind]


def _group():
    group = ensure('security_group', 'pods', stateful=False)
    have = {(r['direction'], r['ethertype'])
            for r in group['security_group_rules']
            if not r['remote_group_id'] and not r['protocol']}
    for direction in ('ingress', 'egress'):
        for family in ('IPv4', 'IPv6'):
            if (direction, family) not in have:
                call('POST', 'security-group-rules', {'security_group_rule': {
                    'security_group_id': group['id'],
                    'direction': direction, 'ethertype': family}})
    return group


def _pod_network():
    pods = ensure('network', 'pods')
    return pods, [
        ensure('subnet', 'pods4', network_id=pods['id'], ip_version=4,
               cidr=settings.POD_CIDR, enable_dhcp=False),
        # Neutron's own choice of a v6 gateway would be the subnet's first
        # address, which is the routers' anycast address.
        ensure('subnet', 'pods6', network_id=pods['id'], ip_version=6,
               cidr=settings.POD_CIDR6, gateway_ip=settings.POD_GATEWAY6,
               enable_dhcp=False)]


def _provider_network():
    provider = ensure('network', 'provider', **{
        'router:external': True, 'provider:network_type': 'flat',
        'provider:physical_network': 'physnet1'})
    for version, cidr, gateway, first, last in (
            (4, '192.168.60.0/24', settings.TUNNEL_IP, '192.168.60.100',
             '192.168.60.150'),
            (6, 'fd60::/64', settings.TUNNEL_IP6, 'fd60::100', 'fd60::150')):
        ensure('subnet', f'provider{version}', network_id=provider['id'],
               ip_version=version, cidr=cidr, gateway_ip=gateway,
               enable_dhcp=False,
               allocation_pools=[{'start': first, 'end': last}])
    return provider


def make_networks(lab):
    """The pods' network, group and router, and the provider network.

    :returns: what the product and the tests must know of them.
    """
    group, (pods, subnets), provider = ui.together(
        _group, _pod_network, _provider_network)
    router = ensure('router', 'pods', external_gateway_info={
        'network_id': provider['id'], 'enable_snat': False})
    wired = {f['subnet_id'] for p in
             call('GET', f'ports?device_id={router["id"]}')['ports']
             for f in p['fixed_ips']}
    for subnet in subnets:
        if subnet['id'] not in wired:
            call('PUT', f'routers/{router["id"]}/add_router_interface',
                 {'subnet_id': subnet['id']})
    gateways = [f['ip_address'] for f in
                router['external_gateway_info']['external_fixed_ips']]
    facts = {'url': settings.NEUTRON, 'network': pods['id'],
             'subnets': [s['id'] for s in subnets], 'mtu': pods['mtu'],
             'security_group': group['id'], 'router': router['id'],
             'provider_network': provider['id'], 'gateways': gateways}
    settings.write(lab.state / 'neutron.json', json.dumps(facts, indent=1))
    return facts
