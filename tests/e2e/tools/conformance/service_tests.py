"""Services: their types and changes between them, node ports, session affinity, status, collections. The servers are the shared ones."""
import time

from .context import MERGE, Context, Failed, check, same, until

SERVER = {"app": "server"}
# a load balancer of nobody, so that the status stays as the tests write it
CLASS = "example.com/internal-vip"


def over_servers(context, name, **spec):
    """A Service of the shared namespace over the three servers, removed by the test with `remove`."""
    return context.service(name, [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}], SERVER, namespace="conform", **spec)


def remove(context, *names):
    for name in names:
        context.cluster.request("DELETE", context.service_path(name, "conform"))


def change(context, name, body):
    return context.patch(context.service_path(name, "conform"), body)


def reachable(context, service, client):
    """By name, by address, and by node port on each node."""
    name, spec, servers = service["metadata"]["name"], service["spec"], context.shared["servers"]
    context.answered_by(client, name, 80, servers)
    context.answered_by(client, spec["clusterIP"], 80, servers)
    if spec["ports"][0].get("nodePort"):
        for _, address in context.nodes:
            context.answered_by(client, address, spec["ports"][0]["nodePort"], servers)


def leads_by_name(context, name, target):
    """The name is an alias, and resolves to the target's address."""
    def holds():
        found = context.do(context.client(), "dns", name=f"{name}.conform.svc.cluster.local.")
        same(f"answers for {name}", [("CNAME", target["name"]), ("A", target["address"])], [(one["type"], one["value"]) for one in found["answers"]])
        return True
    until(f"{name} leads to {target['name']}", holds)


def target_of(context):
    service = context.service("externalsvc", [{"port": 80, "targetPort": 8080}])
    return {"name": f"externalsvc.{context.namespace}.svc.cluster.local.", "address": service["spec"]["clusterIP"]}


def test_services_secure_master(context: Context):
    """[sig-network] Services should provide secure master service [Conformance]"""
    service = context.get(context.service_path("kubernetes", "default"))
    same("its port", ("https", 443), (service["spec"]["ports"][0]["name"], service["spec"]["ports"][0]["port"]))
    for number in (0, 1):
        # a ServiceAccount without roles may know the version, and not read pods
        for path, status in (("/version", 200), ("/api/v1/namespaces/conform/pods", 403)):
            found = context.do(context.client(number), "https", host="kubernetes.default.svc", port=443, path=path)
            same(f"the API, called from a pod: {path}", status, found["status"])


def test_services_list_all(context: Context):
    """[sig-network] Services should find a service from listing all namespaces [Conformance]"""
    listed = context.get("/api/v1/services")["items"]
    check("kubernetes in default", ("default", "kubernetes") in {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in listed})


def test_services_delete_collection(context: Context):
    """[sig-network] Services should delete a collection of services [Conformance]"""
    for number, kept in ((0, False), (1, False), (2, True)):
        context.service(f"e2e-svc-{number}", [{"name": "http", "port": 80}], labels={"e2e": "kept" if kept else "doomed"})
    home = context.core("services")
    same("all", 3, len(context.get(home)["items"]))
    context.call("DELETE", home + "?labelSelector=e2e%3Ddoomed")
    until("one is left", lambda: [one["metadata"]["name"] for one in context.get(home)["items"]] == ["e2e-svc-2"])


def test_services_status_lifecycle(context: Context):
    """[sig-network] Services should complete a service status lifecycle [Conformance]"""
    home, path = context.core("services"), context.core("services", "test-service")
    made = context.service("test-service", [{"name": "http", "port": 80, "protocol": "TCP"}], labels={"test-service-static": "true"},
                           type="LoadBalancer", loadBalancerClass=CLASS)
    watch = context.watch(home + "?labelSelector=test-service-static%3Dtrue", made["metadata"]["resourceVersion"])
    same("status at first", {"loadBalancer": {}}, context.get(path + "/status")["status"])
    balanced = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    context.patch(path + "/status", {"metadata": {"annotations": {"patchedstatus": "true"}}, "status": balanced})
    seen = watch.saw("MODIFIED", "test-service", lambda one: one["metadata"].get("annotations", {}).get("patchedstatus") == "true")
    same("the patched status", "203.0.113.1", seen["status"]["loadBalancer"]["ingress"][0]["ip"])

    def update():
        current = context.get(path + "/status")
        current["status"]["conditions"] = [
            {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test", "lastTransitionTime": None}]
        code, found = context.cluster.request("PUT", path + "/status", current)
        check(f"update of the status: {code} {found}", code in (200, 409))
        return found if code == 200 else None

    until("status update", update)
    watch.saw("MODIFIED", "test-service", lambda one: any(each["type"] == "StatusUpdate" for each in one["status"].get("conditions", [])))
    context.patch(path, {"metadata": {"labels": {"test-service": "patched"}}})
    watch.saw("MODIFIED", "test-service", lambda one: one["metadata"]["labels"].get("test-service") == "patched")
    context.call("DELETE", path)
    watch.saw("DELETED", "test-service")


def test_services_node_port(context: Context):
    """[sig-network] Services should be able to create a functioning NodePort service [Conformance]"""
    service = over_servers(context, "nodeport-test", type="NodePort")
    for client in (context.client(0), context.client(1)):
        reachable(context, service, client)
    for client in (context.host_client(0), context.host_client(1)):
        for _, address in context.nodes:
            context.answered_by(client, address, service["spec"]["ports"][0]["nodePort"], context.shared["servers"])
    remove(context, "nodeport-test")
    context.not_answered(context.client(), context.nodes[0][1], service["spec"]["ports"][0]["nodePort"], how="refused")


def test_services_external_name_to_cluster_ip(context: Context):
    """[sig-network] Services should be able to change the type from ExternalName to ClusterIP [Conformance]"""
    made = context.service("externalname-service", selector=SERVER, namespace="conform", type="ExternalName", externalName="foo.example.com")
    same("no address", None, made["spec"].get("clusterIP"))
    spec = {"type": "ClusterIP", "externalName": None, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    service = change(context, "externalname-service", {"spec": spec})
    for client in (context.client(0), context.client(1)):
        reachable(context, service, client)
    remove(context, "externalname-service")


def test_services_external_name_to_node_port(context: Context):
    """[sig-network] Services should be able to change the type from ExternalName to NodePort [Conformance]"""
    made = context.service("externalname-nodeport", selector=SERVER, namespace="conform", type="ExternalName", externalName="foo.example.com")
    same("no address", None, made["spec"].get("clusterIP"))
    spec = {"type": "NodePort", "externalName": None, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    service = change(context, "externalname-nodeport", {"spec": spec})
    check(f"a node port: {service['spec']}", service["spec"]["ports"][0].get("nodePort"))
    reachable(context, service, context.client(1))
    remove(context, "externalname-nodeport")


def test_services_cluster_ip_to_external_name(context: Context):
    """[sig-network] Services should be able to change the type from ClusterIP to ExternalName [Conformance]"""
    target, service = target_of(context), over_servers(context, "clusterip-service")
    address = service["spec"]["clusterIP"]
    context.answered_by(context.client(), address, 80, context.shared["servers"])
    # as a whole object with its old addresses, which is how upstream's client writes it
    service["spec"].update({"type": "ExternalName", "externalName": target["name"].rstrip(".")})
    changed = context.call("PUT", context.service_path("clusterip-service", "conform"), service)
    same("no address", (None, None), (changed["spec"].get("clusterIP"), changed["spec"].get("clusterIPs")))
    leads_by_name(context, "clusterip-service", target)
    # the address is free again
    until("taken again", lambda: context.service("again", [{"port": 80}], clusterIP=address))
    remove(context, "clusterip-service")


def test_services_node_port_to_external_name(context: Context):
    """[sig-network] Services should be able to change the type from NodePort to ExternalName [Conformance]"""
    target, service = target_of(context), over_servers(context, "nodeport-service", type="NodePort")
    port = service["spec"]["ports"][0]["nodePort"]
    context.answered_by(context.client(), context.nodes[1][1], port, context.shared["servers"])
    service["spec"].update({"type": "ExternalName", "externalName": target["name"].rstrip(".")})
    changed = context.call("PUT", context.service_path("nodeport-service", "conform"), service)
    same("no address", None, changed["spec"].get("clusterIP"))
    check(f"no node port: {changed['spec']}", not any(one.get("nodePort") for one in changed["spec"].get("ports", [])))
    leads_by_name(context, "nodeport-service", target)
    until("its node port taken again", lambda: context.service("again", [{"port": 80, "nodePort": port}], type="NodePort"))
    remove(context, "nodeport-service")


def test_services_cluster_ip_and_node_port(context: Context):
    """[sig-network] Services should be able to change the type and ports of a TCP service; ClusterIP to NodePort and back"""
    service = over_servers(context, "back-and-forth")
    service = change(context, "back-and-forth", {"spec": {"type": "NodePort"}})
    port = service["spec"]["ports"][0]["nodePort"]
    reachable(context, service, context.client(1))
    # another number, chosen by hand, then another Service port
    other = port + 1 if port < 32767 else port - 1
    service["spec"]["ports"][0]["nodePort"] = other
    service = until("another node port", lambda: context.call("PUT", context.service_path("back-and-forth", "conform"), service))
    context.answered_by(context.client(), context.nodes[0][1], other, context.shared["servers"])
    context.not_answered(context.client(), context.nodes[0][1], port, how="refused")
    service["spec"]["ports"][0]["port"] = 81
    service = context.call("PUT", context.service_path("back-and-forth", "conform"), service)
    context.answered_by(context.client(), service["spec"]["clusterIP"], 81, context.shared["servers"])
    context.not_answered(context.client(), service["spec"]["clusterIP"], 80, how="refused")
    service["spec"]["type"] = "ClusterIP"
    service = context.call("PUT", context.service_path("back-and-forth", "conform"), service)
    same("no node port as a ClusterIP", None, service["spec"]["ports"][0].get("nodePort"))
    context.not_answered(context.client(), context.nodes[0][1], other, how="refused")
    context.answered_by(context.client(), service["spec"]["clusterIP"], 81, context.shared["servers"])
    remove(context, "back-and-forth")


def sticks(context, client, host, port, wanted=True, limit=20):
    """Calls are answered by one pod, or by several."""
    def holds():
        seen = context.http(client, host, port, times=20)
        check(f"answers of {host}:{port}: {sorted(set(seen))}", not any(one.startswith("!") for one in seen) and (len(set(seen)) == 1) == wanted)
        return True
    until(f"{host}:{port} answered by {'one pod' if wanted else 'several'}", holds, limit)


def affinity(context, name, kind, switched):
    service = over_servers(context, name, type=kind, sessionAffinity="ClientIP")
    same("its timeout by default", 10800, service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"])
    places = [(service["spec"]["clusterIP"], 80)]
    if kind == "NodePort":
        places = [(address, service["spec"]["ports"][0]["nodePort"]) for _, address in context.nodes]
    clients = (context.client(0), context.client(1))
    for client in clients:
        for place in places:
            sticks(context, client, *place)
    if switched:
        changed = change(context, name, {"spec": {"sessionAffinity": "None", "sessionAffinityConfig": None}})
        same("no configuration without affinity", None, changed["spec"].get("sessionAffinityConfig"))
        for place in places:
            sticks(context, clients[0], *place, wanted=False)
        change(context, name, {"spec": {"sessionAffinity": "ClientIP"}})
        for client in clients:
            for place in places:
                sticks(context, client, *place)
    remove(context, name)


def test_affinity_cluster_ip(context: Context):
    """[sig-network] Services should have session affinity work for service with type clusterIP [LinuxOnly] [Conformance]"""
    affinity(context, "affinity-clusterip", "ClusterIP", False)


def test_affinity_cluster_ip_switched(context: Context):
    """[sig-network] Services should be able to switch session affinity for service with type clusterIP [LinuxOnly] [Conformance]"""
    affinity(context, "affinity-clusterip-transition", "ClusterIP", True)


def test_affinity_node_port(context: Context):
    """[sig-network] Services should have session affinity work for NodePort service [LinuxOnly] [Conformance]"""
    affinity(context, "affinity-nodeport", "NodePort", False)


def test_affinity_node_port_switched(context: Context):
    """[sig-network] Services should be able to switch session affinity for NodePort service [LinuxOnly] [Conformance]"""
    affinity(context, "affinity-nodeport-transition", "NodePort", True)


def test_affinity_timeout(context: Context):
    """[sig-network] Services should have session affinity timeout work for service with type clusterIP [LinuxOnly]"""
    service = over_servers(context, "affinity-timeout", sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 2}})
    sticks(context, context.client(), service["spec"]["clusterIP"], 80)
    ask = lambda: context.http(context.client(), service["spec"]["clusterIP"], 80)[0]
    first = ask()
    for _ in range(10):  # each time any of the three may be chosen again
        time.sleep(3)
        if ask() != first:
            break
    else:
        raise Failed(f"{first} answered ten times, 3 s apart, with a timeout of 2 s")
    remove(context, "affinity-timeout")


def test_services_same_port_protocols(context: Context):
    """[sig-network] Services should serve endpoints on same port and different protocols [Conformance]"""
    tcp = {"name": "tcp-port", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    udp = {"name": "udp-port", "port": 80, "targetPort": 8081, "protocol": "UDP"}
    service = context.service("multiprotocol", [tcp, udp], SERVER, namespace="conform")
    address, path, servers = service["spec"]["clusterIP"], context.service_path("multiprotocol", "conform"), context.shared["servers"]
    for client in (context.client(0), context.client(1)):
        context.answered_by(client, address, 80, servers)
        context.answered_by(client, address, 80, servers, "udp")
    context.patch(path, {"spec": {"ports": [tcp]}})
    context.not_answered(context.client(), address, 80, "udp")
    context.answered_by(context.client(), address, 80, servers)
    context.patch(path, {"spec": {"ports": [udp]}})
    context.not_answered(context.client(), address, 80)
    context.answered_by(context.client(), address, 80, servers, "udp")
    context.patch(path, {"spec": {"ports": [tcp, udp]}})
    context.answered_by(context.client(1), address, 80, servers)
    context.answered_by(context.client(1), address, 80, servers, "udp")
    remove(context, "multiprotocol")


def test_node_port_same_number(context: Context):
    """[sig-network] Services should be able to update service type to NodePort listening on same port number but different protocols"""
    ports = [{"name": "tcp-port", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    context.service("nodeport-update", ports, SERVER, namespace="conform")
    first = change(context, "nodeport-update", {"spec": {"type": "NodePort", "ports": ports}})["spec"]["ports"][0]["nodePort"]
    ports = [{**ports[0], "nodePort": first}, {"name": "udp-port", "port": 80, "targetPort": 8081, "protocol": "UDP", "nodePort": first}]
    change(context, "nodeport-update", {"spec": {"ports": ports}})
    for _, address in context.nodes:
        context.answered_by(context.client(), address, first, context.shared["servers"])
        context.answered_by(context.client(), address, first, context.shared["servers"], "udp")
    remove(context, "nodeport-update")


def test_node_port_claims(context: Context):
    """[sig-network] Services should prevent NodePort collisions; should check NodePort out-of-range; should release NodePorts on delete"""
    made = context.service("nodeport-1", [{"port": 80}], type="NodePort")
    port = made["spec"]["ports"][0]["nodePort"]
    check(f"in the range: {port}", 30000 <= port <= 32767)
    body = {"metadata": {"name": "nodeport-2"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}}
    refused = context.call("POST", context.core("services"), body, status=422)
    check(refused["message"], f"spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated" in refused["message"])
    body["spec"]["ports"][0]["nodePort"] = 29999
    refused = context.call("POST", context.core("services"), body, status=422)
    check(refused["message"], "provided port is not in the valid range. The range of valid ports is 30000-32767" in refused["message"])
    context.call("DELETE", context.core("services", "nodeport-1"))
    body["spec"]["ports"][0]["nodePort"] = port
    context.call("POST", context.core("services"), body, status=201)
    without = context.service("no-node-port", [{"port": 80}], type="LoadBalancer", loadBalancerClass=CLASS, allocateLoadBalancerNodePorts=False)
    same("a LoadBalancer that wants none", None, without["spec"]["ports"][0].get("nodePort"))


def test_services_proxy_labels(context: Context):
    """[sig-network] Services should implement service.kubernetes.io/service-proxy-name; should implement service.kubernetes.io/headless"""
    for label, value in (("service.kubernetes.io/service-proxy-name", "foo-bar"), ("service.kubernetes.io/headless", "")):
        name = "labelled-" + label.rsplit("/", 1)[1].split("-")[0]
        service = over_servers(context, name, labels={label: value})
        plain = over_servers(context, name + "-plain")
        context.answered_by(context.client(), plain["spec"]["clusterIP"], 80, context.shared["servers"])
        context.not_answered(context.client(), service["spec"]["clusterIP"], 80)
        change(context, name, {"metadata": {"labels": {label: None}}})
        context.answered_by(context.client(), service["spec"]["clusterIP"], 80, context.shared["servers"])
        change(context, name, {"metadata": {"labels": {label: value}}})
        context.not_answered(context.client(), service["spec"]["clusterIP"], 80)
        remove(context, name, name + "-plain")


def test_services_external_ips(context: Context):
    """[sig-network] Services should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node"""
    context.service("external-ips", [{"port": 8099, "targetPort": 8080}], SERVER, namespace="conform", externalIPs=["198.51.100.250"])
    for number in (0, 1):
        context.answered_by(context.client(number), "198.51.100.250", 8099, context.shared["servers"])
    remove(context, "external-ips")


def led_by(context, name, ingress):
    change_status = {"status": {"loadBalancer": {"ingress": [ingress]}}}
    return context.patch(context.service_path(name, "conform") + "/status", change_status, MERGE)["status"]["loadBalancer"]["ingress"][0]


def test_load_balancer_mode(context: Context):
    """[sig-network] LoadBalancers: ipMode is VIP by default; an address of mode Proxy is left to the load balancer"""
    over_servers(context, "by-mode", type="LoadBalancer", loadBalancerClass=CLASS)
    ingress = led_by(context, "by-mode", {"ip": "198.51.100.252"})
    context.answered_by(context.client(), "198.51.100.252", 80, context.shared["servers"])
    led_by(context, "by-mode", {"ip": "198.51.100.252", "ipMode": "Proxy"})
    context.not_answered(context.client(), "198.51.100.252", 80)
    remove(context, "by-mode")
    same("how it is delivered, by default", "VIP", ingress.get("ipMode"))


def test_services_up_and_down(context: Context):
    """[sig-network] Services should be able to up and down services"""
    addresses = {name: over_servers(context, name)["spec"]["clusterIP"] for name in ("up-down-1", "up-down-2")}
    for address in addresses.values():
        context.answered_by(context.client(), address, 80, context.shared["servers"])
    remove(context, "up-down-1")
    context.not_answered(context.client(), addresses["up-down-1"], 80)
    context.answered_by(context.client(), addresses["up-down-2"], 80, context.shared["servers"])
    addresses["up-down-3"] = over_servers(context, "up-down-3")["spec"]["clusterIP"]
    for name in ("up-down-2", "up-down-3"):
        context.answered_by(context.client(1), addresses[name], 80, context.shared["servers"])
    remove(context, "up-down-2", "up-down-3")


def test_load_balancer_address(context: Context):
    """[sig-network] LoadBalancers: the address in the status leads in; should only allow access from service loadbalancer source ranges"""
    over_servers(context, "balanced", type="LoadBalancer", loadBalancerClass=CLASS)
    led_by(context, "balanced", {"ip": "198.51.100.251"})
    for number in (0, 1):
        context.answered_by(context.client(number), "198.51.100.251", 80, context.shared["servers"])
    own = context.shared["pods"]["client-1"]["status"]["podIP"]
    change(context, "balanced", {"spec": {"loadBalancerSourceRanges": [f"{own}/32"]}})
    context.not_answered(context.client(1), "198.51.100.251", 80)
    context.answered_by(context.client(0), "198.51.100.251", 80, context.shared["servers"])
    change(context, "balanced", {"spec": {"loadBalancerSourceRanges": None}})
    context.answered_by(context.client(1), "198.51.100.251", 80, context.shared["servers"])
    remove(context, "balanced")
