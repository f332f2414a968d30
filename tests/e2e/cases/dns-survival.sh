# Cluster DNS outlives server and agent: pods have names while the server is killed, stopped or upgraded, and nothing is left of it in the end.
fresh_namespace dns-survival
dns() { pgrep -f "dns-serve $WORK/data/agent" || true; }
resolves() { k -n $NS exec asker -- nslookup "$1" >/dev/null 2>&1; }
k -n $NS run asker --image=klynge-test:1 --restart=Never -- sleep 100000
k -n $NS run web --image=klynge-test:1 --labels=app=web -- httpd -f -p 8080
k -n $NS wait pod/asker pod/web --for=condition=Ready --timeout=60s
k -n $NS expose pod web --port=80 --target-port=8080
eventually 10 resolves web.$NS.svc.cluster.local
before=$(dns)
same "processes of cluster DNS" 1 "$(wc -w <<<"$before")"

# A pod asks without pause, also while there is no server to exec through: what it saw stands in its log.
k -n $NS run steady --image=klynge-test:1 -- sh -c \
  'while true; do if nslookup web.'$NS'.svc.cluster.local >/dev/null; then echo yes; else echo no; fi; sleep 0.1; done'
k -n $NS wait pod/steady --for=condition=Ready --timeout=60s
log() { cat $WORK/data/logs/${NS}_steady_*/steady/*.log; }
count() { log | grep -c " F $1" || true; }
counted() { [ "$(count yes)" -ge "$1" ]; }
eventually 10 counted 5
failed=$(count no)
address=$(k -n kube-system get service kube-dns -o jsonpath='{.spec.clusterIP}' 2>/dev/null || true)
address=${address:-10.43.0.10}

# kill -9: a Service's name is still resolved, from a pod and from the node; the next server finds the same process.
kill -9 "$(cat $WORK/data/server.pid)"
eventually 10 counted $(($(count yes) + 15))
python3 tests/e2e/tools/ask_dns.py $address web.$NS.svc.cluster.local
same "cluster DNS while there is no server" "$before" "$(dns)"
klynge up >/dev/null
same "cluster DNS of the next server" "$before" "$(dns)"

# The same stopped as people stop it.
klynge down >/dev/null
eventually 10 counted $(($(count yes) + 15))
same "cluster DNS after klynge down" "$before" "$(dns)"
klynge up >/dev/null
k -n $NS expose pod web --name=later --port=80 --target-port=8080
eventually 10 resolves later.$NS.svc.cluster.local
same "cluster DNS after a change" "$before" "$(dns)"

# Another release: another file. Its agent puts its own process in the place of the former, and no question is lost.
klynge down >/dev/null
cp "$BINARY" $WORK/another-release
$WORK/another-release --data-dir $WORK/data up >/dev/null
replaced() { local now; now=$(dns); [ "$(wc -w <<<"$now")" = 1 ] && [ "$now" != "$before" ]; }
eventually 10 replaced
eventually 10 resolves later.$NS.svc.cluster.local
before=$(dns)
klynge down >/dev/null
klynge up >/dev/null
eventually 10 replaced
eventually 10 counted $(($(count yes) + 15))
[ "$(count no)" = "$failed" ] || log | grep -B8 -A3 " F no" | tail -40
same "questions without an answer" $failed "$(count no)"

# It is killed itself: it is back with all names.
former=$(dns)
kill -9 "$former"
begun=$(date +%s%N)
back() { python3 tests/e2e/tools/ask_dns.py $address later.$NS.svc.cluster.local >/dev/null 2>&1; }
eventually 5 back
took=$((($(date +%s%N) - begun) / 1000000))
echo "cluster DNS answers again $took ms after it was killed"
[ "$(dns)" != "$former" ]

# It has no rights, and is in none of the server's control groups.
same "capabilities" 0000000000000000 "$(awk '/^CapEff/ { print $2 }' /proc/$(dns)/status)"
grep -q 'klynge.*/shims$' /proc/$(dns)/cgroup
