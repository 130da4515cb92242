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

"""The product in the lab: its programs, configuration and credentials."""


def cni_source(lab):
    return lab.clone / 'kuryr_cilium' / 'cni' / 'kuryr-cilium-cni.c'


def cni_client(lab):
    return lab.bin / 'kuryr-cilium-cni'


def bpf_object(lab):
    return lab.bin / 'kuryr_cilium.bpf.o'
