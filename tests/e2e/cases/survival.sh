# kill -9 of the server: containers go on untouched, acknowledged writes stay, everything converges afterwards.
fresh_namespace survival-test
k -n $NS run steady --image=klynge-test:1 -- sh -c 'i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done'
k -n $NS create deployment copies --image=klynge-test:1 --replicas=2 -- sleep 100000
k -n $NS wait pod/steady --for=condition=Ready --timeout=60s
k -n $NS rollout status deployment/copies --timeout=60s
k -n $NS exec steady -- cat /proc/1/stat | cut -d' ' -f22 > $WORK/start.before
for round in 1 2 3; do
  k -n $NS create configmap written-$round --from-literal=a=$round
  server=$(cat $WORK/data/server.pid)
  kill -9 $server
  klynge up >/dev/null
  same "the write" $round "$(k -n $NS get configmap written-$round -o jsonpath='{.data.a}')"
  eventually 30 k -n $NS exec steady -- true
  k -n $NS exec steady -- cat /proc/1/stat | cut -d' ' -f22 > $WORK/start.after
  cmp $WORK/start.before $WORK/start.after
  same "restarts" 0 "$(k -n $NS get pod steady -o jsonpath='{.status.containerStatuses[0].restartCount}')"
done
lines=$(k -n $NS logs steady | wc -l)
eventually 10 sh -c "[ \$(${KUBECTLS##* } -n $NS logs steady | wc -l) -gt $lines ]"
k -n $NS logs steady | awk 'NR > 1 && $1 != last + 1 { exit 1 } { last = $1 }'
# a deleted pod is replaced, a dead container is started again
pod=$(k -n $NS get pods -l app=copies -o jsonpath='{.items[0].metadata.name}')
k -n $NS delete pod $pod --grace-period=1
k -n $NS wait deployment/copies --for=jsonpath='{.status.availableReplicas}'=2 --timeout=60s
k -n $NS exec steady -- sh -c 'kill -9 1' || true
k -n $NS exec steady -- sh -c 'kill 1' || true
k -n $NS run ends --image=klynge-test:1 -- sh -c 'sleep 1; exit 3'
eventually 30 sh -c "[ \"\$(${KUBECTLS##* } -n $NS get pod ends -o jsonpath='{.status.containerStatuses[0].restartCount}')\" -ge 1 ]"
