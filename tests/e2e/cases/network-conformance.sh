# The network behaviours of upstream's conformance suite, and others that users meet, on two nodes (tests/e2e/tools/network_conformance.py).
dev() { "$BINARY" --data-dir "$WORK/conform" dev "$@"; }
trap 'dev down --all >/dev/null 2>&1 || true' EXIT
unset KUBECONFIG
admin=$WORK/conform.kubeconfig
# the pods' program runs on the machine's Python, which they get as a volume; the links lead there
root=$WORK/conform-root
mkdir -p "$root/conform"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
cp tests/e2e/tools/conformance/pod.py "$root/conform/"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$root/conform/tls.key" -out "$root/conform/tls.crt" -days 2 -subj /CN=conform 2>/dev/null
chmod 644 "$root/conform/tls.key"
scripts/make-image klynge-conform:1 "$WORK/conform.tar" "$root"
dev up --name conform --nodes 2 --image "$WORK/conform.tar" --kubeconfig "$admin"
python3 tests/e2e/tools/network_conformance.py "$admin" ${KLYNGE_CONFORMANCE_ONLY-}
