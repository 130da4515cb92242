#!/bin/sh
# Put the CNI plugin and its configuration where the container runtime looks.
# Each file appears at once (rename), the configuration last: the runtime
# takes it as "the network is ready".
set -eu
bin=${1:-/host/opt/cni/bin}
conf=${2:-/host/etc/cni/net.d}
cp /opt/kuryr-cilium/share/kuryr-cilium-cni "$bin/.kuryr-cilium-cni"
chmod 755 "$bin/.kuryr-cilium-cni"
mv "$bin/.kuryr-cilium-cni" "$bin/kuryr-cilium-cni"
cat >"$conf/.10-kuryr-cilium.conflist" <<J
{
  "cniVersion": "1.0.0",
  "name": "kuryr-cilium",
  "plugins": [{"type": "kuryr-cilium-cni"}]
}
J
mv "$conf/.10-kuryr-cilium.conflist" "$conf/10-kuryr-cilium.conflist"
