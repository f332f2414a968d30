# klynge itself: run, status, explain, image, version, completions, errors with their exit codes.
says '^klynge ' klynge version
says _klynge klynge completions bash
refuses "similar.*'status'" klynge statsu
says klynge-test klynge image ls
says '"images"' klynge image ls -o json
code=0; klynge image rm no.such/image:1 2> $WORK/rm.err || code=$?
same "exit code for a missing image" 4 $code
head -c 100000 /dev/urandom > $WORK/noise
refuses 'no archive of an image.*docker save' klynge image import $WORK/noise
# what cannot heal by itself ends the wait
begun=$SECONDS
refuses 'cannot be started.*no/such/command.*goes on trying' klynge run hopeless klynge-test:1 --timeout 120 -- /no/such/command
refuses 'cannot be pulled.*goes on trying' klynge run unpullable no.such.registry.invalid/x --timeout 120
[ $((SECONDS - begun)) -lt 60 ] || { echo "run waited $((SECONDS - begun)) s for what cannot heal" >&2; exit 1; }
k delete deployment hopeless unpullable
url=$(klynge run front klynge-test:1 --replicas 2 --publish 8080 -- httpd -f -p 8080 -h /www)
eventually 20 fetch $url/cgi-bin/clock.cgi
says '^nodes ' klynge status
says 'as wanted' klynge explain deployment front
code=0; klynge explain pod nobody || code=$?
same "exit code for a missing object" 4 $code
code=0; KUBECONFIG= "$BINARY" --data-dir $WORK/none --kubeconfig $WORK/none/k status || code=$?
same "exit code without a cluster" 3 $code
code=0; klynge server --port 16443 > $WORK/second.out 2>&1 || code=$?
same "exit code of a second server" 1 $code
grep -qi 'another' $WORK/second.out
klynge run broken no.such.registry.invalid/x --timeout 0
eventually 60 sh -c "'$BINARY' --data-dir $WORK/data explain deployment broken | grep -q 'cannot be pulled'"
k delete deployment front broken; k delete service front
# another cluster on the same host is refused before it touches the first one's network
code=0; "$BINARY" --data-dir $WORK/other server --port 16444 > $WORK/other.out 2>&1 || code=$?
same "exit code of a second cluster on one host" 1 $code
says 'another Klynge agent' cat $WORK/other.out
"$BINARY" --data-dir $WORK/other down --purge >/dev/null
k get nodes
url=$(klynge run again klynge-test:1 --publish 8080 -- httpd -f -p 8080 -h /www)
eventually 20 fetch $url/cgi-bin/clock.cgi
k delete deployment again; k delete service again
