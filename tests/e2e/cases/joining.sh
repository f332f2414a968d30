# A second machine joins, on another subnet: token, pod network between the two, kubectl through the agent's tunnel, removal.
second=klynge-second-$$
router=$OUTSIDE
there() { nsenter --net="/run/netns/$second" "$BINARY" --data-dir "$WORK/second" "$@"; }
leave() {
  k delete namespace joining-test --wait=false >/dev/null 2>&1 || true
  k delete node second --wait=false >/dev/null 2>&1 || true
  there down --purge --quiet >/dev/null 2>&1 || true
  ip netns del "$second" 2>/dev/null || true
}
trap leave EXIT
behind_router "$second" out1

# refusals first: each says what is wrong and what to do
refuses 'has not joined a cluster yet: give --server and --token' there agent
command=$(klynge token create)
server=$(awk '{ print $6 }' <<<"$command") token=$(awk '{ print $8 }' <<<"$command")
id=${token%%.*}
refuses 'was the end cut off' there agent --server "$server" --token "${token%??}"
refuses 'does not hold: it is mistyped' there agent --node-name second --server "$server" --token "${token/$id./zzzzzz.}"
refuses 'not the one that made this token' there agent --node-name second --server "$server" --token "${token%.*}.$(printf '%043d' 0)"
refuses 'is in the cluster and healthy' there agent --node-name "$(k get nodes -o jsonpath='{.items[0].metadata.name}')" --server "$server" --token "$token"
says "$id +0 of 1" klynge token list

there agent --background --node-name second --server "$server" --token "$token"
k wait node/second --for=condition=Ready --timeout=30s
says "$id +1 of 1" klynge token list
says 'system:bootstrap:.*Approved,Issued' k get csr
same "the node's address" 198.51.100.2 "$(k get node second -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')"
same "its range" 10.42.1.0/24 "$(k get node second -o jsonpath='{.spec.podCIDR}')"
there image import "$WORK/test.tar" >/dev/null

NS=joining-test
k create namespace $NS
for node in "$(k get nodes -o jsonpath='{.items[?(@.metadata.name!="second")].metadata.name}')" second; do
  name=on-$([ "$node" = second ] && echo second || echo first)
  k -n $NS run "$name" --image=klynge-test:1 --labels=app=web --overrides="{\"spec\":{\"nodeName\":\"$node\"}}" -- \
    sh -c "mkdir /w; echo $name > /w/index.html; head -c 3000000 /dev/zero > /w/large; httpd -f -vv -p 8080 -h /w"
done
k -n $NS wait pod --all --for=condition=Ready --timeout=30s
first=$(k -n $NS get pod on-first -o jsonpath='{.status.podIP}') second_ip=$(k -n $NS get pod on-second -o jsonpath='{.status.podIP}')
# pod to pod in both directions, with its own address; large packets pass as well
same "first to second" on-second "$(k -n $NS exec on-first -- wget -qO- "http://$second_ip:8080/")"
same "second to first" on-first "$(old -n $NS exec on-second -- wget -qO- "http://$first:8080/")"
same "bytes" 3000000 "$(k -n $NS exec on-second -- wget -qO- "http://$first:8080/large" | wc -c)"
says "$first" k -n $NS logs on-second
says "$second_ip" old -n $NS logs on-first
# by Service name from either node, and by NodePort of either node from outside
k -n $NS create service clusterip web --tcp=80:8080
k -n $NS create service nodeport out --tcp=80:8080
k -n $NS patch service out -p '{"spec":{"selector":{"app":"web"}}}'
reached() { local seen; seen=$(for _ in $(seq 12); do "$@"; done | sort -u | tr '\n' ' '); [ "$seen" = "on-first on-second " ]; }
eventually 10 reached k -n $NS exec on-second -- wget -qO- http://web
reached k -n $NS exec on-first -- wget -qO- "http://web.$NS.svc.cluster.local"
port=$(k -n $NS get service out -o jsonpath='{.spec.ports[0].nodePort}')
eventually 10 reached fetch "http://198.51.100.2:$port/" "$router"
eventually 10 reached fetch "http://192.0.2.2:$port/" "$router"
# through the tunnel: exec with input, port-forward, cp
same "exec -i" "there and back" "$(echo there and back | k -n $NS exec -i on-second -- cat)"
k -n $NS port-forward pod/on-second 18080:8080 >"$WORK/forward.log" 2>&1 &
forward=$!
eventually 10 grep -q Forwarding "$WORK/forward.log"
same "port-forward" on-second "$(fetch http://127.0.0.1:18080/)"
kill $forward
# the agent dies: its pods go on, it comes back as it was, without the token
started() { k -n $NS exec on-second -- cat /proc/1/stat | cut -d' ' -f22; }
before=$(started)
kill -9 "$(cat "$WORK/second/server.pid")"
same "while the agent is away" on-second "$(k -n $NS exec on-first -- wget -qO- "http://$second_ip:8080/")"
there agent --background
eventually 20 k -n $NS exec on-second -- true
same "the process" "$before" "$(started)"
same "restarts" 0 "$(k -n $NS get pod on-second -o jsonpath='{.status.containerStatuses[0].restartCount}')"
# the server restarts: the tunnel is opened again
klynge down >/dev/null
klynge up >/dev/null
eventually 20 k -n $NS exec on-second -- true
same "the process" "$before" "$(started)"
# it leaves: pods first, then the node, then its agent
k -n $NS create deployment moves --image=klynge-test:1 --replicas=2 -- sleep 100000
k -n $NS rollout status deployment/moves --timeout=30s
k -n $NS delete pod on-second --grace-period=1
cp "$WORK/second/agent/identity.json" "$WORK/stolen.json"
klynge node remove second --timeout 60
refuses 'not found' k get node second
k -n $NS wait deployment/moves --for=jsonpath='{.status.availableReplicas}'=2 --timeout=60s
eventually 90 sh -c "! kill -0 \$(cat $WORK/second/server.pid)"
grep -q 'was taken out of the cluster' "$WORK/second/server.log"
refuses 'has not joined a cluster yet' there agent
same "cluster DNS of a removed node" "" "$(pgrep -f "dns-serve $WORK/second" || true)"
# its old key is refused; with a new token it joins again at once, under the same name
for part in authority certificate key; do
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$WORK/stolen.json" $part > "$WORK/stolen.$part"
done
says '"reason": *"NodeRemoved"' curl -sS --max-time 5 --cacert "$WORK/stolen.authority" --cert "$WORK/stolen.certificate" \
  --key "$WORK/stolen.key" "$server/api/v1/nodes/second"
token=$(klynge token create | awk '{ print $8 }')
there agent --background --node-name second --server "$server" --token "$token"
k wait node/second --for=condition=Ready --timeout=30s
there down >/dev/null
cp "$WORK/second/agent/identity.json" "$WORK/fresh.json"
cp "$WORK/stolen.json" "$WORK/second/agent/identity.json"
refuses 'was taken out of the cluster' there agent
[ ! -e "$WORK/second/agent/identity.json" ]
cp "$WORK/fresh.json" "$WORK/second/agent/identity.json"
# in the foreground: nothing is taken away from under it, and there is no second one
nsenter --net="/run/netns/$second" "$BINARY" --data-dir "$WORK/second" agent >"$WORK/foreground.log" 2>&1 &
foreground=$!
eventually 20 grep -q '^ready' "$WORK/foreground.log"
refuses "a .klynge agent. \(process $foreground\) that was not started in the background" there down --purge
refuses "another .klynge agent. runs on .*process $foreground" there agent
kill $foreground
wait $foreground || true
there agent --background
k wait node/second --for=condition=Ready --timeout=30s
# cut off while it is removed: it learns of it when it is back, and ends its pods
k -n $NS run late --image=klynge-test:1 --overrides='{"spec":{"nodeName":"second","terminationGracePeriodSeconds":1}}' -- sleep 100000
k -n $NS wait pod/late --for=condition=Ready --timeout=30s
ip -n "$second" link set up0 down
klynge node remove second --force
ip -n "$second" link set up0 up
ip -n "$second" route add default via 198.51.100.1 2>/dev/null || true
eventually 90 sh -c "! kill -0 \$(cat $WORK/second/server.pid)"
same "containers of a removed node" "" "$(ls "$WORK/second/agent/run/pods")"
there down --purge >/dev/null
[ ! -e "$WORK/second" ]
same "what stays on the machine" "" "$(ip -n "$second" -o link | grep -vE ' (lo|up0)@?' ; ip -n "$second" route | grep 10.4 || true; nsenter --net="/run/netns/$second" nft list tables)"
