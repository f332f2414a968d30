# klynge dev: three nodes on this machine; agents and nodes are killed, started, cut off; down leaves nothing, also of a half-made cluster.
dev() { "$BINARY" --data-dir "$WORK/dev" dev "$@"; }
trap 'dev down --all >/dev/null 2>&1 || true' EXIT
unset KUBECONFIG
admin=$WORK/dev.kubeconfig
d() { k --kubeconfig "$admin" "$@"; }

# The control groups of our clusters: their names carry a hash of the directory, since other tests may run beside this one.
mine=none
groups() { find /sys/fs/cgroup -type d -path "*klynge-dev/e2e*" | grep -E "/($mine)(/|\$)" | sort || true; }
group_of() { sed -n 's/.*"group": "\(.*\)".*/\1/p' "$WORK/dev/$1/cluster.json"; }

# What a cluster leaves: groups, interfaces, routes, rules, mounts, files, processes in its groups.
traces() {
  groups
  ip -o link | sed 's/^[0-9]*: //; s/@.*//; s/:.*//' | sort
  ip -o route | sort
  ip -o -4 address show up0 | sed 's/ *valid_lft.*//'
  nft list tables 2>&1 | grep klynge-dev || true
  grep -c "$WORK/dev" /proc/self/mountinfo || true
  ls -A "$WORK/dev" 2>/dev/null || true
  cat /proc/sys/net/ipv4/ip_forward
}
before=$(traces)

# wrong command lines change nothing
refuses "cannot be a cluster's name" dev up --name A
refuses "room for 5 nodes" dev up --name e2e --nodes 6 --subnet 198.51.100.0/29
refuses "overlaps 192.0.2.0/24" dev up --name e2e --subnet 192.0.2.128/25
refuses "overlaps 10.42.0.0/16" dev up --name e2e --subnet 10.42.7.0/24
refuses "cannot open the archive" dev up --name e2e --image "$WORK/absent.tar"
refuses "there is no cluster e2e" dev status --name e2e
says "There is no cluster e2e" dev down --name e2e
same "traces of refused commands" "$before" "$(traces)"

# up: all Ready, one image on all, pods on each, logs and exec wherever a pod is
dev up --name e2e --nodes 3 --cpus 1 --memory 2Gi --image "$WORK/test.tar" --kubeconfig "$admin"
refuses "there is a cluster e2e already" dev up --name e2e
refuses "that is not of this cluster" "$BINARY" --data-dir "$WORK/elsewhere" dev up --name e2e
[ ! -e "$WORK/elsewhere" ]
mine=$(group_of e2e)
[ -n "$(groups)" ]
d wait node --all --for=condition=Ready --timeout=5s
same "nodes" "e2e-1 e2e-2 e2e-3" "$(d get nodes -o jsonpath='{.items[*].metadata.name}')"
same "the share of a node" "1 2097152Ki" "$(d get node e2e-2 -o jsonpath='{.status.capacity.cpu} {.status.capacity.memory}')"
dev image import "$WORK/test.tar" --name e2e
d create deployment web --image=klynge-test:1 --replicas=6 -- sh -c 'echo here is $HOSTNAME; sleep 100000'
d rollout status deployment/web --timeout=30s
same "nodes with pods" 3 "$(d get pods -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)"
for pod in $(d get pods -o jsonpath='{.items[*].metadata.name}'); do
  same "its log" "here is $pod" "$(d logs "$pod")"
  same "exec" "$pod" "$(d exec "$pod" -- hostname)"
done

# each node is a machine of its own
same "its name" e2e-2 "$(dev exec e2e-2 -- hostname)"
same "its exit code" 7 "$(dev exec e2e-2 -- sh -c 'exit 7' || echo $?)"
[ "$(dev exec e2e-2 -- readlink /proc/self/ns/net)" != "$(dev exec e2e-3 -- readlink /proc/self/ns/net)" ]
says "^1 .*" dev exec e2e-2 -- sh -c 'echo 1 $(cat /proc/1/comm)'
refuses "has no node e2e-4" dev node kill e2e-4

# agents end and come back, that of the server too: no pod is touched
runs() { d get pods -o jsonpath='{range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}' | sort; }
births() { for n in 1 2 3; do dev exec e2e-$n -- sh -c 'for p in $(pgrep -x sleep); do echo $p $(cut -d" " -f22 /proc/$p/stat); done' | sort; done; }
runs_before=$(runs) births_before=$(births)
[ "$(wc -l <<<"$births_before")" -ge 6 ]
dev node kill-agent e2e-2
says "e2e-2 +agent away \(signal 9\)" dev status --name e2e
same "processes without their agent" "$births_before" "$(births)"
dev node restart-agent e2e-2
dev node kill-agent e2e-1
dev node start-agent e2e-1
says "e2e-1 +ready" dev status --name e2e
eventually 10 d get --raw /readyz
same "processes after the agents came back" "$births_before" "$(births)"
same "containers after the agents came back" "$runs_before" "$(runs)"
pod=$(d get pods -o jsonpath='{.items[?(@.spec.nodeName=="e2e-2")].metadata.name}' | cut -d' ' -f1)
eventually 10 d exec "$pod" -- true

# silence, both ways and one way; frozen
node2=$(d get node e2e-2 -o jsonpath='{.status.addresses[0].address}')
# any answer will do, also that nobody listens there
answers() { local code=0; curl -sk --max-time 0.5 -o /dev/null "https://$node2:10250/healthz" 2>/dev/null || code=$?; [ $code -ne 28 ]; }
silent() { ! answers; }
# packets that arrive at node 2's interface
received() { dev exec e2e-2 -- cat /sys/class/net/eth0/statistics/rx_packets; }
answers
dev node partition e2e-2; silent
dev node partition e2e-2 --direction to
seen=$(received); silent; same "packets that arrive while what is sent to the node is lost" "$seen" "$(received)"
dev node partition e2e-2 --direction from
seen=$(received); silent; [ "$(received)" -gt "$seen" ]
says "e2e-2 +.*cut off \(from\)" dev status --name e2e
dev node heal e2e-2; eventually 5 answers
dev node pause e2e-2
refuses "is paused" dev exec e2e-2 -- true
says "e2e-2 +paused" dev status --name e2e
refuses "is paused" dev node stop-agent e2e-2
dev node resume e2e-2; dev exec e2e-2 -- true

# slow, lossy, narrow, each alone and undone by what undoes it; the agent has found its server again
node2_is_ready() { d get node e2e-2 -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
eventually 20 node2_is_ready
milliseconds() { curl -sk --max-time 20 -o /dev/null -w '%{time_connect}' "https://$node2:10250/healthz" | awk '{ print int($1 * 1000) }'; }
refuses "give --delay, --loss or --rate" dev node slow e2e-2
refuses "a packet cannot arrive before it was sent" dev node slow e2e-2 --delay 10 --jitter 20
refuses "percentage from 0 to 100" dev node slow e2e-2 --loss 101
says "e2e-2 is slow: delay 80ms ±20ms by (netem|a queue), rate 100mbit" dev node slow e2e-2 --delay 80 --jitter 20 --rate 100mbit
says "e2e-2 +ready, slow \(delay 80ms ±20ms by (netem|a queue), rate 100mbit\)" dev status --name e2e
for _ in 1 2 3; do took=$(milliseconds); [ "$took" -ge 120 ] || { echo "connected after $took ms" >&2; exit 1; }; done
eventually 10 node2_is_ready
# a large answer, whole, through the delay; the tunnel of before the cut may be replaced under a first one
eventually 20 d exec "$pod" -- true
same "bytes through the delay" 2000000 "$(d exec "$pod" -- head -c 2000000 /dev/zero | wc -c)"
dev node slow e2e-2 --loss 100; silent
says "e2e-2 +ready, slow \(loss 100%\)" dev status --name e2e
dev node heal e2e-2; eventually 5 answers
dev node slow e2e-2 --delay 300ms
dev node slow e2e-2 --off
took=$(milliseconds); [ "$took" -lt 120 ] || { echo "connected after $took ms though nothing is slow" >&2; exit 1; }
same "what a slow link leaves" "" "$(dev exec e2e-2 -- nft list tables | grep klynge-dev || true)"
dev node slow e2e-3 --delay 50 # goes with the node

# the power of a node is cut: nothing of it runs, its disk stays
dev node kill e2e-3
says "e2e-3 +off +[0-9.]+ +0" dev status --name e2e
refuses "does not run" dev exec e2e-3 -- true
dev node start e2e-3
d wait node e2e-3 --for=condition=Ready --timeout=10s
d rollout status deployment/web --timeout=30s
pod=$(d get pods -o jsonpath='{.items[?(@.spec.nodeName=="e2e-3")].metadata.name}' | cut -d' ' -f1)
eventually 10 d exec "$pod" -- true

# two clusters beside each other; one goes with a node paused, an agent dead, a link cut
dev up --name e2e-b --nodes 2 --kubeconfig "$admin"
mine="$mine|$(group_of e2e-b)"
says "^e2e +3 of 3" dev ls
says "^e2e-b +2 of 2" dev ls
dev node pause e2e-b-2
dev node partition e2e-b-1
dev down --name e2e-b
says "^e2e +3 of 3" dev ls
same "the other's entries in the kubeconfig" "klynge-e2e" "$(d config get-contexts -o name)"
same "the context of before is current again" "klynge-e2e" "$(d config current-context)"
says '"nodes":3,.*"nodesUp":3|"nodesUp":3,.*"nodes":3' dev -o json ls

# down, while an init was killed from outside
kill -9 "$(dev -o json status --name e2e | python3 -c 'import json, sys
node = [one for one in json.load(sys.stdin)["nodes"] if one["name"] == "e2e-2"][0]
assert node["processes"] > 0 and isinstance(node["init"], int)
print(node["init"])')"
eventually 5 says "e2e-2 +off" dev status --name e2e
dev down --name e2e
same "what is left" "$before" "$(traces)"
[ ! -e "$admin" ]
says "There is no cluster e2e" dev down --name e2e

# killed while it is being made
for delay in 0.03 0.1 0.3; do
  dev up --name e2e --nodes 3 --kubeconfig "$admin" >/dev/null 2>&1 & up=$!
  sleep $delay
  kill -9 $up 2>/dev/null || true
  wait $up || true
  dev down --name e2e
  same "what is left of an up that was killed after $delay s" "$before" "$(traces)"
done
rm -f "$admin"
