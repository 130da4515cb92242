#!/bin/bash
# Compile the eBPF programs: tools/build_bpf.sh [OUTPUT]
#
# By default beside the package, where the agent looks for them first.
set -eu
datapath=$(cd "$(dirname "$0")/../kuryr_cilium/datapath" && pwd)
exec "$datapath/src/build.sh" "${1:-$datapath/kuryr_cilium.bpf.o}"
