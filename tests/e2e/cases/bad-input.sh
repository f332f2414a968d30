# What should not be there: bodies, archives, options, data directories, users. Each is refused with words that help.
fresh_namespace bad-input-test
k -n $NS get serviceaccount default >/dev/null 2>&1 || eventually 20 k -n $NS get serviceaccount default
python3 tests/e2e/tools/bad_requests.py $NS

# Image archives
escape=$(mktemp -d /tmp/klynge-escape.XXXXXX)
open=$(mktemp -d /tmp/klynge-open.XXXXXX)
trap 'rm -rf $escape $open; k delete namespace "$NS" --wait=false >/dev/null 2>&1 || true' EXIT
echo kept > $escape/out.kept
export -f klynge # `fails` runs its command in a shell of its own, to limit its time
fails() { # EXIT CODE, PATTERN, COMMAND...
  local code=0 said wanted=$1 pattern=$2; shift 2
  said=$(timeout 60 bash -c '"$@"' - "$@" 2>&1) || code=$?
  same "exit code of $* ($said)" $wanted $code
  grep -qiE -- "$pattern" <<<"$said" || { echo "$* said: $said, expected $pattern" >&2; return 1; }
}
images=$(klynge image ls -o name)
layers=$(ls $WORK/data/agent/layers | sort)
python3 tests/e2e/tools/bad_images.py $WORK/bad-images $escape/out > $WORK/bad-images.list
for name in $(sed '/^--$/,$d' $WORK/bad-images.list); do
  fails 1 '^error: .{10}' klynge image import $WORK/bad-images/$name.tar
done
same "images after bad archives" "$images" "$(klynge image ls -o name)"
same "layers after bad archives" "$layers" "$(ls $WORK/data/agent/layers | sort)"
for name in $(sed '1,/^--$/d' $WORK/bad-images.list); do
  klynge image import $WORK/bad-images/$name.tar
  klynge image rm bad/$name:1
done
same "the directory outside" out.kept "$(ls -A $escape)"
same "the file outside" kept "$(cat $escape/out.kept)"
same "layers in the end" "$layers" "$(ls -A $WORK/data/agent/layers | sort)"
fails 1 'digest' klynge image import $WORK/bad-images/digest.tar
fails 1 'too many bytes' klynge image import $WORK/bad-images/bomb.tar
fails 1 'image name|reference' klynge image import --name 'Not/A:Name:1' $WORK/test.tar
fails 1 'open|no such file' klynge image import $WORK/no-such-file
fails 2 'directory' klynge image import $WORK
fails 4 'there is no image' klynge image rm no-such-image:1
rm -rf $WORK/bad-images

# Servers that may not start: beside this one, without an agent, each with words that say what to do
other=$WORK/bad-data
rm -rf $other $WORK/bad-store
server() { "$BINARY" --data-dir $other server --no-agent --port 16450 "$@"; }
started() { # until it says that it is ready, then ends in order
  "$BINARY" --data-dir $other server --no-agent --port 16450 > $WORK/bad.out 2>$WORK/bad.err &
  local id=$!
  eventually 30 grep -q ready $WORK/bad.out
  kill $id; wait $id
}
export -f server
export other
fails 2 'overlap' server --pod-cidr 10.50.0.0/16 --service-cidr 10.50.128.0/17
fails 2 'overlap' server --pod-cidr 10.43.0.0/16
fails 2 "this host's own address 192.0.2.2" server --pod-cidr 192.0.2.0/24
fails 2 "this host's own address 192.0.2.2" server --service-cidr 192.0.0.0/16
fails 2 'expected a range' server --pod-cidr ten
fails 2 'expected a range' server --service-cidr 10.43.0.0/99
fails 2 'node-name' server --node-name Upper_Case
[ ! -e $other/store ]
python3 -c 'import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("0.0.0.0", 16450)); s.listen(); print("taken", flush=True); time.sleep(100)' > $WORK/taken &
holder=$!
eventually 10 grep -q taken $WORK/taken
fails 1 'port 16450 is taken' server
kill $holder
started
cp -a $other/store $WORK/bad-store
sed -i 's/^klynge-store-format .*/klynge-store-format 99/' $other/store/FORMAT
fails 1 'format 99.*newer' server
diff -r -x FORMAT -x LOCK $WORK/bad-store $other/store
cp $WORK/bad-store/FORMAT $other/store/FORMAT
started
"$BINARY" --data-dir $WORK/data server --no-agent --port 16451 > $WORK/bad.out 2>&1 && exit 1
says 'another|in use' cat $WORK/bad.out
log=$(ls $other/store/log-* | tail -1)
printf 'damage' | dd of=$log bs=1 seek=64 conv=notrunc status=none
fails 1 'is damaged at byte' server
rm -rf $other $WORK/bad-store

# Whoever is not root
cp "$BINARY" $open/klynge; chmod 755 $open $open/klynge
nobody() { runuser -u nobody -- $open/klynge "$@"; }
export -f nobody
export open
fails 5 'needs root' nobody up
fails 5 'needs root' nobody down --purge
fails 5 'needs root' nobody server
fails 5 'root' nobody --data-dir $WORK/data image ls

# Keys, logs and images are root's alone
same "mode of the data directory" 700 "$(stat -c %a $WORK/data)"
for shell in bash zsh fish; do (set +o pipefail; klynge completions $shell 2>$WORK/bad.err | head -1); [ ! -s $WORK/bad.err ]; done

# Another cluster of the same name in the user's kubeconfig stays what it is
cat > $WORK/theirs <<Y
apiVersion: v1
kind: Config
clusters: [{name: klynge, cluster: {server: "https://192.0.2.50:6443", certificate-authority-data: AAAA}}]
users: [{name: klynge-admin, user: {token: theirs}}]
contexts: [{name: klynge, context: {cluster: klynge, user: klynge-admin}}]
current-context: klynge
Y
KUBECONFIG=$WORK/theirs klynge up -q >/dev/null
same "contexts" "klynge klynge-2" "$(k --kubeconfig $WORK/theirs config get-contexts -o name | xargs)"
same "their server" https://192.0.2.50:6443 "$(k --kubeconfig $WORK/theirs config view -o jsonpath='{.clusters[?(@.name=="klynge")].cluster.server}')"
k --kubeconfig $WORK/theirs get nodes
rm $WORK/theirs
