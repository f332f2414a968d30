# Pulls over HTTPS from another machine: users, tokens, and registries that refuse, break off, redirect or are not there.
fresh_namespace pull-test
# The CA is trusted through SSL_CERT_FILE, so the server is started with it, and without it again in the end.
registries=$WORK/registries
rm -rf $registries
nsenter --net=$OUTSIDE ip address add 192.0.2.9/24 dev out0
nsenter --net=$OUTSIDE python3 tests/e2e/tools/registry.py $registries $WORK/test.tar >$WORK/registry.out 2>&1 &
program=$!
away() {
  kill $program 2>/dev/null && wait $program 2>/dev/null
  nsenter --net=$OUTSIDE ip address del 192.0.2.9/24 dev out0 2>/dev/null
  k delete namespace $NS --wait=false >/dev/null 2>&1
  klynge down -q >/dev/null 2>&1; klynge up -q >/dev/null 2>&1
  true
}
trap away EXIT
eventually 60 sh -c "[ -e $registries/ready ] || ! kill -0 $program" || { cat $WORK/registry.out; exit 1; }
[ -e $registries/ready ] || { cat $WORK/registry.out >&2; exit 1; }
digest() { awk -v name="$1" '$1 == name { print $2 }' $registries/ready; }
forget() { for image in $(klynge image ls -o name | grep ^192.0.2.1 || true); do eventually 20 klynge image rm $image; done; }
forget # what a broken off run left would not be pulled
klynge down -q >/dev/null
SSL_CERT_FILE=$registries/authority.crt klynge up -q >/dev/null

secret() { k -n $NS create secret docker-registry $1 --docker-server=$2 --docker-username=somebody --docker-password="$3"; }
right='right, with: colons'
secret basic 192.0.2.1:5001 "$right"
secret token 192.0.2.1:5002 "$right"
secret wrong-basic 192.0.2.1:5001 wrong
secret wrong-token 192.0.2.1:5002 wrong
pod() { # NAME IMAGE [SECRET]
  local secrets=${3:+[{name: $3\}]}
  cat <<Y
---
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: ${secrets:-[]}
  containers: [{name: main, image: "$2", imagePullPolicy: Always, command: [sh, -c, 'ls -l /unique; sleep 100000']}]
Y
}
none=sha256:$(printf 0%.0s $(seq 64))
{
  pod with-user 192.0.2.1:5001/login/app:1 basic
  pod with-token 192.0.2.1:5002/private/app:1 token
  pod anonymous 192.0.2.1:5002/public/app:1
  pod by-digest 192.0.2.1:5003/fine/app@$(digest fine/app)
  pod redirected 192.0.2.1:5003/moved/app:1
  pod flaky 192.0.2.1:5003/flaky/app:1
  pod no-user 192.0.2.1:5001/login/app:1
  pod wrong-user 192.0.2.1:5001/login/app:1 wrong-basic
  pod no-token 192.0.2.1:5002/private/app:1
  pod wrong-token 192.0.2.1:5002/private/app:1 wrong-token
  pod other-secret 192.0.2.1:5002/private/app:1 basic
  pod no-tag 192.0.2.1:5003/fine/app:none
  pod no-digest 192.0.2.1:5003/fine/app@$none
  pod limited 192.0.2.1:5003/limited/app:1
  pod unreachable 192.0.2.1:5999/fine/app:1
  pod halved 192.0.2.1:5003/halved/app:1
  pod damaged 192.0.2.1:5003/damaged/app:1
  pod downgraded 192.0.2.1:5003/downgraded/app:1
  pod untrusted 192.0.2.1:5005/fine/app:1
  pod no-name "192.0.2.1:5003/Fine/app:1"
} > $WORK/pods.yaml
k -n $NS apply -f $WORK/pods.yaml

# The same on the command line meanwhile: exit code and words. (It has no users: those are for pods.)
pulls() { # EXIT CODE, PATTERN, REFERENCE
  local code=0 said
  said=$(klynge image pull "$3" 2>&1) || code=$?
  same "exit code of pulling $3 ($said)" $1 $code
  grep -qiE -- "$2" <<<"$said" || { echo "pulling $3 said: $said" >&2; return 1; }
}
pulls 4 'not found' 192.0.2.1:5003/fine/app:none
pulls 4 'not found' 192.0.2.1:5003/fine/app@$none
pulls 1 'pull access denied' 192.0.2.1:5001/login/app:1
pulls 1 'pull access denied.*(authentication required|requested access)' 192.0.2.1:5002/private/app:1
pulls 1 'connection refused' 192.0.2.1:5999/fine/app:1
pulls 1 'verify certificate' 192.0.2.1:5005/fine/app:1
pulls 1 'plain http' 192.0.2.1:5003/downgraded/app:1
pulls 1 'redirects too often' 192.0.2.1:5003/circular/app:1
pulls 1 'digest is sha256:.* expected sha256:' 192.0.2.1:5003/forged/app@$(digest forged/app)
pulls 1 'a layer: digest is sha256:.* expected sha256:' 192.0.2.1:5003/damaged/app:1
pulls 1 'parse image name' 192.0.2.1:5003/Fine/app:1
pulls 0 'sha256:' 192.0.2.1:5003/fine/app:1

for good in with-user with-token anonymous by-digest redirected flaky; do
  k -n $NS wait pod/$good --for=condition=Ready --timeout=60s || { k -n $NS describe pod $good; exit 1; }
  # compression, the unique layer and its size have come through whole
  eventually 10 says ' 524288 ' k -n $NS logs $good
done
says 'Successfully pulled image "192.0.2.1:5003/flaky/app:1"' k -n $NS get events
says '^5004 .*/moved/app/blobs/.* 200' cat $registries/requests.log

fails() { # POD REASONS PATTERN: what `kubectl get` shows and what the event says
  local reason
  eventually 60 sh -c "${KUBECTLS##* } -n $NS get events --field-selector involvedObject.name=$1,reason=Failed \
    -o jsonpath='{.items[*].message}' | grep -qiE -- '$3'" || { k -n $NS get events --field-selector involvedObject.name=$1; return 1; }
  reason=$(k -n $NS get pod $1 -o jsonpath='{.status.containerStatuses[0].state.waiting.reason}')
  grep -qxE "$2" <<<"$reason" || { echo "$1 waits for $reason, expected $2" >&2; return 1; }
}
pull='ErrImagePull|ImagePullBackOff'
fails no-user "$pull" 'Failed to pull image .*pull access denied, repository does not exist or may require authorization'
fails wrong-user "$pull" 'pull access denied'
fails no-token "$pull" 'pull access denied'
fails wrong-token "$pull" 'pull access denied'
fails other-secret "$pull" 'pull access denied'
fails no-tag "$pull" '192.0.2.1:5003/fine/app:none: not found'
fails no-digest "$pull" 'not found'
fails limited "$pull" '429 Too Many Requests.*pull rate limit'
fails unreachable "$pull" 'dial tcp 192.0.2.1:5999.*connection refused'
fails halved "$pull" 'failed to copy.*broke off after [0-9]+ of [0-9]+ bytes'
fails damaged "$pull" 'digest is sha256'
fails downgraded "$pull" 'plain http'
fails untrusted "$pull" 'failed to verify certificate'
eventually 20 says InvalidImageName k -n $NS get pod no-name
eventually 60 says 'BackOff .*Back-off pulling image "192.0.2.1:5003/fine/app:none"' k -n $NS get events
says 'cannot be pulled' klynge explain pod no-tag -n $NS
# nothing half fetched stays
eventually 20 sh -c "[ -z \"\$(ls $WORK/data/agent/images/incoming 2>/dev/null)\" ]"

# What was pulled with a login is for pods that have it, and for those to whom the registry gives it; also after a restart of the agent.
secret same-login 192.0.2.1:5001 "$right"
there() { pod "$@" | sed "s/imagePullPolicy: Always/imagePullPolicy: $policy/" | k -n $NS apply -f -; }
refused() {
  policy=IfNotPresent there $1-without 192.0.2.1:5001/login/app:1
  policy=IfNotPresent there $1-wrong 192.0.2.1:5001/login/app:1 wrong-basic
  policy=Never there $1-never 192.0.2.1:5001/login/app:1
  fails $1-without "$pull" 'pull access denied'
  fails $1-wrong "$pull" 'pull access denied'
  eventually 20 says ErrImageNeverPull k -n $NS get pod $1-never
  says 'Container image "192.0.2.1:5001/login/app:1" is not present with pull policy of Never' k -n $NS get events
}
refused before
klynge down -q >/dev/null
SSL_CERT_FILE=$registries/authority.crt klynge up -q >/dev/null
refused after
for good in same-login basic; do
  policy=Never there has-$good 192.0.2.1:5001/login/app:1 $good
  k -n $NS wait pod/has-$good --for=condition=Ready --timeout=60s || { k -n $NS describe pod has-$good; exit 1; }
done
policy=IfNotPresent there has-none 192.0.2.1:5002/public/app:1
k -n $NS wait pod/has-none --for=condition=Ready --timeout=60s
says 'already present on machine and can be accessed by the pod' k -n $NS get events --field-selector involvedObject.name=has-none

# the secret of a ServiceAccount serves its pods
k -n $NS patch serviceaccount default -p '{"imagePullSecrets":[{"name":"token"}]}'
k -n $NS delete pod with-token no-token
eventually 30 klynge image rm 192.0.2.1:5002/private/app:1
pod account 192.0.2.1:5002/private/app:1 | k -n $NS apply -f -
k -n $NS wait pod/account --for=condition=Ready --timeout=60s
k -n $NS delete pods --all --wait=true --timeout=60s
forget
