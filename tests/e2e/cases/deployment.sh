# A Deployment from create to delete: expose, reach by name, scale, roll out, undo.
fresh_namespace deployment-test
k -n $NS create deployment web --image=klynge-test:1 --replicas=2 -- httpd -f -p 8080 -h /www
k -n $NS rollout status deployment/web --timeout=60s
k -n $NS expose deployment web --port=80 --target-port=8080
address=$(k -n $NS get service web -o jsonpath='{.spec.clusterIP}')
eventually 20 fetch http://$address/cgi-bin/clock.cgi
k -n $NS run asker --image=klynge-test:1 --restart=Never -- sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://web/cgi-bin/clock.cgi && exit 0; sleep 1; done; exit 1'
k -n $NS wait pod/asker --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s
says 'UTC at web-' k -n $NS logs asker
k -n $NS scale deployment web --replicas=4
k -n $NS wait deployment/web --for=jsonpath='{.status.availableReplicas}'=4 --timeout=60s
k -n $NS set env deployment/web COLOR=blue
k -n $NS rollout status deployment/web --timeout=90s
eventually 90 sh -c "${KUBECTLS##* } -n $NS get pods -l app=web --no-headers | grep -c . | grep -qx 4"
pod=$(k -n $NS get pod -l app=web -o jsonpath='{.items[0].metadata.name}')
same "the variable" blue "$(k -n $NS exec $pod -- sh -c 'echo $COLOR')"
k -n $NS rollout undo deployment/web
k -n $NS rollout status deployment/web --timeout=90s
says '^3 ' k -n $NS rollout history deployment/web
k -n $NS get pods -o wide
says 'ScalingReplicaSet' k -n $NS describe deployment web
k -n $NS delete deployment,service web
eventually 90 sh -c "! ${KUBECTLS##* } -n $NS get pods -l app=web --no-headers 2>/dev/null | grep -q ."
