# A node whose disk fills, a small tmpfs: the pod that filled it goes in upstream's words, the others run on, new ones wait.
DEV_DIRECTORY=$WORK/disk
mkdir -p "$DEV_DIRECTORY"
mount -t tmpfs -o size=400m disk "$DEV_DIRECTORY"
dev() { "$BINARY" --data-dir "$DEV_DIRECTORY" dev "$@" >/dev/null; }
trap 'dev down --all >/dev/null 2>&1 || true; umount "$DEV_DIRECTORY"' EXIT
unset KUBECONFIG
admin=$WORK/disk.kubeconfig
d() { k --kubeconfig "$admin" "$@"; }
dev up --name disk --nodes 1 --image "$WORK/test.tar" --kubeconfig "$admin"

d apply -f - <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: calm}
spec: {containers: [{name: c, image: klynge-test:1, command: [sleep, "1000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: over}
spec:
  restartPolicy: Never
  containers: [{name: c, image: klynge-test:1, command: [sh, -c, "dd if=/dev/zero of=/x bs=1M count=12; sleep 1000"], resources: {limits: {ephemeral-storage: 8Mi}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hog}
spec:
  selector: {matchLabels: {app: hog}}
  template:
    metadata: {labels: {app: hog}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: klynge-test:1, command: [sh, -c, "dd if=/dev/zero of=/data/x bs=1M count=350; sleep 1000"], volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, emptyDir: {}}]
Y
failed() { d get pods -l app=hog --field-selector status.phase=Failed -o name; }
evicted() { [ -n "$(failed)" ]; }
eventually 60 evicted
hog=$(failed | head -1)
says '^Evicted: The node was low on resource: ephemeral-storage. Threshold quantity: 40Mi, available: ' d get "$hog" -o jsonpath='{.status.reason}: {.status.message}'
same "its condition" True/TerminationByKubelet "$(d get "$hog" -o jsonpath='{range .status.conditions[?(@.type=="DisruptionTarget")]}{.status}/{.reason}{end}')"
eventually 20 says 'Usage|Pod ephemeral local storage usage exceeds the total limit of containers 8Mi' d get pod over -o jsonpath='{.status.message}'
eventually 20 says 'EvictionThresholdMet .*Attempting to reclaim ephemeral-storage' d get events
says 'Evicted .*The node was low on resource: ephemeral-storage' d get events
eventually 20 says '^True$' d get node disk-1 -o jsonpath='{.status.conditions[?(@.type=="DiskPressure")].status}'
eventually 20 says 'node.kubernetes.io/disk-pressure:NoSchedule' d describe node disk-1
# the one that comes in its place waits for the taint to go
eventually 20 says "had untolerated taint" d get pods -l app=hog -o jsonpath='{.items[*].status.conditions[*].message}'
same "the other pod" Running/0 "$(d get pod calm -o jsonpath='{.status.phase}/{.status.containerStatuses[0].restartCount}')"
says 'too little left' "$BINARY" --kubeconfig "$admin" explain "$hog"
# its files are gone
eventually 20 sh -c "[ \$(df --output=pcent '$DEV_DIRECTORY' | tail -1 | tr -dc 0-9) -lt 60 ]"
