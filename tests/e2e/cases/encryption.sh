# Encryption between nodes, by the kernel or in user space: the switch, three nodes of klynge dev with an ear on the wire between them, and
# what becomes of packets when agents and the process that encrypts are killed.
space=klynge-secret-$$
data=$WORK/secret-data
in_space() { nsenter --net=/run/netns/$space "$@"; }
c() { KUBECONFIG=$WORK/secret-user in_space "$BINARY" --data-dir "$data" "$@"; }
e() { in_space ${KUBECTLS##* } --kubeconfig "$data/kubeconfig" "$@"; }
annotation() { e get nodes -o jsonpath="{.items[0].metadata.annotations.klynge\.io/wireguard-$1}"; }
ear=klynge-ear-$$
finish() {
  c down --purge --quiet >/dev/null 2>&1 || true
  ip netns del $space 2>/dev/null || true
  rm -rf "$data"
  nft delete table bridge $ear 2>/dev/null || true
}
trap finish EXIT
ip netns add $space
ip -n $space link set lo up
ip -n $space link add wire0 type bridge
ip -n $space address add 198.51.100.10/24 dev wire0
ip -n $space link set wire0 up
ip -n $space route add default via 198.51.100.1
refuses 'for the built-in network' c up --network cni --encryption wireguard
form=user-space
if ip -n $space link add probe type wireguard 2>/dev/null; then
  ip -n $space link del probe
  form=kernel
fi
echo "by the $form"
c up --encryption wireguard --kubelet-port 0
same "length of the key" 44 "$(annotation public-key | wc -c)"
same "who encrypts" $form "$(annotation form)"
same "mode of the private key" 600 "$(stat -c %a "$data/network/wireguard.key")"
[ -n "$(ip -n $space -o link show klynge-wg)" ]
c down
[ $form = kernel ] || pgrep -f "wireguard-serve $data" >/dev/null # it outlives the agent
c up --kubelet-port 0
eventually 10 same "key without encryption" "" "$(annotation public-key)$(annotation form)"
is_gone() { ! ip -n $space -o link show klynge-wg 2>/dev/null; }
eventually 10 is_gone
if pgrep -f "wireguard-serve $data"; then echo "the process is still there" >&2; exit 1; fi
c down --purge
if [ $form = user-space ]; then
  # neither: no plain packets instead
  hidden() { in_space unshare --mount sh -c 'mount -t tmpfs none /dev/net && exec "$@"' hidden "$@"; }
  refuses 'no TUN devices .*modprobe wireguard, or modprobe tun' \
    hidden "$BINARY" --data-dir "$data" server --encryption wireguard --kubelet-port 0
  c down --purge
fi
finish

dev_nodes secret "$WORK/test.tar" --encryption wireguard
trap 'dev down --all >/dev/null 2>&1 || true; finish' EXIT
same "who encrypts" "$form $form $form" "$(d get nodes -o jsonpath='{.items[*].metadata.annotations.klynge\.io/wireguard-form}')"
nft -f - <<NFT
table bridge $ear {
  chain forward {
    type filter hook forward priority 0;
    ip saddr 10.42.0.0/16 counter comment "plain"
    ip daddr 10.42.0.0/16 counter comment "plain"
    udp dport 8478 counter comment "encrypted"
  }
}
NFT
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
      containers: [{ name: web, image: "klynge-test:1", command: [sh, -c, "dd if=/dev/urandom of=/www/large bs=1k count=8000 && exec httpd -f -p 8080 -h /www"] }]
YAML
d rollout status daemonset/web --timeout=60s
pod_on() { d get pods -l app=web -o jsonpath="{.items[?(@.spec.nodeName==\"secret-$1\")].metadata.name}"; }
address_on() { d get pods -l app=web -o jsonpath="{.items[?(@.spec.nodeName==\"secret-$1\")].status.podIP}"; }
# answers FROM TO: the pod on one node asks that on another
answers() { d exec "$(pod_on $1)" -- timeout 5 wget -q -O - "http://$(address_on $2):8080/cgi-bin/clock.cgi?in-plain-words" | grep -q " at $(pod_on $2)"; }
for from in 1 2 3; do for to in 1 2 3; do [ $from = $to ] || eventually 10 answers $from $to; done; done
# packets of full size, both ways
for way in "1 2" "2 1"; do
  read -r from to <<<"$way"
  same "the large file" "$(d exec "$(pod_on $to)" -- md5sum /www/large | cut -d' ' -f1)" \
    "$(d exec "$(pod_on $from)" -- timeout 30 wget -q -O - "http://$(address_on $to):8080/large" | md5sum | cut -d' ' -f1)"
done
# a node reaches pods of others by a Service
d create service clusterip web --tcp=80:8080
service=$(d get service web -o jsonpath='{.spec.clusterIP}')
by_service() { dev exec secret-1 -- sh -c "for i in 1 2 3 4 5 6; do curl -sS --max-time 5 http://$service/cgi-bin/clock.cgi || exit 1; done"; }
eventually 10 by_service
heard() { nft list table bridge $ear | grep "\"$1\"" | grep -o 'packets [0-9]*' | awk '{ sum += $2 } END { print sum }'; }
same "packets in plain" 0 "$(heard plain)"
echo "$(heard encrypted) encrypted packets on the wire, long ones counted once"
[ "$(heard encrypted)" -gt 100 ]

# packets pass while an agent is away; the next one takes up the process that is there
process() { "$BINARY" --data-dir "$DEV_DIRECTORY" dev exec secret-2 -- pgrep -f "wireguard-serve .*/2/" | head -1; }
former=$(process)
dev node kill-agent secret-2
for from in 1 3; do answers $from 2; done
dev node start-agent secret-2
d wait node/secret-2 --for=condition=Ready --timeout=20s
same "the process" "$former" "$(process)"
answers 1 2
if [ $form = user-space ]; then
  dev exec secret-2 -- kill -9 "$former"
  begun=$(date +%s%N)
  eventually 5 answers 1 2
  echo "a pod answers $((($(date +%s%N) - begun) / 1000000)) ms after kill -9 of the process that encrypts"
  [ "$(process)" != "$former" ]
  # also without an agent nothing goes in plain: its process is not started again, and its device stays
  dev node kill-agent secret-2
  dev exec secret-2 -- kill -9 "$(process)"
  if answers 1 2; then echo "answered without encryption" >&2; exit 1; fi
  dev node start-agent secret-2
  eventually 10 answers 1 2
fi
dev node kill secret-3
dev node start secret-3
d rollout status daemonset/web --timeout=60s
eventually 20 answers 3 1
eventually 20 answers 1 3
same "packets in plain" 0 "$(heard plain)"
