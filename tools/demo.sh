#!/bin/bash
# The demo: brings a cluster up, deploys kuryr-cilium, plays a scene.
#
#   ./tools/demo.sh [--keep]        (as root; --keep leaves everything up)
#
# Exits with 0 if everything was as it should be.
set -u
cd "$(dirname "$0")/.."
lab=./tools/lab/lab
keep='' was_up='' failures=0
started=$SECONDS

case ${1:-} in
'') ;;
--keep) keep=1 ;;
*) sed -n '2,6s/^# \{0,1\}//p' "$0"; [ "$1" = --help ]; exit ;;
esac
[ "$(id -u)" = 0 ] || { echo 'run me as root: the demo makes network namespaces' >&2; exit 1; }

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' blue=$'\e[1;34m' off=$'\e[0m'
else
    bold='' dim='' red='' green='' blue='' off=''
fi

act() {
    printf '\n%s%s%s\n' "$blue" "$1" "$off"
    printf '%s%s%s\n' "$blue" "${1//?/-}" "$off"
}
say() { printf '%s\n' "$*"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$off"; }
good() { printf '%s%s%s  %s\n' "$green" 'ok  ' "$off" "$*"; }
bad() {
    printf '%s%s%s  %s\n' "$red" 'FAIL' "$off" "$*"
    failures=$((failures + 1))
}
die() {
    bad "$*"
    exit 1
}
indent() { sed 's/^/  /'; }
kubectl() { $lab kubectl "$@"; }
on_node() { $lab shell "$1" -- "${@:2}"; }
now() { date +%s%N; }
seconds() { awk -v ns="$1" 'BEGIN { printf "%.1f", ns / 1e9 }'; }

service=deathstar.galaxy.svc.cluster.local
scratch=$(mktemp -d /tmp/kuryr-cilium-demo.XXXXXX)
finish() {
    local code=$?
    rm -rf "$scratch"
    if [ -n "$keep" ]; then
        :
    elif [ -n "$was_up" ]; then
        act 'Curtain'
        say 'The lab was up before, so it stays; the scene is removed.'
        kubectl delete -f tools/demo/scene.yaml --ignore-not-found --wait=false >/dev/null
    else
        act 'Curtain'
        $lab down 2>&1 | indent
    fi
    exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

# Runs in a ship: asks each address to land, all at once, and prints a line
# "ADDRESS HUNDREDTHS_OF_A_SECOND ANSWER" for each.
# shellcheck disable=SC2016
land='
clock() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}"; }
for address in "$@"; do
    (
        begin=$(clock)
        answer=$(printf "GET /echo?msg=landed HTTP/1.0\r\n\r\n" | nc -w 2 $address 80 2>&1 | tail -n 1)
        echo "$address $(($(clock) - begin)) $answer"
    ) &
done
wait'

# landings WHAT SHIP:RESULT...: every ship tries every replica over IPv4 and
# IPv6, a table shows what came of it, and it is compared with what it should be.
landings() {
    local what=$1 item ship i
    shift
    for item in "$@"; do
        ship=${item%%:*}
        kubectl exec -n galaxy "$ship" -- sh -c "$land" sh "${star_ip4[@]}" "${star_ip6[@]}" \
            >"$scratch/$ship" 2>&1 &
    done
    wait
    printf '\n  %-24s' "$what"
    printf '%-40s' "${star_nodes[@]/#/deathstar on }"
    printf '\n  %-24s%-20s%-20s%-20s%-20s\n' '' IPv4 IPv6 IPv4 IPv6
    local -a wrong=()
    local address
    for item in "$@"; do
        ship=${item%%:*}
        printf '  %-24s' "$ship on ${node_of[$ship]}"
        for i in "${!star_nodes[@]}"; do
            for address in "${star_ip4[$i]}" "${star_ip6[$i]}"; do
                local hundredths answer colour=$green
                read -r hundredths answer < <(sed -n "s/^$address //p" "$scratch/$ship") \
                    || answer='no answer'
                answer=${answer#nc: }
                if [ "$answer" != "${item#*:}" ]; then
                    colour=$red
                    wrong+=("$ship")
                fi
                printf '%s%-20s%s' "$colour" \
                    "$answer ($(awk -v h="${hundredths:-0}" 'BEGIN { printf "%.2f", h / 100 }') s)" "$off"
            done
        done
        printf '\n'
    done
    printf '\n'
    for item in "$@"; do
        if [[ " ${wrong[*]:-} " == *" ${item%%:*} "* ]]; then
            bad "${item%%:*}: ${item#*:} was expected everywhere"
        else
            good "${item%%:*}: ${item#*:}, on the same node and across nodes, over IPv4 and IPv6"
        fi
    done
}

# by_name SHIP ANSWER: a ship asks for the service by its name.
by_name() {
    local answer
    show "kubectl exec $1 -- /agnhost connect --timeout=2s $service:80"
    answer=$(kubectl exec -n galaxy "$1" -- sh -c \
        "/agnhost connect --timeout=2s $service:80 2>&1 || true" 2>&1)
    if [ "${answer:-CONNECTED}" = "$2" ]; then
        good "$1, by the name of the service: $2"
    else
        bad "$1, by the name of the service: $2 was expected, not ${answer:-CONNECTED}"
    fi
}

act 'Act 1: a cluster'
case $($lab status -o json | tr -d ' \n') in
*'"up":false'*) ;;
*'"bare":true'*) die "a lab without the product is up: $lab down" ;;
*) was_up=1 ;;
esac
if [ -n "$was_up" ]; then
    say 'A lab is up already: it is used, and repaired if need be.'
    show "$lab up"
    $lab up 2>&1 | tail -n 1 | indent
    [ "${PIPESTATUS[0]}" = 0 ] || die 'the lab did not come up'
else
    say "Two nodes, Neutron with ML2/OVN, Open vSwitch and RabbitMQ, in network namespaces of"
    say "this machine; kuryr-cilium runs from its own configuration files. What is built for it"
    say 'the first time (up to 20 minutes) is kept for the next.'
    say
    show "$lab build && $lab up"
    { $lab build && $lab up; } 2>&1 | indent
    [ "${PIPESTATUS[0]}" = 0 ] || die 'the lab did not come up'
fi
up_after=$((SECONDS - started))
show "$lab kubectl get nodes"
kubectl get nodes | indent

act 'Act 2: the cast'
begin=$(now)
show "$lab kubectl apply -f tools/demo/scene.yaml"
kubectl apply -f tools/demo/scene.yaml | indent
kubectl wait -n galaxy --for=condition=Available --timeout=90s deployment/deathstar >/dev/null \
    && kubectl wait -n galaxy --for=condition=Ready --timeout=90s pod/tiefighter pod/xwing >/dev/null \
    || { kubectl get pods,events -n galaxy; die 'the pods did not become ready'; }
say
good "ready after $(seconds $(($(now) - begin))) s: each pod has a Neutron port that os-vif plugged into Open vSwitch"
say
kubectl get pods -n galaxy -o json >"$scratch/pods.json"
$lab run -- curl --noproxy '*' -fsS 'http://192.168.50.1:9696/v2.0/ports?device_owner=compute:kuryr' \
    >"$scratch/ports.json" || die 'Neutron does not answer'
declare -A node_of=()
star_nodes=() star_ip4=() star_ip6=()
while read -r name kind node ip4 ip6 port; do
    [ "$name" != POD ] || continue
    [ "$port" != none ] || bad "$name has no port in Neutron"
    if [ "$kind" = deathstar ]; then
        star_nodes+=("$node") star_ip4+=("$ip4") star_ip6+=("$ip6")
    fi
    node_of[$name]=$node
done < <(python3 - "$scratch" <<'END' | tee "$scratch/cast"
import json
import sys

folder = sys.argv[1]
ports = {port['device_id']: port
         for port in json.load(open(folder + '/ports.json'))['ports']}
form = '%-28s %-11s %-7s %-13s %-22s %s'
print(form % ('POD', 'CLASS', 'NODE', 'IPV4', 'IPV6', 'NEUTRON PORT'))
pods = json.load(open(folder + '/pods.json'))['items']
for pod in sorted(pods, key=lambda pod: (pod['spec']['nodeName'],
                                         pod['metadata']['name'])):
    port = ports.get(pod['metadata']['uid'], {'fixed_ips': []})
    found = [item['ip_address'] for item in port['fixed_ips']]
    print(form % (
        pod['metadata']['name'], pod['metadata']['labels']['class'],
        pod['spec']['nodeName'],
        next((a for a in found if '.' in a), '-'),
        next((a for a in found if ':' in a), '-'), port.get('id', 'none')))
END
)
indent <"$scratch/cast"
[ "${#star_nodes[@]}" = 2 ] || die 'there should be two replicas of the deathstar'

act 'Act 3: a galaxy without policy'
landings 'without policy' tiefighter:landed xwing:landed
by_name tiefighter CONNECTED
by_name xwing CONNECTED

act 'Act 4: only the empire may land'
show 'cat tools/demo/policy.yaml'
sed -n '/^spec:/,$p' tools/demo/policy.yaml | indent
show "$lab kubectl apply -f tools/demo/policy.yaml"
begin=$(now)
kubectl apply -f tools/demo/policy.yaml | indent
until ! kubectl exec -n galaxy xwing -- /agnhost connect --timeout=300ms "${star_ip4[0]}:80" >/dev/null 2>&1; do
    [ $(($(now) - begin)) -lt 15000000000 ] || die 'the policy is not in force after 15 s'
done
landings 'with empire-only' tiefighter:landed 'xwing:timed out'
by_name tiefighter CONNECTED
by_name xwing TIMEOUT

act 'Act 5: what the nodes saw'
say 'A node knows the names of its own pods, and the addresses of all.'
xwing=$(awk '$1 == "xwing" { print $4 "\\|" $5 }' "$scratch/cast")
for node in node-a node-b; do
    show "$lab shell $node -- kuryr-cilium monitor --drops"
    on_node "$node" kuryr-cilium monitor --drops >"$scratch/drops" 2>&1
    grep -e "$xwing" "$scratch/drops" | tail -n 4 | indent
    if grep -e "$xwing" "$scratch/drops" | grep -q -e '-> galaxy/deathstar-'; then
        good "$node tells of the X-wing's attempts"
    else
        bad "$node does not tell of the X-wing's attempts"
    fi
done
say
show "$lab shell node-a -- kuryr-cilium endpoint list --namespace galaxy"
on_node node-a kuryr-cilium endpoint list --namespace galaxy \
    -c name -c state -c addresses -c ingress -c egress 2>&1 | indent
[ "${PIPESTATUS[0]}" = 0 ] || bad 'the endpoints could not be listed'

act 'Summary'
say "  cluster up after $up_after s, the whole demo took $((SECONDS - started)) s"
if [ "$failures" = 0 ]; then
    say "  ${green}everything was as it should be${off}"
else
    say "  ${red}$failures things were not as they should be${off}"
fi
if [ -n "$keep" ]; then
    cat <<END

  ${bold}Look further${off}: the lab is up.
    $lab status                                  what runs
    $lab kubectl get pods -A -o wide
    $lab kubectl exec -n galaxy -it xwing -- sh
    $lab shell node-a -- kuryr-cilium monitor --follow
    $lab shell node-a -- kuryr-cilium status
    $lab shell node-a -- ovs-vsctl show
    $lab down                                    the end
END
else
    say
    say "  ${bold}Look further${off}: $0 --keep leaves the lab up; doc/source/contributor has its page."
fi
[ "$failures" = 0 ]
