# exec, cp, logs -f, attach's input, port-forward: SPDY with the oldest kubectl, WebSocket with the newest.
fresh_namespace streaming-test
k -n $NS run box --image=klynge-test:1 -- sh -c 'i=0; while true; do echo line $i; i=$((i+1)); sleep 1; done'
k -n $NS run web --image=klynge-test:1 --port=8080 -- httpd -f -p 8080 -h /www
k -n $NS wait pod/box pod/web --for=condition=Ready --timeout=60s
# a debugger sees its target's processes
k -n $NS debug box --image=klynge-test:1 --target=box -c debugger -- ps > $WORK/debug 2>&1
sees_target() { k -n $NS logs box -c debugger | grep -q 'echo line'; }
eventually 20 sees_target
port=20080
for kubectl in $KUBECTLS; do
  same "exec" hello "$($kubectl -n $NS exec box -- echo hello)"
  same "stdin" "3" "$(printf 'a\nb\nc\n' | $kubectl -n $NS exec -i box -- wc -l | tr -d ' ')"
  $kubectl -n $NS exec box -- sh -c 'exit 42' && exit 1 || same "exit code" 42 $?
  head -c 300000 /dev/urandom > $WORK/random
  $kubectl -n $NS cp $WORK/random box:/tmp/random
  $kubectl -n $NS cp box:/tmp/random $WORK/random.back
  cmp $WORK/random $WORK/random.back
  timeout 4 $kubectl -n $NS logs -f box > $WORK/follow || true
  [ "$(wc -l < $WORK/follow)" -ge 3 ]
  says '^20[0-9-]+T.*Z line [0-9]+$' $kubectl -n $NS logs box --tail=1 --timestamps
  port=$((port + 1))
  $kubectl -n $NS port-forward pod/web $port:8080 > $WORK/forward 2>&1 &
  forward=$!
  eventually 15 fetch http://127.0.0.1:$port/cgi-bin/clock.cgi
  for _ in 1 2 3 4 5; do fetch http://127.0.0.1:$port/cgi-bin/clock.cgi | grep -q 'UTC at web'; done
  kill $forward; wait $forward 2>/dev/null || true
done
