# Both address families: nodes, pods and Services of two machines have addresses of each, and are reached by each. A cluster of
# its own, as the families are chosen when it starts.
first=klynge-dual-a-$$ second=klynge-dual-b-$$
at() { nsenter --net="/run/netns/$1" "${@:2}"; }
one() { at $first "$BINARY" --data-dir "$WORK/dual-a" "$@"; }
two() { at $second "$BINARY" --data-dir "$WORK/dual-b" "$@"; }
leave() {
  two down --purge --quiet >/dev/null 2>&1 || true
  one down --purge --quiet >/dev/null 2>&1 || true
  ip netns del $second 2>/dev/null || true
  ip netns del $first 2>/dev/null || true
}
trap leave EXIT
ip netns add $first
ip netns add $second
ip -n $first link set lo up
ip -n $second link set lo up
ip -n $first link add up0 type veth peer name up0 netns $second
ip -n $first address add 192.0.2.10/24 dev up0
ip -n $first address add 2001:db8::10/64 dev up0 nodad
ip -n $second address add 192.0.2.11/24 dev up0
ip -n $second address add 2001:db8::11/64 dev up0 nodad
ip -n $first link set up0 up
ip -n $second link set up0 up

# the machines' own kubeconfig is not that of the other cases
unset KUBECONFIG
export HOME=$WORK/dual-home
mkdir -p "$HOME"
K=$(awk '{ print $NF }' <<<"$KUBECTLS")
d() { at $first "$K" --kubeconfig "$WORK/dual-a/kubeconfig" "$@"; }
refuses 'both ranges are of one family' one server --pod-cidr 10.42.0.0/16,10.44.0.0/16
refuses 'has no --pod-cidr of its family' one server --pod-cidr 10.42.0.0/16 --service-cidr fd43::/112
one up --node-name a --advertise 192.0.2.10,2001:db8::10 --pod-cidr 10.42.0.0/16,fd42::/56 --service-cidr 10.43.0.0/16,fd43::/112
command=$(one token create)
server=$(awk '{ print $6 }' <<<"$command") token=$(awk '{ print $8 }' <<<"$command")
two agent --background --node-name b --advertise 192.0.2.11,2001:db8::11 --server "$server" --token "$token"
d wait node/a node/b --for=condition=Ready --timeout=30s
same "node addresses" "192.0.2.11 2001:db8::11 b" "$(d get node b -o jsonpath='{.status.addresses[*].address}')"
same "pod ranges" "10.42.1.0/24 fd42:0:0:1::/64" "$(d get node b -o jsonpath='{.spec.podCIDRs[*]}')"
one image import "$WORK/test.tar" >/dev/null
two image import "$WORK/test.tar" >/dev/null
for node in a b; do
  d run "on-$node" --image=klynge-test:1 --labels=app=web --overrides="{\"spec\":{\"nodeName\":\"$node\"}}" -- \
    sh -c "mkdir /w; echo $node > /w/index.html; httpd -f -vv -p '[::]:8080' -h /w"
done
d wait pod --all --for=condition=Ready --timeout=30s
v6() { d get pod "on-$1" -o jsonpath='{.status.podIPs[1].ip}'; }
v4() { d get pod "on-$1" -o jsonpath='{.status.podIPs[0].ip}'; }
get() { d exec "on-$1" -- timeout 5 wget -qO- "$2"; }
same "pod to pod, IPv6" b "$(get a "http://[$(v6 b)]:8080/")"
same "pod to pod, IPv4" a "$(get b "http://$(v4 a):8080/")"
says "$(v6 a)" d logs on-b # the source address is the pod's own

# One family by default, both on demand; slices of each family.
d expose pod on-a --name=web --port=80 --target-port=8080
d patch service web -p '{"spec":{"selector":{"app":"web","run":null}}}'
same "families" "SingleStack IPv4" "$(d get service web -o jsonpath='{.spec.ipFamilyPolicy} {.spec.ipFamilies[*]}')"
d patch service web -p '{"spec":{"type":"NodePort","ipFamilyPolicy":"RequireDualStack"}}'
same "families" "IPv4 IPv6" "$(d get service web -o jsonpath='{.spec.ipFamilies[*]}')"
same "kinds of slices" "IPv4 IPv6" "$(d get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].addressType}' | tr ' ' '\n' | sort | xargs)"
ips=($(d get service web -o jsonpath='{.spec.clusterIPs[*]}'))
both() { local seen; seen=$(for _ in $(seq 12); do "$@"; done | sort -u | xargs); [ "$seen" = "a b" ]; }
for from in a b; do
  eventually 10 both get $from "http://${ips[0]}"
  eventually 10 both get $from "http://[${ips[1]}]"
done
fetched() { at "$1" curl -gsS --max-time 5 "$2"; }
eventually 10 both fetched $first "http://[${ips[1]}]/"
port=$(d get service web -o jsonpath='{.spec.ports[0].nodePort}')
eventually 10 both fetched $second "http://[2001:db8::10]:$port/"
eventually 10 both fetched $second "http://192.0.2.10:$port/"
# names: A and AAAA of a Service, of a headless one, and back
says "${ips[1]}" d exec on-b -- nslookup -type=aaaa web.default.svc.cluster.local
says "${ips[0]}" d exec on-b -- nslookup -type=a web.default.svc.cluster.local
d create service clusterip each --clusterip=None
d patch service each -p '{"spec":{"selector":{"app":"web"},"ipFamilyPolicy":"PreferDualStack","ipFamilies":["IPv4","IPv6"]}}'
resolves() { d exec on-a -- nslookup -type=aaaa each.default.svc.cluster.local | grep -q "$(v6 b)"; }
eventually 10 resolves
says 'web.default.svc.cluster.local' d exec on-a -- nslookup "${ips[1]}"
# IPv6 alone
d create service clusterip six --tcp=80:8080
d delete service six
d create -f - <<YAML
{apiVersion: v1, kind: Service, metadata: {name: six}, spec: {ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
YAML
eventually 10 both get a "http://six.default.svc.cluster.local"
# back to one family: the second address is nobody's
d patch service web -p '{"spec":{"ipFamilyPolicy":"SingleStack"}}'
gone() { ! get a "http://[${ips[1]}]" >/dev/null 2>&1; }
eventually 10 gone
both get a "http://${ips[0]}"
# a further range for Services
d create -f - <<YAML
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [10.45.0.0/24]}}
YAML
d wait servicecidr/more --for=condition=Ready --timeout=10s
d create -f - <<YAML
{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {clusterIP: 10.45.0.9, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
YAML
eventually 10 both get b "http://10.45.0.9"
d delete servicecidr more --wait=false
d wait servicecidr/more --for=condition=Ready=False --timeout=10s
same "why it stays" Terminating "$(d get servicecidr more -o jsonpath='{.status.conditions[0].reason}')"
refuses 'does not match the current range' d create service clusterip late --clusterip=10.45.0.10 --tcp=80
d delete service far
d wait servicecidr/more --for=delete --timeout=30s
two down --purge >/dev/null
one down --purge >/dev/null
for host in $first $second; do
  same "what stays on $host" "" "$(ip -n $host -o link | grep -vE ' (lo|up0)@?'; ip -n $host route | grep -E '10\.4' ; ip -n $host -6 route | grep -E 'fd4'; at $host nft list tables)"
done
