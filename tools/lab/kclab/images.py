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

"""Container images made without a registry: docker archives of one layer."""

import hashlib
import io
import json
import tarfile

APPLETS = ('sh', 'arping', 'cat', 'cp', 'date', 'echo', 'env', 'grep', 'head',
           'hostname', 'id', 'ifconfig', 'ip', 'kill', 'ls', 'mkdir', 'nc',
           'netstat', 'nslookup', 'ping', 'ping6', 'ps', 'rm', 'sed', 'seq',
           'sleep', 'tail', 'tee', 'test', 'top', 'touch', 'traceroute',
           'true', 'wget', 'wc')
PASSWD = ('root:x:0:0:root:/:/bin/sh\n'
          'nobody:x:65534:65534:nobody:/:/bin/false\n')


def _add(archive, name, data=None, mode=0o755, kind=tarfile.REGTYPE, link=''):
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.linkname = mode, kind, link
    if data is not None:
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    else:
        archive.addfile(entry)


def make(target, name, files, entrypoint, links=None):
    """Write a docker archive.

    :param target: path of the archive.
    :param name: reference of the image, with a tag.
    :param files: {path in the image: path here}.
    :param links: {path in the image: what it points to}.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode='w') as archive:
        for folder, mode in (('etc', 0o755), ('bin', 0o755),
                             ('tmp', 0o1777)):
            _add(archive, folder, mode=mode, kind=tarfile.DIRTYPE)
        _add(archive, 'etc/passwd', PASSWD.encode(), 0o644)
        _add(archive, 'etc/nsswitch.conf', b'hosts: files dns\n', 0o644)
        for path, source in files.items():
            with open(source, 'rb') as content:
                _add(archive, path.lstrip('/'), content.read())
        for path, points_to in (links or {}).items():
            _add(archive, path.lstrip('/'), kind=tarfile.SYMTYPE,
                 link=points_to)
    layer = layer.getvalue()
    config = json.dumps({
        'architecture': 'amd64', 'os': 'linux',
        'config': {'Entrypoint': entrypoint, 'Env': ['PATH=/bin:/'],
                   'WorkingDir': '/'},
        'rootfs': {'type': 'layers', 'diff_ids': [
            f'sha256:{hashlib.sha256(layer).hexdigest()}']},
        'history': [{'created_by': 'tools/lab'}]}).encode()
    config_name = f'{hashlib.sha256(config).hexdigest()}.json'
    manifest = json.dumps([{'Config': config_name, 'RepoTags': [name],
                            'Layers': ['layer.tar']}]).encode()
    scratch = target.with_name(f'.{target.name}')
    with tarfile.open(scratch, 'w') as archive:
        _add(archive, config_name, config, 0o644)
        _add(archive, 'layer.tar', layer, 0o644)
        _add(archive, 'manifest.json', manifest, 0o644)
    scratch.rename(target)


def make_all(lab, programs):
    """The images of the lab: NAME.tar holds localhost/NAME:1.

    :param programs: {'pause': path, 'agnhost': path, 'coredns': path}.
    """
    lab.images.mkdir(parents=True, exist_ok=True)
    make(lab.images / 'pause.tar', 'localhost/pause:1',
         {'/pause': programs['pause']}, ['/pause'])
    make(lab.images / 'coredns.tar', 'localhost/coredns:1',
         {'/coredns': programs['coredns']}, ['/coredns'])
    make(lab.images / 'agnhost.tar', 'localhost/agnhost:1',
         {'/agnhost': programs['agnhost'], '/bin/busybox': '/bin/busybox'},
         ['/agnhost'], {f'/bin/{name}': 'busybox' for name in APPLETS})
