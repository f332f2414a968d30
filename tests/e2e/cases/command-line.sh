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
# purge takes nothing that Klynge did not make
mkdir -p $WORK/foreign/logs; echo precious > $WORK/foreign/logs/file
code=0; "$BINARY" --data-dir $WORK/foreign down --purge 2> $WORK/foreign.err || code=$?
same "exit code of a purge of a foreign directory" 2 $code
same "what was in it" precious "$(cat $WORK/foreign/logs/file)"
code=0; "$BINARY" --data-dir $WORK/foreign up 2> $WORK/foreign.err || code=$?
same "exit code of an up into it" 2 $code
code=0; "$BINARY" --data-dir $WORK/noise up 2> $WORK/foreign.err || code=$?
same "exit code for a data directory that is a file" 2 $code
grep -q 'is not a directory' $WORK/foreign.err
# nor does dev
mkdir -p $WORK/clusters/mine; echo precious > $WORK/clusters/mine/file
refuses 'not a cluster that' "$BINARY" --data-dir $WORK/clusters dev down --name mine
says 'no cluster' "$BINARY" --data-dir $WORK/clusters dev down --all
refuses 'not a cluster that' "$BINARY" --data-dir $WORK/clusters dev up --name mine
same "what was in it" precious "$(cat $WORK/clusters/mine/file)"
refuses 'data directory of a server' klynge dev down --all
# a kubeconfig of somebody else keeps its entries, and gets its context back
cat > $WORK/theirs <<'YAML'
apiVersion: v1
kind: Config
clusters: [{name: work, cluster: {server: "https://192.0.2.99:6443"}}]
users: [{name: me, user: {token: t}}]
contexts: [{name: work, context: {cluster: work, user: me}}]
current-context: work
YAML
mkdir $WORK/third
"$BINARY" --data-dir $WORK/third --kubeconfig $WORK/theirs server --no-agent --port 16445 > $WORK/third.out 2>&1 &
third=$!
eventually 30 grep -q '^ready' $WORK/third.out
same "contexts" "klynge work" "$(k --kubeconfig $WORK/theirs config get-contexts -o name | sort | xargs)"
same "its mode" 600 "$(stat -c %a $WORK/theirs)"
k --kubeconfig $WORK/theirs --context klynge get namespaces default
kill $third; wait $third || true
# what a cluster was made with stays
refuses 'was made with --pod-cidr 10.42.0.0/16' "$BINARY" --data-dir $WORK/third server --no-agent --port 16445 --pod-cidr 10.77.0.0/16
echo mine > $WORK/third/mine
says 'stays: Klynge did not make' "$BINARY" --data-dir $WORK/third --kubeconfig $WORK/theirs down --purge
same "what is left" mine "$(ls $WORK/third)"
same "contexts after the purge" work "$(k --kubeconfig $WORK/theirs config get-contexts -o name | xargs)"
same "the current one" work "$(k --kubeconfig $WORK/theirs config current-context)"
# words that are wrong are wrong through up as well, and leave no trace
code=0; "$BINARY" --data-dir $WORK/wrong up --pod-cidr ten 2> $WORK/wrong.err || code=$?
same "exit code of up with a wrong range" 2 $code
[ ! -e $WORK/wrong ]
grep -q 'started with, without --port 7777' <<< "$(klynge up --port 7777 2>&1)"
code=0; klynge version > /dev/full 2> $WORK/full.err || code=$?
same "exit code of a full disk" 1 $code
same "a version has no name" "$(klynge version)" "$(klynge version -o name)"
# explain takes what status gives
code=0; klynge explain pod 'a b' 2> $WORK/odd.err || code=$?
same "exit code for an odd name" 2 $code
klynge run broken no.such.registry.invalid/x --timeout 0
eventually 20 sh -c "'$BINARY' --data-dir $WORK/data status -o name | grep -qx 'deployment/broken -n default'"
says 'Deployment broken' klynge explain deployment/broken
says '"namespace": *"default"' klynge explain deployment/broken -o json
k delete deployment broken
# an image in use names who uses it
klynge run user klynge-test:1 -- sleep 1000
refuses 'klynge-test:1 is in use by containers of the pods .*default/user-' klynge image rm klynge-test:1
k delete deployment user
