# CNI plug-ins (Debian's) in place of the built-in pod network, in a cluster of its own: readiness, pods, Services, DNS, host ports, restarts.
plugins=/usr/lib/cni
[ -x $plugins/bridge ] || { echo "containernetworking-plugins is missing: scripts/setup e2e" >&2; exit 1; }
space=klynge-cni-$$
data=$WORK/cni-data admin=$WORK/cni-data/kubeconfig
in_space() { nsenter --net=/run/netns/$space "$@"; }
c() { in_space "$BINARY" --data-dir "$data" "$@"; }
d() { in_space ${KUBECTLS##* } --kubeconfig "$admin" "$@"; }
finish() { c down --purge --quiet >/dev/null 2>&1 || true; ip netns del $space 2>/dev/null || true; rm -rf "$data" "$WORK/net.d" "$WORK/leases"; }
trap finish EXIT
ip netns add $space
ip -n $space link set lo up
ip -n $space link add wire0 type bridge
ip -n $space address add 198.51.100.9/24 dev wire0
ip -n $space link set wire0 up
ip -n $space route add default via 198.51.100.1
mkdir -p "$WORK/net.d"

refuses 'for --network cni' c up --cni-conf-dir "$WORK/net.d"
up() { KUBECONFIG=$WORK/cni-user c up --network cni --cni-conf-dir "$WORK/net.d" --cni-bin-dir $plugins --kubelet-port 0; }
up
node=$(d get nodes -o jsonpath='{.items[0].metadata.name}')
unready() { says 'NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni config uninitialized' \
  d get node $node -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'; }
eventually 20 unready
c image import "$WORK/test.tar" >/dev/null
cat >"$WORK/net.d/10-test.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$WORK/leases", "ranges": [[{"subnet": "10.42.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
  {"type": "bandwidth", "capabilities": {"bandwidth": true}}]}
JSON
d wait node/$node --for=condition=Ready --timeout=30s

d apply -f - <<YAML
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web }, annotations: { kubernetes.io/egress-bandwidth: 100M } }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: web, image: "klynge-test:1", command: [httpd, -f, -p, "8080", -h, /www], ports: [{ containerPort: 8080, hostPort: 8081 }] }]
---
apiVersion: v1
kind: Pod
metadata: { name: client }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: c, image: "klynge-test:1", command: [sleep, "100000"] }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
YAML
d wait pod/web pod/client --for=condition=Ready --timeout=40s
says '^10\.42\.7\.' d get pod web -o jsonpath='{.status.podIP}'
web=$(d get pod web -o jsonpath='{.status.podIP}')
d exec client -- wget -q -O /dev/null http://$web:8080/cgi-bin/clock.cgi
by_name() { d exec client -- wget -q -O /dev/null http://web/cgi-bin/clock.cgi; }
eventually 20 by_name
in_space curl -sS --max-time 5 -o /dev/null http://198.51.100.9:8081/cgi-bin/clock.cgi
[ -n "$(ip -n $space -o link show type ifb)" ] # the bandwidth plug-in's

# the agent comes and goes, pods go on; what plug-ins attached is known again
begun=$(d get pod web -o jsonpath='{.status.containerStatuses[0].state.running.startedAt}')
c down
up
d wait node/$node --for=condition=Ready --timeout=30s
same "start of the container" "$begun" "$(d get pod web -o jsonpath='{.status.containerStatuses[0].state.running.startedAt}')"
eventually 20 by_name
c down
refuses 'CNI plug-ins have attached 2 pods of this node' env KUBECONFIG=$WORK/cni-user nsenter --net=/run/netns/$space "$BINARY" --data-dir "$data" server --kubelet-port 0
up
d delete pod web --wait --timeout=30s
same "leases" 1 "$(ls "$WORK/leases/test" | grep -c '^10\.')"
[ -z "$(ip -n $space -o link show type ifb)" ]

# a plug-in that refuses is quoted
sed -i 's/10\.42\.7\.0\/24/10.42.7.0\/33/' "$WORK/net.d/10-test.conflist"
d run late --image=klynge-test:1 --restart=Never -- sleep 1000
blamed() { says 'FailedCreatePodSandBox.*plugin type="bridge" name="test" failed \(add\): ' d describe pod late; }
eventually 20 blamed
c down --purge
same "leases" 0 "$(ls "$WORK/leases/test" | grep -c '^10\.' || true)"
same "interfaces of pods" "" "$(ip -n $space -o link show type veth)"
