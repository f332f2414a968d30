# Network policies over two nodes: ingress, egress, names, ports, connections that stand, a restarted agent, Services; bad objects.
dev() { "$BINARY" --data-dir "$WORK/policy" dev "$@"; }
trap 'dev down --all >/dev/null 2>&1 || true' EXIT
unset KUBECONFIG
admin=$WORK/policy.kubeconfig
n() { k --kubeconfig "$admin" "$@"; }
dev up --name e2e-policy --nodes 2 --image "$WORK/test.tar" --kubeconfig "$admin"

# server on the first node; near and far are clients on the first and the second, stranger on the second in another namespace
n create namespace stranger
pod() { # pod NAMESPACE NAME NODE
  n -n "$1" apply -f - <<POD
apiVersion: v1
kind: Pod
metadata: {name: $2, labels: {name: $2}}
spec:
  nodeName: e2e-policy-$3
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: klynge-test:1
    command: [sh, -c, "(while true; do nc -l -p 81 -e cat; done) & httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /cgi-bin/clock.cgi, port: 8080}, periodSeconds: 1}
POD
}
pod default server 1
pod default near 1
pod default far 2
pod stranger stranger 2
for one in server near far; do n wait pod $one --for=condition=Ready --timeout=60s; done
n -n stranger wait pod stranger --for=condition=Ready --timeout=60s
n expose pod server --port=80 --target-port=8080 --type=NodePort
address=$(n get pod server -o jsonpath='{.status.podIP}')
far=$(n get pod far -o jsonpath='{.status.podIP}')
get() { n -n "$1" exec "$2" -- timeout 1 wget -q -O - "$3" >/dev/null; }
seen() { # who reaches the server: near, far, stranger
  local found=
  get default near "http://$address:8080/cgi-bin/clock.cgi" 2>/dev/null && found+="near "
  get default far "http://$address:8080/cgi-bin/clock.cgi" 2>/dev/null && found+="far "
  get stranger stranger "http://$address:8080/cgi-bin/clock.cgi" 2>/dev/null && found+="stranger "
  echo $found
}
reached_by() { [ "$(seen)" = "$1" ]; }
policy() { n apply -f - <<<"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: $1}, spec: $2}"; }
eventually 20 reached_by "near far stranger"

# ingress; the readiness probe of the node goes on
policy p '{podSelector: {matchLabels: {name: server}}}'
eventually 10 reached_by ""
policy p '{podSelector: {matchLabels: {name: server}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: name, operator: In, values: [far]}]}}], ports: [{port: web}]}]}'
eventually 10 reached_by "far"
get default far http://server/cgi-bin/clock.cgi
policy p '{podSelector: {matchLabels: {name: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: x}}}]}]}'
eventually 10 reached_by ""
n label namespace stranger team=x
eventually 10 reached_by "stranger"
n label namespace stranger team-
eventually 10 reached_by ""
n label pod near role=friend
policy p '{podSelector: {matchLabels: {name: server}}, ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}, {ipBlock: {cidr: 10.42.0.0/16, except: ['"$far/32"']}}]}]}'
eventually 10 reached_by "near stranger"
n label pod far role=friend
eventually 10 reached_by "near far stranger"
same "restarts and readiness" "0 true" "$(n get pod server -o jsonpath='{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}')"

# a connection that stands ends when it is no longer allowed
n exec far -- sh -c 'mkfifo /tmp/in; (sleep 1000 >/tmp/in & nc '"$address"' 81 </tmp/in >/tmp/out; echo ended >/tmp/ended) >/dev/null 2>&1 &'
says_back() { n exec far -- sh -c "echo $1 >/tmp/in; sleep 0.3; grep -q $1 /tmp/out"; }
eventually 10 says_back one
policy p '{podSelector: {matchLabels: {name: server}}, ingress: [{from: [{podSelector: {matchLabels: {name: near}}}]}]}'
eventually 10 reached_by "near"
eventually 10 n exec far -- sh -c 'echo two >/tmp/in; sleep 0.3; ! grep -q two /tmp/out; test -e /tmp/ended'

# the agents end and come back: what is denied stays denied, before the API knows them and after
dev node kill-agent e2e-policy-2
dev node kill-agent e2e-policy-1
dev node start-agent e2e-policy-1
dev node start-agent e2e-policy-2
eventually 20 n get --raw /readyz
eventually 20 reached_by "near"
pod default late 2
n wait pod late --for=condition=Ready --timeout=60s
refuses "" get default late "http://$address:8080/cgi-bin/clock.cgi"

# egress: names only where they are allowed
n delete networkpolicy p
policy out '{podSelector: {matchLabels: {name: far}}, policyTypes: [Egress]}'
eventually 10 refuses "" get default far "http://$address:8080/cgi-bin/clock.cgi"
refuses "" n exec far -- timeout 2 wget -q -O - http://server/cgi-bin/clock.cgi
policy out '{podSelector: {matchLabels: {name: far}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {name: server}}}], ports: [{port: 8080, endPort: 8090}]}]}'
eventually 10 get default far "http://$address:8080/cgi-bin/clock.cgi"
refuses "" n exec far -- timeout 2 wget -q -O - http://server/cgi-bin/clock.cgi
policy names '{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]}'
eventually 10 get default far http://server/cgi-bin/clock.cgi
eventually 10 refuses "" get default near "http://$address:8080/cgi-bin/clock.cgi"
eventually 10 reached_by "far stranger"

# what cannot be a policy
refuses "must specify a peer" policy bad '{podSelector: {}, ingress: [{from: [{}]}]}'
refuses "must be a strict subset of .cidr." policy bad '{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.1.0.0/16]}}]}]}'
refuses "must be greater than or equal to .port." policy bad '{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}'

dev down --name e2e-policy
