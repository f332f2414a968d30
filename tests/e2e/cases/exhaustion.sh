# What runs out on a node: pod addresses, the kernel's table of connections, the patience of cluster DNS. Each is told, costs nobody
# else anything, and leaves nothing behind; nor do ten agents that were killed.
second=klynge-small-$$
router=$OUTSIDE
NS=exhaustion-test
there() { nsenter --net="/run/netns/$second" "$BINARY" --data-dir "$WORK/small" "$@"; }
leave() {
  k delete namespace $NS --wait=false >/dev/null 2>&1 || true
  k delete node small --wait=false >/dev/null 2>&1 || true
  there down --purge --quiet >/dev/null 2>&1 || true
  ip netns del "$second" 2>/dev/null || true
  ip -n "$(basename "$router")" link del out2 2>/dev/null || true
}
trap leave EXIT
behind_router "$second" out2

# A node with five addresses for pods: its Node was made beforehand, with a range that somebody chose.
k create -f - <<'YAML'
apiVersion: v1
kind: Node
metadata: {name: small}
spec: {podCIDR: 10.42.250.0/29, podCIDRs: [10.42.250.0/29]}
YAML
read -r server token <<<"$(klynge token create 2>/dev/null | awk '{ print $6, $8 }')"
there agent --background --node-name small --server "$server" --token "$token"
k wait node/small --for=condition=Ready --timeout=30s
same "its range" 10.42.250.0/29 "$(k get node small -o jsonpath='{.spec.podCIDR}')"
there image import "$WORK/test.tar" >/dev/null
k create namespace $NS

echo "pod addresses"
# What a node holds of interfaces, addresses, routes and rules, but for numbers that the kernel counts up.
held() {
  { ip -n "$second" -o link | sed 's/^[0-9]*: //; s/@.*//; s/:.*//'
    ip -n "$second" -o address | awk '{ print $2, $3, $4 }'
    ip -n "$second" route show table all
    ip -n "$second" -6 route show table all
    ip -n "$second" rule
    nsenter --net="/run/netns/$second" nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//; s/expires [0-9a-z]*//'
  } | grep -v fe80:: | sort # the kernel gives these itself, some seconds after an interface is there
}
settled() { held >"$WORK/held.now"; cmp -s "$WORK/held.now" "$1"; }
shows() { eventually 30 settled "$1" || { diff "$1" "$WORK/held.now" >&2; return 1; }; }
held >"$WORK/held.empty"
k -n $NS apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 7
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      nodeName: small
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"]}]
YAML
has() { [ "$(k -n $NS get deployment many -o jsonpath='{.status.readyReplicas}')" = "$1" ]; }
eventually 60 has 5
told() { [[ $(k -n $NS get events --field-selector reason=FailedCreatePodSandBox -o jsonpath='{.items[*].message}') == *"all 5 pod addresses of 10.42.250.0/29 are in use; delete pods, or give the node a larger range"* ]]; }
eventually 20 told
same "the node" True "$(k get node small -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')"
# one that gets none starts by itself once another is gone
waiting() { k -n $NS get pods --field-selector status.phase=Pending -o name | sort; }
same "pods without an address" 2 "$(waiting | wc -l)"
k -n $NS scale deployment many --replicas=5 >/dev/null # the two that wait are the first to go
none_waits() { [ -z "$(waiting)" ]; }
eventually 30 none_waits
k -n $NS run late --image=klynge-test:1 --overrides='{"spec":{"nodeName":"small","terminationGracePeriodSeconds":1}}' -- \
  sh -c 'mkdir /w; echo late > /w/index.html; httpd -f -p 8080 -h /w'
refused() { [[ $(k -n $NS get events --field-selector involvedObject.name=late,reason=FailedCreatePodSandBox -o jsonpath='{.items[*].message}') == *"all 5 pod addresses"* ]]; }
eventually 20 refused
k -n $NS scale deployment many --replicas=4 >/dev/null
k -n $NS wait pod/late --for=condition=Ready --timeout=70s

echo "ten agents that are killed"
started() { k -n $NS get pods -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].containerID}{"\n"}{end}' | sort; }
gone() { ! kill -0 "$1" 2>/dev/null; }
kill_agent() { local agent; agent=$(cat "$WORK/small/server.pid"); kill -9 "$agent"; eventually 10 gone "$agent"; }
again() { there agent --background >"$WORK/again.log" 2>&1 || { cat "$WORK/again.log" >&2; return 1; }; }
pods_before=$(started)
held >"$WORK/held.before"
for _ in $(seq 10); do
  kill_agent
  again
done
eventually 30 says True k get node small -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}'
shows "$WORK/held.before"
same "the pods" "$pods_before" "$(started)"
# and in the midst of pods that come and go
for _ in $(seq 3); do
  k -n $NS scale deployment many --replicas=1 >/dev/null
  sleep 0.3 # somewhere in the midst of it
  kill_agent
  k -n $NS scale deployment many --replicas=4 >/dev/null
  again
  eventually 60 has 4
done

echo "a table of tracked connections that is full"
k -n $NS expose pod late --port=80 --target-port=8080
reaches() { [ "$(k -n $NS exec deployment/many -- timeout 5 wget -qO- "http://late.$NS.svc.cluster.local/")" = late ]; } # by its name and its Service
eventually 10 reaches
nsenter --net="/run/netns/$second" python3 tests/e2e/tools/fill_conntrack.py 198.51.100.1
full() { [[ $(k get events --field-selector involvedObject.name=small,reason=ConntrackFull -o jsonpath='{.items[*].message}') == *"Conntrack table full: "*"sysctl -w net.netfilter.nf_conntrack_max="* ]]; }
for _ in 1 2 3 4 5; do reaches; done # the kernel makes room for new connections at the cost of those that had no answer
eventually 20 full
same "the node" True "$(k get node small -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')"

k -n $NS delete deployment many --wait=false >/dev/null
k -n $NS delete pod,service late --wait=false >/dev/null
shows "$WORK/held.empty"
same "addresses that are given" '{}' "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["allocations"])' "$WORK/small/network/addresses.json")"
