# Discovery, create, read, patch, apply, selectors, paging, watch, errors: with the oldest and the newest kubectl.
for kubectl in $KUBECTLS; do
  $kubectl version
  says '^scheduler  *Healthy  *ok' $kubectl get componentstatuses
  says '^deployments ' $kubectl api-resources
  says '^apps/v1$' $kubectl api-versions
  name=basics-$RANDOM
  $kubectl create namespace $name
  $kubectl -n $name create configmap a --from-literal=x=1
  same "data" 1 "$($kubectl -n $name get configmap a -o jsonpath='{.data.x}')"
  $kubectl -n $name patch configmap a -p '{"data":{"y":"2"}}'
  $kubectl -n $name patch configmap a --type=json -p '[{"op":"add","path":"/data/z","value":"3"}]'
  $kubectl -n $name patch configmap a --type=merge -p '{"data":{"x":null}}'
  same "patched" '{"y":"2","z":"3"}' "$($kubectl -n $name get configmap a -o jsonpath='{.data}')"
  $kubectl -n $name label configmap a color=red
  same "selected" configmap/a "$($kubectl -n $name get configmap -l color=red -o name)"
  cat > $WORK/$name.yaml <<Y
apiVersion: v1
kind: ConfigMap
metadata: {name: b}
data: {one: "1"}
Y
  $kubectl -n $name apply -f $WORK/$name.yaml
  sed -i 's/one: "1"/two: "2"/' $WORK/$name.yaml
  $kubectl -n $name diff -f $WORK/$name.yaml && exit 1 || same "diff's exit code" 1 $?
  $kubectl -n $name apply -f $WORK/$name.yaml
  same "applied" '{"two":"2"}' "$($kubectl -n $name get configmap b -o jsonpath='{.data}')"
  $kubectl -n $name apply --server-side --force-conflicts -f $WORK/$name.yaml
  refuses 'configmaps "a" already exists' $kubectl -n $name create configmap a
  refuses 'configmaps "nothing" not found' $kubectl -n $name get configmap nothing
  refuses 'lowercase RFC 1123 subdomain' $kubectl -n $name create configmap A_B
  says 'pods' $kubectl explain deployment.spec.replicas
  says yes $kubectl auth can-i create pods
  same "paged" 3 "$($kubectl -n $name get configmaps --chunk-size=1 -o name | grep -c .)"
  $kubectl delete namespace $name --timeout=60s
done
