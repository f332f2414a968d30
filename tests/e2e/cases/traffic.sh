# Services that keep traffic near (trafficDistribution), on three nodes in two zones; and what stands behind them when near ones are gone.
dev() { "$BINARY" --data-dir "$WORK/near" dev "$@"; }
trap 'dev down --all >/dev/null 2>&1 || true; nft delete table ip filter 2>/dev/null || true' EXIT
unset KUBECONFIG
admin=$WORK/near.kubeconfig
d() { k --kubeconfig "$admin" "$@"; }

# a firewall made with iptables, which goes on reading its table beside the rules that let the nodes through
iptables-nft -P FORWARD DROP
iptables-nft -A INPUT -i lo -j ACCEPT
dev up --name near --nodes 3 --subnet 198.51.100.64/28 --image "$WORK/test.tar" --kubeconfig "$admin"
says '-o [^ ]+ -m conntrack --ctstate RELATED,ESTABLISHED .*-j ACCEPT' iptables-nft -S FORWARD
iptables-nft-save >/dev/null
d label node near-1 near-2 topology.kubernetes.io/zone=east
d label node near-3 topology.kubernetes.io/zone=west
d apply -f - <<YAML
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{ name: web, image: "klynge-test:1", command: [httpd, -f, -p, "8080", -h, /www] }]
YAML
for distribution in PreferClose PreferSameNode; do
  d create service clusterip ${distribution,,} --tcp=80:8080
  d patch service ${distribution,,} -p "{\"spec\":{\"selector\":{\"app\":\"web\"},\"trafficDistribution\":\"$distribution\"}}"
done
refuses 'spec.trafficDistribution: Unsupported value: "Anywhere": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"' \
  d patch service preferclose -p '{"spec":{"trafficDistribution":"Anywhere"}}'
d rollout status daemonset/web --timeout=60s

# answered SERVICE NODE: the nodes of the pods that answer calls from this node
answered() {
  local address seen
  address=$(d get service $1 -o jsonpath='{.spec.clusterIP}')
  seen=$(dev exec $2 -- sh -c "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sS --max-time 5 http://$address/cgi-bin/clock.cgi; done" | sed -n 's/.* at //p' | sort -u)
  [ -n "$seen" ] || return 1
  d get pods -o jsonpath='{range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}' | grep -F "$seen" | cut -d' ' -f2 | sort | xargs
}
is_answered_by() { [ "$(answered $1 $2)" = "$3" ] || { echo "$1 from $2: $(answered $1 $2), not $3"; return 1; }; }

eventually 20 is_answered_by preferclose near-1 "near-1 near-2"
eventually 20 is_answered_by preferclose near-2 "near-1 near-2"
eventually 20 is_answered_by preferclose near-3 "near-3"
for node in near-1 near-2 near-3; do eventually 20 is_answered_by prefersamenode $node $node; done
# without a pod of its own a node goes to its zone, a zone without one to all
d patch daemonset web -p '{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"NotIn","values":["near-2"]}]}]}}}}}}}'
d rollout status daemonset/web --timeout=60s
eventually 20 is_answered_by prefersamenode near-2 "near-1"
eventually 20 is_answered_by prefersamenode near-3 "near-3"
d label node near-2 topology.kubernetes.io/zone=north --overwrite
eventually 20 is_answered_by preferclose near-2 "near-1 near-3"
eventually 20 is_answered_by prefersamenode near-2 "near-1 near-3"
