# The kubelet's port: a certificate of the cluster's authority, callers by token or certificate, rights as upstream splits them.
NS=kubelet-port
finish() { k delete namespace $NS --wait=false >/dev/null 2>&1 || true; k delete clusterrolebinding kubelet-port >/dev/null 2>&1 || true; k delete clusterrole kubelet-port >/dev/null 2>&1 || true; }
trap finish EXIT
k create namespace $NS
k -n $NS create serviceaccount reader
k create clusterrole kubelet-port --verb=get --resource=nodes/metrics
node=$(k get nodes -o jsonpath='{.items[0].metadata.name}')
address=$(k get node "$node" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
same "the port in the Node" 10250 "$(k get node "$node" -o jsonpath='{.status.daemonEndpoints.kubeletEndpoint.Port}')"
k config view --raw --minify -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$WORK/authority.pem"
k config view --raw --minify -o jsonpath='{.users[0].user.client-certificate-data}' | base64 -d >"$WORK/admin.pem"
k config view --raw --minify -o jsonpath='{.users[0].user.client-key-data}' | base64 -d >"$WORK/admin-key.pem"
token=$(k -n $NS create token reader)
# call PATH [CURL OPTION...]: the answer, and its code on a line of its own
call() { local path=$1; shift; curl -sS --max-time 10 --cacert "$WORK/authority.pem" -w '\n%{http_code}' "$@" "https://$address:10250$path"; }
answers() { local code=$1 text=$2 said; shift 2; said=$(call "$@") && [ "$(tail -1 <<<"$said")" = "$code" ] && grep -qF -- "$text" <<<"$said" || { echo "wanted $code '$text', got: $said" >&2; return 1; }; }
eventually 20 answers 401 Unauthorized /metrics/resource
answers 401 Unauthorized /healthz
answers 401 Unauthorized /pods -H "Authorization: Bearer nonsense"
answers 403 "Forbidden (user=system:serviceaccount:$NS:reader, verb=get, resource=nodes, subresource(s)=[metrics])" /metrics/resource -H "Authorization: Bearer $token"
k create clusterrolebinding kubelet-port --clusterrole=kubelet-port --serviceaccount=$NS:reader
# a refusal is believed for half a minute; another caller with the same rights is asked about at once
k -n $NS create serviceaccount second
k create clusterrolebinding kubelet-port-second --clusterrole=kubelet-port --serviceaccount=$NS:second
token=$(k -n $NS create token second)
answers 200 '# TYPE container_memory_working_set_bytes gauge' /metrics/resource -H "Authorization: Bearer $token"
answers 403 'subresource(s)=[pods proxy]' /pods -H "Authorization: Bearer $token"
answers 403 'verb=create' /run/$NS/none/none -X POST -H "Authorization: Bearer $token"
k delete clusterrolebinding kubelet-port-second
# the admin's certificate may everything; a certificate of anybody else does not get through the handshake
answers 200 '"kind":"PodList"' /pods --cert "$WORK/admin.pem" --key "$WORK/admin-key.pem"
answers 200 ok /healthz --cert "$WORK/admin.pem" --key "$WORK/admin-key.pem"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$WORK/foreign-key.pem" -out "$WORK/foreign.pem" -subj /O=system:masters/CN=root -days 1 2>/dev/null
if call /pods --cert "$WORK/foreign.pem" --key "$WORK/foreign-key.pem" >/dev/null 2>&1; then echo "a foreign certificate was let in" >&2; exit 1; fi
# a node may not use the port of a node
same 'may another node use it' no "$(k auth can-i get nodes --subresource=proxy --as=system:node:other --as-group=system:nodes 2>/dev/null || true)"
k get csr -o jsonpath='{range .items[?(@.spec.signerName=="kubernetes.io/kubelet-serving")]}{.spec.username} {.status.conditions[0].type}{"\n"}{end}' | grep -q "^system:node:$node Approved$"
