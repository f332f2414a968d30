# The other controllers: Job, CronJob, DaemonSet, StatefulSet, garbage collection, PodDisruptionBudget, default ServiceAccount.
fresh_namespace controllers-test
eventually 10 k -n $NS get serviceaccount default
eventually 10 k -n $NS get configmap kube-root-ca.crt
k -n $NS create job counts --image=klynge-test:1 -- sh -c 'echo counted'
k -n $NS wait job/counts --for=condition=Complete --timeout=60s
says counted k -n $NS logs job/counts
# a command that is not there: the run counts, so the Job fails and a Deployment's pod backs off
cat <<Y | k -n $NS apply -f -
apiVersion: batch/v1
kind: Job
metadata: {name: cannot}
spec:
  backoffLimit: 0
  template:
    spec: {restartPolicy: Never, containers: [{name: main, image: "klynge-test:1", command: [/no/such/command]}]}
Y
k -n $NS wait job/cannot --for=condition=Failed --timeout=60s
same "why the job failed" BackoffLimitExceeded "$(k -n $NS get job cannot -o jsonpath='{.status.conditions[?(@.type=="Failed")].reason}')"
k -n $NS run cannot --image=klynge-test:1 --command -- /no/such/command
backs_off() { [ "$(k -n $NS get pod cannot -o jsonpath='{.status.containerStatuses[0].state.waiting.reason}')" = CrashLoopBackOff ]; }
eventually 30 backs_off
same "how it ended" "StartError 128" "$(k -n $NS get pod cannot -o jsonpath='{.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}')"
says 'Warning +Failed .*Error: failed to start container .*stat /no/such/command: no such file or directory' k -n $NS describe pod cannot
k -n $NS delete job/cannot pod/cannot --wait=false
k -n $NS create cronjob ticks --image=klynge-test:1 --schedule='*/1 * * * *' -- true
k -n $NS create job by-hand --from=cronjob/ticks
k -n $NS wait job/by-hand --for=condition=Complete --timeout=60s
cat <<Y | k -n $NS apply -f -
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: ordered}
spec: {clusterIP: None, selector: {app: ordered}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ordered}
spec:
  serviceName: ordered
  replicas: 2
  selector: {matchLabels: {app: ordered}}
  template:
    metadata: {labels: {app: ordered}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: "klynge-test:1", command: [sleep, "100000"]}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: ordered}
spec: {minAvailable: 2, selector: {matchLabels: {app: ordered}}}
Y
k -n $NS rollout status daemonset/everywhere --timeout=60s
k -n $NS rollout status statefulset/ordered --timeout=60s
same "identities" "pod/ordered-0 pod/ordered-1" "$(k -n $NS get pods -l app=ordered -o name | xargs)"
eventually 20 k -n $NS exec ordered-0 -- nslookup -type=a ordered-1.ordered.$NS.svc.cluster.local
k -n $NS wait pdb/ordered --for=jsonpath='{.status.currentHealthy}'=2 --timeout=30s
printf '{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"ordered-0"}}' > $WORK/eviction
refuses "disruption budget" k create --raw /api/v1/namespaces/$NS/pods/ordered-0/eviction -f $WORK/eviction
k -n $NS create deployment owner --image=klynge-test:1 -- sleep 100000
k -n $NS rollout status deployment/owner --timeout=60s
k -n $NS delete deployment owner --cascade=orphan
same "orphans" 1 "$(k -n $NS get replicaset -l app=owner -o name | grep -c .)"
k -n $NS delete replicaset -l app=owner --cascade=foreground --timeout=60s
k -n $NS delete statefulset,daemonset --all
k delete namespace $NS --timeout=90s
