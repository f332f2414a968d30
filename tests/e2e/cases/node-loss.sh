# A node's agent is killed, a node is frozen, cut off and switched off, all are silent, the control plane is away: what is told,
# what becomes of pods and endpoints, and that the application goes on answering.
on() { "$BINARY" --data-dir "$WORK/loss" dev exec "loss-$1" -- "${@:2}"; } # on NUMBER COMMAND...
dev_nodes loss "$WORK/test.tar"

# A web tier and its backend, as guestbooks are built.
d apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: store}
spec:
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      nodeName: loss-1
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "klynge-test:1", command: [sh, -c, "echo kept > /www/value; exec httpd -f -p 6379 -h /www"]}
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: main
        image: klynge-test:1
        command: [sh, -c, "echo page > /www/page; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
YAML
d rollout status deployment/web --timeout=30s >/dev/null
d rollout status deployment/store --timeout=30s >/dev/null
identity_on loss-3
address=$(d get service web -o jsonpath='{.spec.clusterIP}')

# ready NUMBER: status, reason and taints in one line
ready() {
  d get node "loss-$1" -o jsonpath='{range .status.conditions[?(@.type=="Ready")]}{.status} {.reason}{end}{range .spec.taints[*]} {.key}:{.effect}{end}' |
    sed 's|node.kubernetes.io/||g'
}
# well NUMBER: ready; one that came and went often keeps the taint for a minute
well() { [[ "$(ready "$1")" == "True KubeletReady"* ]]; }
is() { [ "$(ready "$1")" = "$2" ]; }
# endpoints NODE: how many ready ones of web are on it
endpoints() { d get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName}{"\n"}{end}' | grep -c "^loss-$1\$" || true; }
has() { [ "$(endpoints "$1")" = "$2" ]; }
# page NODE: asked from a node: a page of the web tier, cluster DNS for the backend, the backend. (Cluster DNS is part of a node's
# agent: where that is away, its pods go on without names.)
page() {
  local backend
  backend=$(on "$1" busybox nslookup -type=a store.default.svc.cluster.local 10.43.0.10 | sed -n 's/^Address: *//p' | tail -n 1)
  on "$1" curl -sS --max-time 3 "http://$address/page"
  on "$1" curl -sS --max-time 3 "http://$backend:6379/value"
}
answers() { for _ in 1 2 3 4 5 6; do same "the page from node $1" "page kept" "$(page "$1" | xargs)" || return 1; done; }
containers() { d get pods -l 'app in (web,store,db)' -o jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort; }
for number in 1 2 3; do has $number 2; answers $number; done
untouched=$(containers)

echo "all at once"
# all at once: it is the server that is cut off, and nothing follows
dev node partition loss-2; dev node partition loss-3
eventually 10 is 2 "Unknown NodeStatusUnknown"
eventually 10 is 3 "Unknown NodeStatusUnknown"
sleep 6 # longer than it takes until pods would have to leave
same "taints while all are silent" "Unknown NodeStatusUnknown/Unknown NodeStatusUnknown" "$(ready 2)/$(ready 3)"
has 2 2; has 3 2
# The server's own node sees for itself that they do not answer, whoever is cut off: its connections find those that are left.
eventually 5 answers 1
dev node heal loss-2; dev node heal loss-3
for number in 2 3; do eventually 15 well $number; done

echo "the agent alone"
# the agent alone: its host and its pods go on, and nothing is taken away
dev node kill-agent loss-2
eventually 10 is 2 "Unknown AgentStopped not-ready:NoSchedule"
has 2 2; answers 3
dev node start-agent loss-2
eventually 10 well 2
echo "a frozen agent (its kernel answers)"
# a frozen agent (its kernel answers)
dev node pause loss-2
eventually 10 is 2 "Unknown AgentHung not-ready:NoSchedule"
has 2 2
dev node resume loss-2
eventually 10 well 2

echo "a frozen machine, for a few seconds"
# a frozen machine, for a few seconds: endpoints leave and come back, no pod is touched
dev node partition loss-2; dev node pause loss-2
eventually 15 is 2 "Unknown NodeStatusUnknown unreachable:NoSchedule"
eventually 15 has 2 0
eventually 15 answers 3
dev node heal loss-2; dev node resume loss-2
eventually 15 well 2
eventually 10 has 2 2

echo "cut off one way, then the other"
# cut off one way, then the other
for direction in to from; do
  dev node partition loss-2 --direction $direction
  eventually 10 is 2 "Unknown NodeStatusUnknown unreachable:NoSchedule"
  eventually 15 has 2 0
  dev node heal loss-2
  eventually 15 well 2
  eventually 10 has 2 2
done

same "containers after all of this" "$untouched" "$(containers)"

echo "the control plane is away"
# the control plane is away: pods, Services and DNS go on, on and between the other nodes
dev node kill-agent loss-1
for number in 2 3; do answers $number; done
beats() { grep -ac "heartbeat open.*loss-3" "$WORK/loss/loss/1.log" || true; } # how often its heartbeat was opened
before=$(beats)
dev node start-agent loss-1
eventually 20 d get --raw /readyz >/dev/null
for number in 1 2 3; do eventually 15 well $number; done
# What the cluster says of a node is older than the server that says it: a machine that dies before the new server has heard of it is
# judged by its Lease.
heard() { [ "$(beats)" -gt "$before" ]; }
eventually 30 heard
same "containers after the server was away" "$untouched" "$(containers)"

echo "power cut, with fast failover"
# power cut, with fast failover: replacements beside the old pods, an identity is never doubled
d annotate namespace default klynge.io/fast-failover=true >/dev/null
db=$(d get pod db-0 -o jsonpath='{.metadata.uid}')
dev node kill loss-3
eventually 15 has 3 0
replaced() { [ $(($(endpoints 1) + $(endpoints 2))) = 6 ]; }
eventually 20 replaced
eventually 15 answers 2
eventually 20 marked
same "the identity of a pod that nobody can ask" "$db" "$(d get pod db-0 -o jsonpath='{.metadata.uid}')"
echo "it comes back"
# it comes back: what was decided is done before it reports, then the identity lives again
dev node start loss-3
eventually 30 well 3
renewed() { [ "$(d get pod db-0 -o jsonpath='{.metadata.uid} {.status.phase}' 2>/dev/null)" != "$db Running" ] && [ "$(d get pod db-0 -o jsonpath='{.status.phase}' 2>/dev/null)" = Running ]; }
eventually 20 renewed
same "pods of the web tier" 6 "$(d get pods -l app=web --no-headers | wc -l)"
answers 3

echo "fencing frees an identity whose machine is off"
# fencing frees an identity whose machine is off
db=$(d get pod db-0 -o jsonpath='{.metadata.uid}')
dev node kill loss-3
eventually 20 marked
d taint node loss-3 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute >/dev/null
freed() { [ "$(d get pod db-0 -o jsonpath='{.metadata.uid}' 2>/dev/null)" != "$db" ]; }
eventually 10 freed
says "NodeFlapping" d get events --field-selector involvedObject.name=loss-2
says "NodeNotReady" d get events --field-selector involvedObject.name=loss-3
says "FastFailover" d get events
