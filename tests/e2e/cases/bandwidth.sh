# Pods' bandwidth limits: what is measured between containers, what a bad value says, and that nothing stays behind.
fresh_namespace bandwidth-test
pod() {
  k -n $NS apply -f - <<YAML
apiVersion: v1
kind: Pod
metadata: { name: $1, annotations: { $2 } }
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - { name: c, image: "klynge-test:1", command: [sh, -c, "head -c 4000000 /dev/zero > /www/data; exec httpd -f -p 8080 -h /www"] }
YAML
}
pod free ''
pod slow '"kubernetes.io/ingress-bandwidth": 16M, "kubernetes.io/egress-bandwidth": 8M'
pod wrong '"kubernetes.io/egress-bandwidth": "12"'
k -n $NS wait pod/free pod/slow --for=condition=Ready --timeout=30s

# milliseconds FROM TO: how long four megabytes take
milliseconds() {
  local address begun
  address=$(k -n $NS get pod $2 -o jsonpath='{.status.podIP}')
  eventually 10 k -n $NS exec $1 -- wget -q -O /dev/null http://$address:8080/
  begun=$(date +%s%3N)
  k -n $NS exec $1 -- wget -q -O /dev/null http://$address:8080/data
  echo $(($(date +%s%3N) - begun))
}
# within WHAT LOW HIGH MEASURED
within() { echo "$1: $4 ms"; [ $4 -ge $2 ] && [ $4 -le $3 ] || { echo "$1: $4 ms, not between $2 and $3" >&2; return 1; }; }
k -n $NS exec free -- touch /www/index.html
k -n $NS exec slow -- touch /www/index.html
within "sent at 8 Mbit/s" 3200 6000 "$(milliseconds free slow)"
within "received at 16 Mbit/s" 1600 3500 "$(milliseconds slow free)"

blamed() { says 'FailedCreatePodSandBox.*resource is unreasonably small' k -n $NS describe pod wrong; }
eventually 20 blamed
ip -o link show type ifb | grep -q 'klynge limit' # the alias tells whose it is
k -n $NS delete pod slow --wait
gone() { [ -z "$(ip -o link show type ifb)" ]; }
eventually 10 gone
