# No request is lost while a Deployment is rolled out and scaled, and a node is drained: clients outside, on a node and in the load balancer's
# network open a new connection for each of several thousand requests.
dev_nodes zero "$WORK/test.tar"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; dev down --all >/dev/null 2>&1 || true' EXIT
own=$(d get node zero-1 -o jsonpath='{.status.addresses[0].address}')
net=${own%.*}
d -n kube-system create configmap klynge-load-balancer --from-literal="default=$net.200" >/dev/null
d apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: main
        image: klynge-test:1
        command: [sh, -c, "echo page > /www/page; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
YAML
d rollout status deployment/web --timeout=30s >/dev/null
announced() { [ "$(d get service web -o jsonpath='{.status.loadBalancer.ingress[0].ip}')" = "$net.200" ] && curl -s --max-time 1 "http://$net.200/page" >/dev/null; }
eventually 10 announced
cluster_ip=$(d get service web -o jsonpath='{.spec.clusterIP}')
node_port=$(d get service web -o jsonpath='{.spec.ports[0].nodePort}')

load=$PWD/tests/e2e/tools/load.py
python3 "$load" "$net.200" 80 /page 2 >"$WORK/outside.load" & pids+=($!)
python3 "$load" "$net.3" "$node_port" /page 2 >"$WORK/node-port.load" & pids+=($!)
# A process of a node's own, which its init does not pass our signals to: ended by name of its arguments, which are this test's.
"$BINARY" --data-dir "$WORK/zero" dev exec zero-2 -- sh -c "python3 '$load' $cluster_ip 80 /page 2 & echo \$! >'$WORK/inside.pid'; wait" >"$WORK/inside.load" & pids+=($!)

echo "a rollout"
d rollout restart deployment/web >/dev/null
d rollout status deployment/web --timeout=60s >/dev/null
echo "scaling"
d scale deployment/web --replicas=2 >/dev/null
d rollout status deployment/web --timeout=60s >/dev/null
d scale deployment/web --replicas=6 >/dev/null
d rollout status deployment/web --timeout=60s >/dev/null
echo "a drain, of the node that announces"
holder=$(d get service web -o jsonpath='{.metadata.annotations.klynge\.io/announced-by}' | sed 's/.*"node":"\([^"]*\)".*/\1/')
d drain "$holder" --ignore-daemonsets --timeout=60s >/dev/null 2>&1
d rollout status deployment/web --timeout=60s >/dev/null
same "pods on the drained node" "" "$(d get pods -o jsonpath="{.items[?(@.spec.nodeName=='$holder')].metadata.name}")"
d uncordon "$holder" >/dev/null
echo "another rollout"
d rollout restart deployment/web >/dev/null
d rollout status deployment/web --timeout=60s >/dev/null

kill "${pids[0]}" "${pids[1]}"
"$BINARY" --data-dir "$WORK/zero" dev exec zero-2 -- kill "$(cat "$WORK/inside.pid")"
wait "${pids[@]}" || true
for where in outside node-port inside; do
  echo "$where: $(cat "$WORK/$where.load")"
done
for where in outside node-port inside; do
  read -r _ requests _ failed _ <"$WORK/$where.load"
  [ "$requests" -ge 1000 ]
  same "requests that failed, $where" 0 "$failed"
done
