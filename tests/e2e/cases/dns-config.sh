# Names outside the cluster: a domain with a resolver of its own and general resolvers, from the ConfigMap kube-system/kube-dns.
fresh_namespace dns-config-test
python3 - >/dev/null # python is there
nsenter --net=$OUTSIDE python3 tests/e2e/tools/resolver.py 192.0.2.1 203.0.113.7 >"$WORK/resolver.out" &
resolver=$!
finish() { kill $resolver 2>/dev/null || true; k -n kube-system delete configmap kube-dns --ignore-not-found --wait=false >/dev/null; }
trap finish EXIT
eventually 10 grep -q listening "$WORK/resolver.out"
k -n $NS run client --image=klynge-test:1 --restart=Never -- sleep 100000
k -n $NS wait pod/client --for=condition=Ready --timeout=30s
finds() { k -n $NS exec client -- nslookup -type=a "$1" 2>&1 | grep -q 203.0.113.7; }
k -n kube-system create configmap kube-dns --from-literal=stubDomains='{"corp.example": ["192.0.2.1"]}'
eventually 20 finds db.corp.example
if finds db.other.example; then echo "a name outside the stub domain went there" >&2; exit 1; fi
# what cannot be read changes nothing
k -n kube-system patch configmap kube-dns -p '{"data":{"stubDomains":"nonsense"}}'
finds late.corp.example
k -n kube-system patch configmap kube-dns -p '{"data":{"stubDomains":null,"upstreamNameservers":"[\"192.0.2.1\"]"}}'
eventually 20 finds db.other.example
# the cluster's own names are nobody else's
says '10.43.0.1' k -n $NS exec client -- nslookup -type=a kubernetes.default.svc.cluster.local
k -n kube-system delete configmap kube-dns
gone() { ! finds "$RANDOM.other.example"; }
eventually 20 gone
