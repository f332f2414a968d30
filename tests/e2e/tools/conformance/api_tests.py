"""API operations of the network kinds: discovery, and every verb that upstream's tests call, with watches and status."""
from .context import DISCOVERY, JSON_PATCH, NETWORKING, STRATEGIC, Context, check, same, until


def discovered(context, group, resource, kind, verbs, status=None):
    """The group, its version and the resource stand in the discovery documents."""
    name, version = group.removeprefix("/apis/").split("/")
    groups = context.get("/apis")["groups"]
    check(f"group {name} in /apis", any(one["name"] == name for one in groups))
    versions = context.get(f"/apis/{name}")["versions"]
    check(f"version {version} of {name}", any(one["version"] == version for one in versions))
    resources = {one["name"]: one for one in context.get(group)["resources"]}
    check(f"{resource} in {group}", resource in resources)
    same("its kind", kind, resources[resource]["kind"])
    check(f"its verbs {resources[resource]['verbs']}", set(verbs) <= set(resources[resource]["verbs"]))
    if status is not None:
        same(f"{resource}/status is there", status, f"{resource}/status" in resources)


EVERY = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


def operations(context, group, resource, kind, make, namespaced=True, status=None, change=None):
    """All verbs over three objects of one label: `make(name)` gives an object, `change(object)` changes its spec, `status` is what is written there."""
    discovered(context, group, resource, kind, EVERY, None if status is None else True)
    home = f"{group}/namespaces/{context.namespace}/{resource}" if namespaced else f"{group}/{resource}"
    everywhere, label = f"{group}/{resource}", f"conform-{resource}"
    selected = f"?labelSelector=special%3D{label}"

    def body(name):
        made = make(name)
        made.setdefault("metadata", {})["name"] = name
        made["metadata"].setdefault("labels", {})["special"] = label
        return {"apiVersion": group.removeprefix("/apis/"), "kind": kind, **made}

    names = [make.names[number] if hasattr(make, "names") else f"{label}-{number}" for number in range(3)]
    first = context.call("POST", home, body(names[0]), status=201)
    check(f"uid and revision: {first['metadata']}", first["metadata"]["uid"] and int(first["metadata"]["resourceVersion"]) > 0)
    for name in names[1:]:
        context.call("POST", home, body(name), status=201)
    twice = context.call("POST", home, body(names[0]), status=409)
    same("the second create's reason", "AlreadyExists", twice["reason"])

    path = f"{home}/{names[0]}"
    same("get", first["metadata"]["uid"], context.get(path)["metadata"]["uid"])
    listed = context.get(home + selected)
    same("list", sorted(names), sorted(one["metadata"]["name"] for one in listed["items"]))
    if namespaced:
        same("list over all namespaces", sorted(names), sorted(one["metadata"]["name"] for one in context.get(everywhere + selected)["items"]))
    watch = context.watch((home if namespaced else everywhere) + selected, listed["metadata"]["resourceVersion"])

    patched = context.patch(path, {"metadata": {"annotations": {"patched": "true"}}})
    same("the patch's annotation", "true", patched["metadata"]["annotations"].get("patched"))
    check("a later revision", int(patched["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"]))
    context.patch(path, {"metadata": {"annotations": {"strategic": "true"}}}, STRATEGIC)
    context.patch(path, [{"op": "add", "path": "/metadata/annotations/json", "value": "true"}], JSON_PATCH)

    def update():
        current = context.get(path)
        current["metadata"]["annotations"]["updated"] = "true"
        if change:
            change(current)
        code, found = context.cluster.request("PUT", path, current)
        check(f"update: {code} {found}", code in (200, 409))
        return found if code == 200 else None

    updated = until("update", update)
    same("annotations after all", {"patched": "true", "strategic": "true", "json": "true", "updated": "true"},
         {key: value for key, value in updated["metadata"]["annotations"].items() if key in ("patched", "strategic", "json", "updated")})
    stale = {**first, "metadata": {**first["metadata"], "labels": {"special": label}}}
    same("a stale update's reason", "Conflict", context.call("PUT", path, stale, status=409)["reason"])
    watch.saw("MODIFIED", names[0], lambda one: one["metadata"]["annotations"].get("patched") == "true")
    watch.saw("MODIFIED", names[0], lambda one: one["metadata"]["annotations"].get("updated") == "true")

    if status is not None:
        changed = context.patch(f"{path}/status", {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status})
        same("the patched status", status, changed["status"])
        same("the annotation of the status patch", "true", changed["metadata"]["annotations"].get("patchedstatus"))
        same("status read", status, context.get(f"{path}/status")["status"])

        def update_status():
            current = context.get(path)
            current["metadata"]["annotations"]["updatedstatus"] = "true"
            code, found = context.cluster.request("PUT", f"{path}/status", current)
            check(f"update of the status: {code} {found}", code in (200, 409))
            return found if code == 200 else None

        same("the status update's annotation", "true", until("status update", update_status)["metadata"]["annotations"].get("updatedstatus"))

    context.call("DELETE", path)
    until("deleted", lambda: context.gone(path))
    watch.saw("DELETED", names[0])
    same("what is left", sorted(names[1:]), sorted(one["metadata"]["name"] for one in context.get(home + selected)["items"]))
    context.call("DELETE", home + selected)
    until("deleted as a collection", lambda: context.get(home + selected)["items"] == [])
    for name in names[1:]:
        watch.saw("DELETED", name)


def test_endpoint_slice_api(context: Context):
    """[sig-network] EndpointSlice should support creating EndpointSlice API operations [Conformance]"""
    def make(name):
        return {"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}], "ports": [{"name": "http", "port": 80}]}

    operations(context, DISCOVERY, "endpointslices", "EndpointSlice", make,
               change=lambda one: one["endpoints"].append({"addresses": ["9.9.9.9"]}))
    made = context.call("POST", context.slices_path(), {"metadata": {"name": "defaults"}, **make("")})
    same("the port's protocol by default", "TCP", made["ports"][0]["protocol"])
    made["addressType"] = "IPv6"
    refused = context.call("PUT", context.slices_path() + "/defaults", made, status=422)
    check(refused["message"], "addressType" in refused["message"])


def test_special_addresses(context: Context):
    """Endpoints, EndpointSlices and Services never lead to a node's own loopback or link-local addresses: upstream's validation"""
    ranges = {
        "127.0.0.1": "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        "169.254.169.254": "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        "224.0.0.1": "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        "0.0.0.0": "may not be unspecified (0.0.0.0)",
    }
    ports, wrong = [{"port": 80}], []
    for address, words in ranges.items():
        bodies = {
            context.slices_path(): {"addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": ports},
            context.core("endpoints"): {"subsets": [{"addresses": [{"ip": address}], "ports": ports}]},
            context.core("services"): {"spec": {"ports": ports, "externalIPs": [address]}},
        }
        for path, body in bodies.items():
            code, found = context.cluster.request("POST", path + "?dryRun=All", {"metadata": {"name": "special"}, **body})
            if code != 422 or words not in found["message"]:
                wrong.append(f"{path.rsplit('/', 1)[1]} with {address}: {code} {found.get('message', 'accepted')}")
    same("not refused in upstream's words", [], wrong)


def test_static_paths(context: Context):
    """[sig-network] Networking should provide unchanging, static URL paths for kubernetes api services"""
    for path in ("/api", "/apis", "/healthz", "/livez", "/readyz", "/metrics", "/openapi/v2", "/openapi/v3", "/version"):
        code, _ = context.cluster.request("GET", path, decode=False)
        same(path, 200, code)


def ingress(name):
    return {"spec": {"defaultBackend": {"service": {"name": "default-backend", "port": {"number": 80}}}, "rules": [
        {"host": "foo.bar.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "test-backend", "port": {"number": 80}}}}]}}]}}


def test_ingress_api(context: Context):
    """[sig-network] Ingress API should support creating Ingress API operations [Conformance]"""
    operations(context, NETWORKING, "ingresses", "Ingress", ingress, status={"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}},
               change=lambda one: one["spec"].update({"tls": [{"hosts": ["foo.bar.com"], "secretName": "s"}]}))


def test_ingress_class_api(context: Context):
    """[sig-network] IngressClass API should support creating IngressClass API operations [Conformance]"""
    operations(context, NETWORKING, "ingressclasses", "IngressClass", lambda name: {"spec": {"controller": "example.com/controller"}},
               namespaced=False)


def test_ingress_class_default(context: Context):
    """[sig-network] IngressClass should set default value on new IngressClass; should choose the one with the later CreationTimestamp"""
    path, home = f"{NETWORKING}/ingressclasses", f"{NETWORKING}/namespaces/{context.namespace}/ingresses"
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    context.call("POST", path, {"metadata": {"name": "conform-default", "annotations": default}, "spec": {"controller": "example.com/controller"}})
    try:
        made = context.call("POST", home, {"metadata": {"name": "one"}, **ingress("one")})
        same("the class of an Ingress that names none", "conform-default", made["spec"].get("ingressClassName"))
        old = {"metadata": {"name": "two", "annotations": {"kubernetes.io/ingress.class": "other"}}, **ingress("two")}
        same("of one that names it in the old way", None, context.call("POST", home, old)["spec"].get("ingressClassName"))
    finally:
        context.cluster.request("DELETE", f"{path}/conform-default")


def test_ingress_class_parameters(context: Context):
    """[sig-network] IngressClass should allow IngressClass to have Namespace-scoped parameters"""
    path = f"{NETWORKING}/ingressclasses"
    parameters = {"scope": "Namespace", "namespace": "foo", "kind": "fookind", "name": "fooname", "apiGroup": "example.com"}
    body = {"metadata": {"name": "conform-scoped"}, "spec": {"controller": "example.com/controller", "parameters": parameters}}
    made = context.call("POST", path, body)
    context.call("DELETE", f"{path}/conform-scoped")
    same("its parameters", parameters, made["spec"]["parameters"])
    del parameters["namespace"]
    wrong = []
    for scope, words in (("Namespace", "`parameters.scope` is set to 'Namespace'"), ("Anything", 'supported values: "Cluster", "Namespace"')):
        parameters["scope"] = scope
        code, found = context.cluster.request("POST", path + "?dryRun=All", body)
        if code != 422 or words not in found["message"]:
            wrong.append(f"{scope}: {code} {found.get('message', 'accepted')}, not {words}")
    same("not refused in upstream's words", [], wrong)


def policy(name):
    return {"spec": {"podSelector": {"matchLabels": {"pod-name": "test-pod"}}, "policyTypes": ["Ingress"],
                     "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns-name": "pod-b"}}}]}]}}


def test_network_policy_api(context: Context):
    """[sig-network] Netpol API should support creating NetworkPolicy API operations"""
    operations(context, NETWORKING, "networkpolicies", "NetworkPolicy", policy,
               change=lambda one: one["spec"]["ingress"].append({"ports": [{"port": 80}]}))


def test_network_policy_end_port(context: Context):
    """[sig-network] Netpol API should support creating NetworkPolicy API with endport field"""
    home = f"{NETWORKING}/namespaces/{context.namespace}/networkpolicies"
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "TCP", "port": 32000, "endPort": 32768}]}]}
    made = context.call("POST", home, {"metadata": {"name": "range"}, "spec": spec})
    same("its end", 32768, made["spec"]["egress"][0]["ports"][0]["endPort"])
    spec["egress"][0]["ports"][0]["endPort"] = 100
    check("an end before the beginning", "endPort" in context.call("POST", home, {"metadata": {"name": "bad"}, "spec": spec}, status=422)["message"])


def is_ready(one):
    return any(each["type"] == "Ready" and each["status"] == "True" for each in one.get("status", {}).get("conditions", []))


def test_service_cidr_api(context: Context):
    """[sig-network] ServiceCIDR and IPAddress API should support ServiceCIDR API operations [Conformance]"""
    path = f"{NETWORKING}/servicecidrs"
    discovered(context, NETWORKING, "servicecidrs", "ServiceCIDR", EVERY, True)
    default = context.get(f"{path}/kubernetes")
    same("uid of the status", default["metadata"]["uid"], context.get(f"{path}/kubernetes/status")["metadata"]["uid"])
    check("Ready", is_ready(default))
    listed = context.get(path)
    check("the default is listed", any(one["metadata"]["name"] == "kubernetes" for one in listed["items"]))
    watch = context.watch(path, listed["metadata"]["resourceVersion"])
    body = {"metadata": {"name": "conform-api", "labels": {"special": "conform-cidr"}}, "spec": {"cidrs": ["198.18.77.0/24"]}}
    context.call("POST", path, body, status=201)
    try:
        watch.saw("ADDED", "conform-api")
        watch.saw("MODIFIED", "conform-api", is_ready)
        context.patch(f"{path}/conform-api", {"metadata": {"annotations": {"patched": "true"}}})
        condition = {"type": "Tested", "status": "True", "reason": "E2E", "message": "set by a test", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        # conditions merge by their type
        found = context.patch(f"{path}/conform-api/status", {"status": {"conditions": [condition]}}, STRATEGIC)
        same("conditions", {"Ready", "Tested"}, {one["type"] for one in found["status"]["conditions"]})
        found["metadata"]["annotations"]["updated"] = "true"
        found["metadata"].pop("resourceVersion")
        same("updated", "true", context.call("PUT", f"{path}/conform-api", found)["metadata"]["annotations"]["updated"])
        found["spec"]["cidrs"] = ["198.18.78.0/24"]
        check("its ranges stay", "immutable" in context.call("PUT", f"{path}/conform-api", found, status=422)["message"].lower())
    finally:
        context.call("DELETE", f"{path}?labelSelector=special%3Dconform-cidr")
    watch.saw("DELETED", "conform-api")


def test_service_cidr_validation(context: Context):
    """[sig-network] ServiceCIDRs and IPAddresses: what upstream's validation refuses, in its words"""
    bad_ranges = {
        "at least one CIDR required": [], "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)": ["nonsense"],
        "may specify no more than one IP for each IP family": ["198.18.1.0/24", "198.18.2.0/24"],
        "must not have bits set beyond the prefix length": ["198.18.3.5/24"],
        "must be in canonical form (\"2001:db8::/64\")": ["2001:DB8:0::/64"],
        "must not have leading 0s in IP or prefix length": ["198.18.3.0/024"],
    }
    bad_parents = {
        "spec.parentRef: Required value": {}, "spec.parentRef.resource: Required value": {"parentRef": {"name": "one"}},
        "spec.parentRef.name: Required value": {"parentRef": {"resource": "services"}},
    }
    asked = [("servicecidrs", "conform-bad", {"cidrs": cidrs}, words) for words, cidrs in bad_ranges.items()]
    asked += [("ipaddresses", "198.51.100.78", spec, words) for words, spec in bad_parents.items()]
    wrong = []
    for resource, name, spec, words in asked:
        body = {"metadata": {"name": name}, "spec": spec}
        code, found = context.cluster.request("POST", f"{NETWORKING}/{resource}?dryRun=All", body)
        if code != 422 or words not in found["message"]:
            wrong.append(f"{resource} {spec}: {code} {found.get('message', 'accepted')}, not {words}")
    same("not refused in upstream's words", [], wrong)


def test_ip_address_api(context: Context):
    """[sig-network] ServiceCIDR and IPAddress API should support IPAddress API operations [Conformance]"""
    def make(name):
        return {"spec": {"parentRef": {"group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar"}}}

    make.names = ["255.255.255.255", "fe80::42:1dff:fe84:f9e2", "198.51.100.77"]
    operations(context, NETWORKING, "ipaddresses", "IPAddress", make, namespaced=False)
    refused = context.call("POST", f"{NETWORKING}/ipaddresses", {"metadata": {"name": "not-an-address"}, **make("")}, status=422)
    check(refused["message"], "not-an-address" in refused["message"])


def test_ip_address_of_service(context: Context):
    """[sig-network] IPAddresses stand for the ClusterIPs of Services, and go with them"""
    address = context.service("one", [{"port": 80}])["spec"]["clusterIP"]
    path = f"{NETWORKING}/ipaddresses/{address}"
    found = until("its IPAddress", lambda: context.get(path))
    same("its parent", {"group": "", "resource": "services", "namespace": context.namespace, "name": "one"},
         {"group": "", **found["spec"]["parentRef"]})
    context.call("DELETE", context.service_path("one"))
    until("released", lambda: context.gone(path))


def test_service_cidr_traffic(context: Context):
    """[sig-network] Service CIDRs should create Services and serve on different Service CIDRs"""
    path = f"{NETWORKING}/servicecidrs"
    context.call("POST", path, {"metadata": {"name": "conform-traffic"}, "spec": {"cidrs": ["203.0.113.0/24"]}}, status=201)
    try:
        until("Ready", lambda: is_ready(context.get(f"{path}/conform-traffic")))
        made = context.service("cidr", [{"name": "http", "port": 80, "targetPort": 8080}], {"app": "server"}, namespace="conform",
                               clusterIP="203.0.113.10", type="NodePort")
        for client in (context.client(0), context.client(1)):
            context.answered_by(client, "203.0.113.10", 80, context.shared["servers"])
            context.answered_by(client, context.nodes[1][1], made["spec"]["ports"][0]["nodePort"], context.shared["servers"])
        # while an address of it is used the range stays
        context.call("DELETE", f"{path}/conform-traffic")
        found = context.get(f"{path}/conform-traffic")
        check(f"it waits for its addresses: {found['metadata']}", found["metadata"].get("deletionTimestamp"))
    finally:
        context.cluster.request("DELETE", context.service_path("cidr", "conform"))
        context.cluster.request("DELETE", f"{path}/conform-traffic")
    until("the range is gone", lambda: context.gone(f"{path}/conform-traffic"))
