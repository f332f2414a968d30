# What the host's other programs see and do: nft and iptables read everything while it is in use; tables that they remove come back.
fresh_namespace host-test
k -n $NS create deployment web --image=klynge-test:1 --replicas=2 -- httpd -f -p 8080 -h /www
k -n $NS expose deployment web --port=80 --target-port=8080 --type=NodePort
k -n $NS apply -f - <<YAML
apiVersion: v1
kind: Service
metadata: { name: sticky }
spec:
  type: LoadBalancer
  selector: { app: web }
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  externalIPs: [192.0.2.77]
  loadBalancerSourceRanges: [192.0.2.0/24]
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: v1
kind: Pod
metadata: { name: client }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: c, image: "klynge-test:1", command: [sleep, "100000"], ports: [{ containerPort: 80, hostPort: 8099 }] }]
YAML
k -n $NS rollout status deployment/web --timeout=60s
k -n $NS wait pod/client --for=condition=Ready --timeout=60s
address=$(k -n $NS get service web -o jsonpath='{.spec.clusterIP}')
sticky=$(k -n $NS get service sticky -o jsonpath='{.spec.clusterIP}')
port=$(k -n $NS get service web -o jsonpath='{.spec.ports[0].nodePort}')
ways() {
  eventually 20 fetch http://$address/cgi-bin/clock.cgi
  eventually 20 fetch http://$sticky/cgi-bin/clock.cgi
  eventually 20 fetch http://192.0.2.2:$port/cgi-bin/clock.cgi $OUTSIDE
  eventually 20 k -n $NS exec client -- wget -q -O - http://web.$NS.svc.cluster.local/cgi-bin/clock.cgi
}
readable() {
  nft list ruleset >$WORK/ruleset
  grep -q "$address . tcp . 80 : 0x" $WORK/ruleset
  grep -q 'tcp . 8099 : ' $WORK/ruleset
  grep -q ' expires ' $WORK/ruleset
  nft -j list ruleset >$WORK/ruleset.json
  python3 -c 'import json, sys; assert len(json.load(sys.stdin)["nftables"]) > 50' <$WORK/ruleset.json
}
ways
readable
# a firewall made with iptables drops everything that is not let in: pods are, and iptables goes on reading and changing its tables
for iptables in iptables-nft ip6tables-nft; do
  $iptables -P FORWARD DROP
  $iptables -A INPUT -i lo -j ACCEPT
  $iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
  $iptables -P INPUT DROP
done
eventually 30 says 'kly\+ .*klynge: pods' iptables-nft -S FORWARD
eventually 30 says '--ctstate RELATED,ESTABLISHED .*klynge: pods' iptables-nft -S INPUT
ways
for iptables in iptables-nft ip6tables-nft; do
  $iptables -S >/dev/null
  $iptables-save >/dev/null
  $iptables -I FORWARD 1 -i nothing0 -j DROP
  $iptables -D FORWARD -i nothing0 -j DROP
done
readable
# reloading nftables.service begins with this
nft flush ruleset
eventually 30 says 'klynge-services' nft list tables
eventually 30 says 'klynge-pods' nft list tables
ways
readable
# single tables and rules go, also while changes are made
nft delete table ip klynge-services
k -n $NS expose deployment web --name=later --port=81 --target-port=8080
ways
later=$(k -n $NS get service later -o jsonpath='{.spec.clusterIP}')
eventually 20 fetch http://$later:81/cgi-bin/clock.cgi
nft flush chain ip klynge-services prerouting
eventually 20 says 'jump services' nft list chain ip klynge-services prerouting
ways
