# `--fast-failover` for a whole cluster, with its ranges of both families: pods of a node that lost its power have replacements after a
# second, in namespaces that ask for nothing; the old ones stay until their node has said that they are gone, and an identity stays one.
dev_nodes fast "$WORK/test.tar" --fast-failover --ipv6
d apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [fast-3]}]}}]}}
      containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"]}]
YAML
d rollout status deployment/web --timeout=30s >/dev/null
identity_on fast-3 0
same "where the pods are" "fast-3 fast-3" "$(d get pods -l app=web -o jsonpath='{.items[*].spec.nodeName}')"
same "families of a pod's addresses" 2 "$(d get pods -l app=web -o jsonpath='{range .items[0].status.podIPs[*]}{.ip}{"\n"}{end}' | grep -c .)"
former=$(d get pods -l app=web -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}')
db=$(d get pod db-0 -o jsonpath='{.metadata.uid}')
dev node kill fast-3
begun=$SECONDS
elsewhere() { [ "$(d get pods -l app=web -o jsonpath='{range .items[?(@.status.phase=="Running")]}{.spec.nodeName} {.status.containerStatuses[0].ready}{"\n"}{end}' | grep -c '^fast-[12] true')" = 2 ]; }
eventually 15 elsewhere
echo "replaced after less than $((SECONDS - begun + 1)) s"
for pod in $former; do
  [ -n "$(d get pod "$pod" -o jsonpath='{.metadata.deletionTimestamp}')" ] || { echo "$pod is not on its way out" >&2; exit 1; }
done
# also of a pod without grace
eventually 20 marked
same "the identity of the pod that nobody can ask" "$db" "$(d get pod db-0 -o jsonpath='{.metadata.uid}')"
dev node start fast-3
gone() { for pod in $former; do ! d get pod "$pod" >/dev/null 2>&1 || return 1; done; }
eventually 30 gone
