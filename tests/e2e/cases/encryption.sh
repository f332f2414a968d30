# Encryption between nodes: where the kernel has no WireGuard nothing starts that would send in plain; where it has, the key is told.
space=klynge-secret-$$
data=$WORK/secret-data
in_space() { nsenter --net=/run/netns/$space "$@"; }
c() { KUBECONFIG=$WORK/secret-user in_space "$BINARY" --data-dir "$data" "$@"; }
d() { in_space ${KUBECTLS##* } --kubeconfig "$data/kubeconfig" "$@"; }
finish() { c down --purge --quiet >/dev/null 2>&1 || true; ip netns del $space 2>/dev/null || true; rm -rf "$data"; }
trap finish EXIT
ip netns add $space
ip -n $space link set lo up
ip -n $space link add wire0 type bridge
ip -n $space address add 198.51.100.10/24 dev wire0
ip -n $space link set wire0 up
ip -n $space route add default via 198.51.100.1
refuses 'for the built-in network' c up --network cni --encryption wireguard
if ip -n $space link add probe type wireguard 2>/dev/null; then
  ip -n $space link del probe
  c up --encryption wireguard --kubelet-port 0
  key=$(d get nodes -o jsonpath='{.items[0].metadata.annotations.klynge\.io/wireguard-public-key}')
  same "length of the key" 44 ${#key}
  same "mode of the private key" 600 "$(stat -c %a "$data/network/wireguard.key")"
  c down
  c up --kubelet-port 0
  eventually 10 same "key without encryption" "" "$(d get nodes -o jsonpath='{.items[0].metadata.annotations.klynge\.io/wireguard-public-key}')"
else
  echo "this kernel has no WireGuard"
  refuses 'the kernel has no WireGuard .*modprobe wireguard' c server --encryption wireguard --kubelet-port 0
fi
c down --purge
[ -z "$(ip -n $space -o link show type wireguard 2>/dev/null)" ]
