# examples/guestbook over three nodes, tried as a new user would: a replicated web tier, redis with followers. Whichever node is killed,
# it goes on answering, from the other nodes' ports too.
examples/guestbook/image "$WORK/guestbook.tar"
dev_nodes book "$WORK/guestbook.tar"
d apply -f examples/guestbook/guestbook.yaml >/dev/null
for name in redis-leader redis-follower frontend; do d rollout status "deployment/$name" --timeout=60s >/dev/null; done
declare -A node
for number in 1 2 3; do node[$number]=$(d get node book-$number -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'); done

# at NUMBER: the guestbook on a node's port. What is with a dead node until the others have heard of it is tried again, as browsers do.
at() { curl -fsS --retry 8 --retry-delay 0 --retry-all-errors --connect-timeout 1 --max-time 6 "http://${node[$1]}:30080/cgi-bin/guestbook" "${@:2}"; }
lists() { [ "$(at "$1" | xargs)" = "$2" ]; }
at 1 -d "Ada was here" >/dev/null
at 2 -d "Grace too" >/dev/null
for number in 1 2 3; do eventually 10 lists $number "Ada was here Grace too"; done
says "<title>Guestbook</title>" curl -sS --max-time 5 "http://${node[3]}:30080/"

# more of the web tier, then a new release of it
d scale deployment frontend --replicas=6 >/dev/null
d rollout status deployment/frontend --timeout=30s >/dev/null
same "nodes with a web server" 3 "$(d get pods -l tier=frontend -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)"
d set env deployment/frontend RELEASE=2 >/dev/null
d rollout status deployment/frontend --timeout=60s >/dev/null
lists 2 "Ada was here Grace too"

# any node is killed: the others' ports answer, what was written is there, more can be written wherever the leader lives
d annotate namespace default klynge.io/fast-failover=true >/dev/null
leader=$(d get pods -l role=leader -o jsonpath='{.items[0].spec.nodeName}')
whole() { [ "$(d get pods --no-headers | awk '$3 == "Running" && $2 == "1/1"' | wc -l)" = "$(d get pods --no-headers | wc -l)" ] && d rollout status deployment/frontend --timeout=1s >/dev/null 2>&1; }
for number in 2 3; do
  [ "book-$number" != "$leader" ] || continue
  echo "killed: book-$number, the leader is on $leader"
  kept=$(at 1 | xargs)
  dev node kill book-$number
  for other in 1 2 3; do
    [ $other != $number ] || continue
    eventually 10 lists $other "$kept"
  done
  at 1 -d "without $number" >/dev/null
  dev node start book-$number
  d wait node book-$number --for=condition=Ready --timeout=30s >/dev/null
  eventually 60 whole
  eventually 20 lists $number "$(at 1 | xargs)"
done
says "^without [23]$" at 1

echo "killed: book-1, with the control plane"
kept=$(at 2 | xargs)
dev node kill book-1
follower() { at "$1" >/dev/null; }
for number in 2 3; do eventually 30 follower $number; done
dev node start book-1
eventually 30 d get --raw /readyz >/dev/null
d wait node --all --for=condition=Ready --timeout=30s >/dev/null
eventually 60 whole
for number in 1 2 3; do follower $number; done
[ "$leader" = book-1 ] || same "entries after all" "$kept" "$(at 1 | xargs)"
