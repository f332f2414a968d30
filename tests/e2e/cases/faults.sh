# What goes wrong between machines, as those meet it who run them: names, addresses and tokens given twice or wrongly, bad links, machines that
# die while the server restarts or are cut off, ports and addresses that are taken or used up. Each is told, and nothing is wedged.
dev_nodes flt "$WORK/test.tar"
table() { "$BINARY" --data-dir "$DEV_DIRECTORY" dev "$@"; } # `dev` with its output
own() { "$BINARY" --data-dir "$DEV_DIRECTORY" --kubeconfig "$admin" "$@"; }
ready() { d get node "flt-$1" -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status} {.reason}{end}'; }
is() { [ "$(ready "$1")" = "$2" ]; }
server=https://$(d get node flt-1 -o jsonpath='{.status.addresses[0].address}'):6443
address=$(d get node flt-2 -o jsonpath='{.status.addresses[0].address}')
token=$(own token create --uses 3 2>/dev/null | awk '{ print $8 }')

# One more machine on the nodes' network, which tries to join wrongly.
fourth=klynge-fourth-$$
# what it ran goes with it; its cluster is not asked
purge_clone() { nsenter --net="/run/netns/$fourth" "$BINARY" --data-dir "$WORK/fourth" down --purge --quiet >/dev/null; }
trap 'purge_clone 2>/dev/null || true; ip netns del "$fourth" 2>/dev/null || true; ip link del kd-fourth 2>/dev/null || true; dev down --all >/dev/null 2>&1 || true' EXIT
ip netns add "$fourth"
ip -n "$fourth" link set lo up
ip link add kd-fourth type veth peer name eth0 netns "$fourth"
ip link set kd-fourth master kd-flt up
ip -n "$fourth" address add "${address%.*}.200/24" dev eth0
ip -n "$fourth" link set eth0 up
ip -n "$fourth" route add default via "${address%.*}.1"
there() { timeout 20 nsenter --net="/run/netns/$fourth" "$BINARY" --data-dir "$WORK/fourth" agent --server "$server" "$@"; }

echo "names, addresses and tokens"
refuses 'node flt-2 is in the cluster and healthy' there --node-name flt-2 --token "$token"
refuses 'no interface of this machine has this address' there --node-name other --advertise "$address" --token "$token"
refuses 'was the end cut off' there --node-name other --token "${token%???}"
does_not_hold='^error: the token does not hold: it is mistyped, has expired, or has admitted as many nodes as it may; make a new one with `klynge token create`$'
refuses "$does_not_hold" there --node-name other --token "zzzzzz.${token#*.}"
expired=$(own token create --ttl 1s 2>/dev/null | awk '{ print $8 }')
sleep 1.2 # a token's time is the wall clock's
refuses "$does_not_hold" there --node-name other --token "$expired"
# its agent is away: its machine is still the one of that name
dev node kill-agent flt-2
eventually 10 is 2 "Unknown AgentStopped"
refuses 'node flt-2 is in the cluster and not ready.*klynge node remove flt-2' there --node-name flt-2 --token "$token"
[ ! -e "$WORK/fourth/agent/identity.json" ]
dev node start-agent flt-2
# a network of this machine's own that holds the pods' range: the token is not used up by a machine that cannot join
once=$(own token create 2>/dev/null | awk '{ print $8 }')
ip -n "$fourth" address add 10.42.200.1/24 dev eth0
refuses "^error: --pod-cidr 10.42.0.0/16 holds this host's own address 10.42.200.1 \(eth0\); take this machine out of that network" there --node-name other --token "$once"
says "${once%%.*} +0 of 1" own token list
refuses 'not found' d get node other
ip -n "$fourth" address del 10.42.200.1/24 dev eth0

echo "a token for one machine, given to two"
nsenter --net="/run/netns/$fourth" "$BINARY" --data-dir "$WORK/fourth" agent --server "$server" --node-name other --token "$once" --kubelet-port 0 >"$WORK/other.log" 2>&1 & other=$!
joined() { [ "$(d get node other -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status}{end}' 2>/dev/null)" = True ]; }
eventually 20 joined
says "${once%%.*} +1 of 1" own token list
used_up="^error: cannot join: the request node-csr-[a-z0-9]+ was denied: the token ${once%%.*} has admitted 1 of 1 nodes; make a new one with \`klynge token create\`\$"
second() { timeout 20 nsenter --net="/run/netns/$fourth" "$BINARY" --data-dir "$WORK/fifth" agent --server "$server" --node-name fifth --token "$once"; }
refuses "$used_up" second
[ ! -e "$WORK/fifth/agent/identity.json" ]
refuses 'not found' d get node fifth
joined # the first one goes on
kill "$other"
wait "$other" 2>/dev/null || true
own node remove other --force >/dev/null 2>&1
purge_clone
rm -rf "$WORK/fifth"

echo "an identity that two machines have"
rm -rf "$WORK/fourth"; mkdir -p "$WORK/fourth/agent"
cp "$DEV_DIRECTORY/flt/2/klynge-data" "$DEV_DIRECTORY/flt/2/ranges" "$WORK/fourth/" 2>/dev/null || cp "$DEV_DIRECTORY/flt/2/klynge-data" "$WORK/fourth/"
cp "$DEV_DIRECTORY/flt/2/agent/identity.json" "$WORK/fourth/agent/"
nsenter --net="/run/netns/$fourth" "$BINARY" --data-dir "$WORK/fourth" agent --server "$server" >"$WORK/clone.log" 2>&1 & clone=$!
flapping() { [[ $(d get events --field-selector involvedObject.name=flt-2,reason=NodeFlapping -o jsonpath='{.items[*].message}') == *"two machines have its identity"* ]]; }
eventually 15 flapping
kill "$clone"
wait "$clone" 2>/dev/null || true
purge_clone
[ ! -e "$WORK/fourth" ]
eventually 20 says True ready 2
ip netns del "$fourth"

echo "bad links"
dev node slow flt-3 --loss 10 --delay 20 --jitter 10
sleep 5 # long enough for a hundred beats: none of the losses may be taken for silence
same "what happened to a node that loses a tenth" "" "$(d get events --field-selector involvedObject.name=flt-3,reason=NodeNotReady -o jsonpath='{.items[*].message}')"
same "its state" "True KubeletReady" "$(ready 3)"
dev node heal flt-3

echo "ports and addresses"
d apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: first}
spec:
  nodeName: flt-2
  containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"], ports: [{containerPort: 80, hostPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: second}
spec:
  nodeSelector: {kubernetes.io/hostname: flt-2}
  containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"], ports: [{containerPort: 80, hostPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {type: NodePort, selector: {app: x}, ports: [{port: 80, nodePort: 30111}]}
YAML
refuses 'provided port is already allocated' d create -f - <<'YAML'
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {type: NodePort, selector: {app: x}, ports: [{port: 80, nodePort: 30111}]}
YAML
unscheduled() { [[ $(d get pod second -o jsonpath='{.status.conditions[?(@.type=="PodScheduled")].message}') == *"didn't have free ports for the requested pod ports"* ]]; }
eventually 10 unscheduled

echo "cut off: a pod that asks for it ends by its machine's own clock, and its name is not given twice"
identity_on flt-3 1 'klynge.io/stop-when-cut-off: "3"' 99999
before=$(d get pod db-0 -o jsonpath='{.metadata.uid}')
lives() { table exec flt-3 -- pgrep -f 'sleep 99999' >/dev/null; }
ended() { ! lives; }
lives
dev node partition flt-3
eventually 10 ended
eventually 15 marked
same "the one pod of this name" "$before" "$(d get pod db-0 -o jsonpath='{.metadata.uid}')"
dev node heal flt-3
again() { [ "$(d get pod db-0 -o jsonpath='{.status.phase}' 2>/dev/null)" = Running ] && [ "$(d get pod db-0 -o jsonpath='{.metadata.uid}')" != "$before" ]; }
eventually 20 again

echo "a machine dies while the server restarts"
remembered() { grep -q flt-3 "$DEV_DIRECTORY/flt/1/answering-hosts"; }
eventually 10 remembered
dev node kill-agent flt-1
dev node kill flt-3
dev node start-agent flt-1
lost() { is 3 "Unknown NodeStatusUnknown"; }
eventually 20 lost # its Lease would take 40 s
eventually 15 says "True KubeletReady" ready 2
dev node start flt-3
eventually 20 says "True KubeletReady" ready 3
