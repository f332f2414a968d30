# The node: cordon, drain with a PodDisruptionBudget's respect, uncordon; what a pod sees of itself.
fresh_namespace node-test
node=$(k get nodes -o jsonpath='{.items[0].metadata.name}')
says ' Ready ' k get node $node --no-headers
# Extended resources: what somebody advertises is offered, and pods are counted against it. The node tells of itself.
k patch node $node --subresource=status --type=merge -p '{"status":{"capacity":{"example.com/gpu":"2"}}}'
eventually 20 sh -c "[ \"\$(${KUBECTLS##* } get node $node -o jsonpath='{.status.allocatable.example\.com/gpu}')\" = 2 ]"
for count in 2 3; do
  k -n $NS run gpu-$count --image=klynge-test:1 --overrides="{\"spec\":{\"terminationGracePeriodSeconds\":0,\"containers\":[{\"name\":\"c\",
    \"image\":\"klynge-test:1\",\"command\":[\"sleep\",\"1000\"],\"resources\":{\"limits\":{\"example.com/gpu\":\"$count\"}}}]}}"
done
k -n $NS wait pod/gpu-2 --for=condition=Ready --timeout=60s
eventually 20 sh -c "${KUBECTLS##* } -n $NS describe pod gpu-3 | grep -q 'Insufficient example.com/gpu'"
k -n $NS delete pod gpu-2 gpu-3
k patch node $node --subresource=status --type=merge -p '{"status":{"capacity":{"example.com/gpu":null}}}'
eventually 20 sh -c "! ${KUBECTLS##* } get node $node -o jsonpath='{.status.allocatable}' | grep gpu"
k describe node $node > $WORK/described
for told in "Node $node status is now: NodeReady" 'Starting kubelet.' "Node $node event: Registered Node $node in Controller"; do
  grep -q "$told" $WORK/described || { cat $WORK/described; echo "missing: $told" >&2; exit 1; }
done
cat <<Y | k -n $NS apply -f -
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: green, file.txt: "some text"}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: looker, labels: {tier: test}}
spec:
  restartPolicy: Never
  securityContext: {fsGroup: 4321}
  initContainers:
  - {name: first, image: "klynge-test:1", command: [sh, -c, "echo from-init > /shared/note"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: klynge-test:1
    command: [sh, -c, 'cat /shared/note /config/file.txt; echo; echo \$COLOR \$PASSWORD \$POD_NAME; cat /labels/labels; echo; id -u; grep -c "^tmpfs /hidden tmpfs ro" /proc/mounts; stat -Lc %g-%a /hidden /hidden/password; cat /hidden/password; echo; ls /var/run/secrets/kubernetes.io/serviceaccount; grep -c . /etc/resolv.conf; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true']
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    securityContext: {runAsUser: 1234}
    resources: {limits: {memory: 32Mi}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: shared, mountPath: /deep, subPath: made/on/demand}
    - {name: config, mountPath: /config}
    - {name: labels, mountPath: /labels}
    - {name: hidden, mountPath: /hidden}
  volumes:
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0400}}
  - {name: shared, emptyDir: {}}
  - {name: config, configMap: {name: settings}}
  - {name: labels, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
Y
k -n $NS wait pod/looker --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s
k -n $NS logs looker > $WORK/looker
for expected in from-init 'some text' 'green s3cret looker' 'tier="test"' '^1234$' '^token$' '^ca.crt$' '^4321-2777$' '^4321-440$' '^s3cret$'; do
  grep -q "$expected" $WORK/looker || { cat $WORK/looker; echo "missing: $expected" >&2; exit 1; }
done
k -n $NS create deployment movable --image=klynge-test:1 -- sleep 100000
k -n $NS rollout status deployment/movable --timeout=60s
k cordon $node
says SchedulingDisabled k get node $node --no-headers
k -n $NS run waits --image=klynge-test:1 -- sleep 1000
eventually 20 sh -c "${KUBECTLS##* } -n $NS describe pod waits | grep -q 'were unschedulable'"
says 'no node takes it' klynge explain pod waits -n $NS
k uncordon $node
k -n $NS wait pod/waits --for=condition=Ready --timeout=60s
k drain $node --ignore-daemonsets --delete-emptydir-data --force --pod-selector=app=movable --timeout=90s
k uncordon $node
k -n $NS rollout status deployment/movable --timeout=60s

# A flood at full speed: the log is rotated, no file of it passes 11 MiB, exec works meanwhile, and the end is told.
k -n $NS run flood --image=klynge-test:1 --image-pull-policy=Never --restart=Never --command -- yes
flood() { echo $WORK/data/logs/${NS}_flood_*/flood; }
rotated() { [ "$(ls "$(flood)" 2>/dev/null | wc -l)" -ge 5 ]; }
eventually 30 rotated
for _ in 1 2 3 4 5 6 7 8 9 10; do
  largest=$({ stat -c %s "$(flood)"/* 2>/dev/null || true; } | sort -n | tail -1) # files go while they are looked at
  [ "$largest" -le $((11 * 1024 * 1024)) ] || { echo "a log file of $largest bytes" >&2; exit 1; }
  [ "$(ls "$(flood)" | wc -l)" -le 6 ] || { ls -l "$(flood)" >&2; exit 1; }
  eventually 10 says '^works$' k -n $NS exec flood -- echo works # kubectl may lose output before it listens
done
# more than two: it goes on while they are read
same "the newest lines" "y" "$(k -n $NS logs flood --tail=2 | sort -u)"
k -n $NS delete pod flood --grace-period=1
