# LoadBalancer Services on three nodes: the nodes' own addresses, then a pool's, announced on their network and found by a client there; kept
# client addresses, a node that dies, wishes, exhaustion, pools that change, an address that a host has.
dev_nodes lb "$WORK/test.tar" --ipv6
# The client is the machine with the bridge: on the nodes' network, and no node.
own=$(d get node lb-1 -o jsonpath='{.status.addresses[0].address}')
net=${own%.*}
bridge=$(ip -o -4 address | awk -v net="$net." 'index($4, net) == 1 {print $2; exit}')
six=$(d get node lb-1 -o jsonpath='{.status.addresses[1].address}')
six=${six%2}
client=$(ip -o -4 address show "$bridge" | sed 's/.*inet \([0-9.]*\).*/\1/')
says "$net.0/24" d get node lb-2 -o jsonpath='{.metadata.annotations.klynge\.io/subnets}'

d apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: klynge-test:1
        command: [sh, -c, "mkdir -p /www/cgi-bin; printf '#!/bin/sh\necho; echo $NODE $REMOTE_ADDR\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; exec httpd -f -p '[::]:8080' -h /www"]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
YAML
service() { # service NAME PORT [SPEC [ANNOTATIONS]]
  d apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: $1, annotations: {${4-}}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: $2, targetPort: 8080}], ${3-}}
YAML
}
ip_of() { d get service "$1" -o jsonpath='{.status.loadBalancer.ingress[*].ip}'; }
has() { [ "$(ip_of "$1")" = "$2" ]; }
by() { d get service "$1" -o jsonpath='{.metadata.annotations.klynge\.io/announced-by}' | sed 's/.*"node":"\([^"]*\)".*/\1/'; }
pool() { d -n kube-system create configmap klynge-load-balancer --from-literal="default=$1" --dry-run=client -o yaml | d apply -f - >/dev/null 2>&1; }
who() { curl -s --max-time "${2-2}" "http://$1/cgi-bin/who"; }
told() { says "$2" d get events --field-selector "involvedObject.name=$1" -o jsonpath='{range .items[*]}{.reason} {.message}{"\n"}{end}'; }
d rollout status daemonset/web --timeout=30s >/dev/null

echo "without a pool: the nodes' own addresses"
service web 80
eventually 5 has web "$net.2 $net.3 $net.4"
says "^web .*LoadBalancer.* $net.2,$net.3,$net.4 " d get services
for node in 2 3 4; do eventually 5 who "$net.$node"; done
service second 80
eventually 5 told second "SyncLoadBalancerFailed Error syncing load balancer: port 80/TCP of the nodes' addresses is Service default/web's"
same "the address of a Service whose port is taken" "" "$(ip_of second)"
service ssh 22
eventually 5 told ssh "machines' own SSH"
d delete service second ssh >/dev/null

echo "a pool"
pool "$net.200-$net.201"
eventually 5 has web "$net.200"
eventually 5 who "$net.200"
told web "EnsuredLoadBalancer Ensured load balancer"
told web "nodeAssigned announcing $net.200 from node"
service local 80 "externalTrafficPolicy: Local"
eventually 5 has local "$net.201"
eventually 5 who "$net.201"
same "who answers under policy Local, and whom it sees" "$(by local) [::ffff:$client]" "$(who "$net.201")"
service third 80
eventually 5 told third 'AllocationFailed Failed to allocate an address: pool "default" has no free IPv4 address'
service wish 80 "loadBalancerIP: $net.77"
eventually 5 told wish "of no pool"
service other 80 "loadBalancerClass: example.com/other"
same "what a Service of another class gets" "" "$(ip_of other)"
d delete service wish other >/dev/null

echo "a deleted Service frees its address"
d delete service local --timeout=10s >/dev/null
eventually 5 has third "$net.201"

echo "source ranges"
d patch service third -p '{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}' >/dev/null
refused() { ! who "$net.201" 1; }
eventually 5 refused
d patch service third -p "{\"spec\":{\"loadBalancerSourceRanges\":[\"$client/32\"]}}" >/dev/null
eventually 5 who "$net.201"

echo "the node that announces is switched off"
# Not the server's.
d label node lb-1 node.kubernetes.io/exclude-from-external-load-balancers= >/dev/null
elsewhere() { [ "$(by web)" != lb-1 ]; }
eventually 5 elsewhere
eventually 5 who "$net.200"
holder=$(by web)
begun=$(date +%s%N)
dev node kill "$holder"
killed=$(date +%s%N)
moved() { [ "$(by web)" != "$holder" ]; }
until who "$net.200" 0.3 >/dev/null && moved; do [ $(($(date +%s%N) - begun)) -lt 15000000000 ] || { echo "never answered again" >&2; exit 1; }; done
echo "answers again after $((($(date +%s%N) - begun) / 1000000)) ms from the command, $((($(date +%s%N) - killed) / 1000000)) ms from its end"
dev node start "$holder"
d wait node "$holder" --for=condition=Ready --timeout=30s >/dev/null
eventually 5 who "$net.200"

echo "its agent is killed: the host would pass packets on, but answers no questions"
holder=$(by web)
dev node kill-agent "$holder"
eventually 10 moved
eventually 5 who "$net.200"
dev node start-agent "$holder"
d wait node "$holder" --for=condition=Ready --timeout=30s >/dev/null

echo "cut off from the server, not from its network"
# It cannot hear of it, and yields to the frames of the newer decision: a client that asks afresh never finds it.
holder=$(by web)
"$BINARY" --data-dir "$WORK/lb" dev exec "$holder" -- nft -f - <<'NFT'
table inet cut { chain out { type filter hook output priority 0; tcp dport 6443 drop; }; }
NFT
eventually 15 moved
mac() { "$BINARY" --data-dir "$WORK/lb" dev exec "$1" -- cat /sys/class/net/eth0/address; }
found() { ip neigh flush dev "$bridge"; who "$net.200" >/dev/null; ip neigh show "$net.200" dev "$bridge" | sed 's/.*lladdr \([0-9a-f:]*\).*/\1/'; }
now=$(by web)
at_last() { [ "$(found)" = "$(mac "$now")" ]; }
eventually 5 at_last
for _ in 1 2 3 4 5; do same "where the address is" "$(mac "$now")" "$(found)"; done
"$BINARY" --data-dir "$WORK/lb" dev exec "$holder" -- nft delete table inet cut
d wait node "$holder" --for=condition=Ready --timeout=30s >/dev/null

echo "pools change"
pool "$net.300"
invalid() { says "InvalidAddressPool" d -n kube-system get events; }
eventually 5 invalid
same "the address while the pool cannot be read" "$net.200" "$(ip_of web)"
pool "$net.210-$net.219"
eventually 5 has web "$net.210"
eventually 5 who "$net.210"
ip neigh flush dev "$bridge"
unanswered() { ! who "$net.200" 0.5; }
eventually 5 unanswered

echo "many at once"
creating=()
for number in 1 2 3 4 5 6; do service "many$number" 80 & creating+=($!); done
wait "${creating[@]}"
all() { d get services -o jsonpath='{range .items[*]}{.status.loadBalancer.ingress[*].ip}{"\n"}{end}' | grep .; }
assigned() { [ "$(all | wc -l)" = 8 ]; }
eventually 5 assigned
same "addresses that are given twice" "" "$(all | sort | uniq -d)"

echo "an address that a host has"
ip address add "$net.219/32" dev "$bridge"
service taken 80 "" "klynge.io/load-balancer-ips: $net.219"
eventually 10 told taken "AddressConflict $net.219 is not announced"
ip address del "$net.219/32" dev "$bridge"

echo "addresses of both families"
pool "$net.210-$net.219,${six}200-${six}201"
service both 80 "ipFamilyPolicy: RequireDualStack"
two() { [[ "$(ip_of both)" =~ ^"$net".21[0-9]\ "$six"20[01]$ ]]; }
eventually 5 two
read -r old new <<<"$(ip_of both)"
eventually 5 who "$old"
eventually 5 who "[$new]"
# neighbour discovery leads to the node that announces, and to another one where that is switched off
holder=$(d get service both -o jsonpath='{.metadata.annotations.klynge\.io/announced-by}' | sed "s/.*\"$new\":{\"node\":\"\([^\"]*\)\".*/\1/")
if [ "$holder" != lb-1 ]; then
  same "whose the address is" "$(mac "$holder")" "$(ip -6 neigh show "$new" dev "$bridge" | sed 's/.*lladdr \([0-9a-f:]*\).*/\1/')"
  dev node kill "$holder"
  eventually 10 who "[$new]" 0.5
  dev node start "$holder"
  d wait node "$holder" --for=condition=Ready --timeout=30s >/dev/null
fi
ip address add "${six}201/128" dev "$bridge" nodad
service taken6 80 "ipFamilies: [IPv6]" "klynge.io/load-balancer-ips: '${six}201'"
eventually 10 told taken6 "AddressConflict ${six}201 is not announced"
ip address del "${six}201/128" dev "$bridge"

echo "no load balancer any more"
d patch service web -p '{"spec":{"type":"ClusterIP"}}' >/dev/null
eventually 5 has web ""
same "finalizers" "" "$(d get service web -o jsonpath='{.metadata.finalizers}')"
d -n kube-system delete configmap klynge-load-balancer >/dev/null
eventually 5 has third "$net.3 $net.4" # lb-1 is excluded
