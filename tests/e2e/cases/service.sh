# ClusterIP and NodePort from the host, from pods and from another machine; hairpin; refusal without endpoints.
fresh_namespace service-test
k -n $NS create deployment web --image=klynge-test:1 --replicas=2 -- httpd -f -p 8080 -h /www
k -n $NS rollout status deployment/web --timeout=60s
k -n $NS expose deployment web --port=80 --target-port=8080 --type=NodePort
address=$(k -n $NS get service web -o jsonpath='{.spec.clusterIP}')
port=$(k -n $NS get service web -o jsonpath='{.spec.ports[0].nodePort}')
eventually 20 fetch http://$address/cgi-bin/clock.cgi
eventually 10 fetch http://192.0.2.2:$port/cgi-bin/clock.cgi
eventually 10 fetch http://192.0.2.2:$port/cgi-bin/clock.cgi $OUTSIDE
seen=$(for _ in $(seq 20); do fetch http://$address/cgi-bin/clock.cgi; done | sed 's/.* at //' | sort -u | wc -l)
same "pods that answered" 2 "$seen"
# load balancers ask each node whether it has endpoints
k -n $NS apply -f - <<YAML
apiVersion: v1
kind: Service
metadata: { name: balanced }
spec: { type: LoadBalancer, externalTrafficPolicy: Local, selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
YAML
health=$(k -n $NS get service balanced -o jsonpath='{.spec.healthCheckNodePort}')
eventually 10 says '"localEndpoints":2' fetch http://192.0.2.2:$health/healthz $OUTSIDE
pod=$(k -n $NS get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
for _ in 1 2 3 4 5 6; do k -n $NS exec $pod -- wget -q -O - http://web.$NS.svc.cluster.local/cgi-bin/clock.cgi; done
k -n $NS scale deployment web --replicas=0
# While the last pods end, they still serve (as upstream's fallback to terminating endpoints has it); then it is refused.
k -n $NS delete pods --all --grace-period=1 --wait=true --timeout=60s
eventually 30 refuses 'Connection refused' bash -c "exec 3<>/dev/tcp/$address/80"
eventually 10 says '"localEndpoints":0' fetch http://192.0.2.2:$health/ $OUTSIDE
same "its status" 503 "$(curl -s -o /dev/null -w "%{http_code}" --max-time 5 http://192.0.2.2:$health/)"
k -n $NS delete service balanced
eventually 10 refuses 'refused|Could not connect|Failed to connect' fetch http://192.0.2.2:$health/
