"""Traffic between pods, nodes and Services: the granular checks, host ports, source addresses, traffic policies, refusals, UDP flows."""
from .context import Context, check, same, until

SERVER = {"app": "server"}


def each_way(context, clients, protocol):
    for client in clients:
        for name in sorted(context.shared["servers"]):
            address = context.shared["pods"][name]["status"]["podIP"]
            context.answered_by(client, address, 8080 if protocol == "http" else 8081, {name}, protocol)


def test_intra_pod_http(context: Context):
    """[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http [NodeConformance] [Conformance]"""
    each_way(context, [context.client(0), context.client(1)], "http")


def test_intra_pod_udp(context: Context):
    """[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: udp [NodeConformance] [Conformance]"""
    each_way(context, [context.client(0), context.client(1)], "udp")


def test_node_pod_http(context: Context):
    """[sig-network] Networking Granular Checks: Pods should function for node-pod communication: http [LinuxOnly] [NodeConformance] [Conformance]"""
    each_way(context, [context.host_client(0), context.host_client(1)], "http")


def test_node_pod_udp(context: Context):
    """[sig-network] Networking Granular Checks: Pods should function for node-pod communication: udp [LinuxOnly] [NodeConformance] [Conformance]"""
    each_way(context, [context.host_client(0), context.host_client(1)], "udp")


def test_granular_services(context: Context):
    """[sig-network] Networking Granular Checks: Services should function for pod-Service, node-Service and endpoint-Service: http, udp"""
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 90, "targetPort": 8081, "protocol": "UDP"}]
    spec = context.service("granular", ports, SERVER, namespace="conform", type="NodePort")["spec"]
    servers = context.shared["servers"]
    for client in (context.client(0), context.client(1), context.host_client(0), context.host_client(1), ("conform", "server-1", 8080)):
        context.answered_by(client, spec["clusterIP"], 80, servers)
        context.answered_by(client, spec["clusterIP"], 90, servers, "udp")
        for _, address in context.nodes:
            context.answered_by(client, address, spec["ports"][0]["nodePort"], servers)
            context.answered_by(client, address, spec["ports"][1]["nodePort"], servers, "udp")
    context.call("DELETE", context.service_path("granular", "conform"))
    context.not_answered(context.client(), spec["clusterIP"], 80)
    context.not_answered(context.client(), context.nodes[0][1], spec["ports"][1]["nodePort"], "udp")


def test_granular_host_network(context: Context):
    """[sig-network] Networking Granular Checks: Services should function for service endpoints using hostNetwork"""
    for number, (node, _) in enumerate(context.nodes, 1):
        context.pod(f"host-{number}", ("--http", "18070", "--udp", "18071"), {"app": "host"}, node, hostNetwork=True, wait=False)
    for number in (1, 2):
        context.ready(f"host-{number}")
    ports = [{"name": "http", "port": 80, "targetPort": 18070}, {"name": "udp", "port": 90, "targetPort": 18071, "protocol": "UDP"}]
    address = context.service("over-host", ports, {"app": "host"})["spec"]["clusterIP"]
    names = {name for name, _ in context.nodes}  # such pods are called as their node
    for client in (context.client(0), context.client(1), context.host_client(0)):
        context.answered_by(client, address, 80, names)
        context.answered_by(client, address, 90, names, "udp")


def test_granular_large_requests(context: Context):
    """[sig-network] Networking Granular Checks: Services should be able to handle large requests: http, udp"""
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 90, "targetPort": 8081, "protocol": "UDP"}]
    address = context.service("large", ports, SERVER, namespace="conform")["spec"]["clusterIP"]
    context.answered_by(context.client(), address, 80, context.shared["servers"])
    text = "a" * 6000  # several fragments
    for client in (context.client(0), context.client(1), context.host_client(0)):
        same("echoes of 6000 bytes", {text}, set(context.udp(client, address, 90, message="echo " + text, times=12, timeout=3)))
        found = context.http(client, address, 80, path="/" + text, times=6)
        check("requests of 6000 bytes", all(text in one for one in found))
    context.call("DELETE", context.service_path("large", "conform"))


def test_hairpin(context: Context):
    """[sig-network] Services should allow pods to hairpin back to themselves through services"""
    context.pod("hairpin", labels={"app": "hairpin"})
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 90, "targetPort": 8081, "protocol": "UDP"}]
    spec = context.service("hairpin-test", ports, {"app": "hairpin"}, type="NodePort")["spec"]
    context.answered_by("hairpin", spec["clusterIP"], 80, {"hairpin"})
    context.answered_by("hairpin", "hairpin-test", 80, {"hairpin"})
    context.answered_by("hairpin", spec["clusterIP"], 90, {"hairpin"}, "udp")
    for _, address in context.nodes:
        context.answered_by("hairpin", address, spec["ports"][0]["nodePort"], {"hairpin"})


def sees(context, client, host, port):
    return context.http(client, host, port, path="/clientip")[0].rsplit(":", 1)[0]


def test_no_snat(context: Context):
    """[sig-network] NoSNAT Should be able to send traffic between Pods without SNAT"""
    for client in ("client-1", "client-2"):
        own = context.shared["pods"][client]["status"]["podIP"]
        for server in ("server-1", "server-2"):
            address = context.shared["pods"][server]["status"]["podIP"]
            same(f"the source that {server} sees", own, sees(context, ("conform", client, 8080), address, 8080))


def test_source_through_service(context: Context):
    """[sig-network] Services should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]"""
    address = context.service("sourceip-test", [{"port": 80, "targetPort": 8080}], SERVER, namespace="conform")["spec"]["clusterIP"]
    for client in ("client-1", "client-2"):
        context.answered_by(("conform", client, 8080), address, 80, context.shared["servers"])
        for _ in range(5):
            same("the source", context.shared["pods"][client]["status"]["podIP"], sees(context, ("conform", client, 8080), address, 80))
    context.call("DELETE", context.service_path("sourceip-test", "conform"))


def test_host_port(context: Context):
    """[sig-network] HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol [LinuxOnly] [Conformance]"""
    node, address = context.nodes[1]
    port, client = 54323, context.host_client(1)
    for name, host_ip, protocol in (("pod1", "127.0.0.1", "TCP"), ("pod2", address, "TCP"), ("pod3", address, "UDP")):
        inside = 8081 if protocol == "UDP" else 8080
        context.pod(name, node=node, ports=[{"hostPort": port, "containerPort": inside, "protocol": protocol, "hostIP": host_ip}])
    context.answered_by(client, address, port, {"pod2"})
    context.answered_by(client, address, port, {"pod3"}, "udp")
    context.answered_by(context.client(0), address, port, {"pod2"})

    def by_loopback():
        same("from the node's address to 127.0.0.1", ["pod1"], context.http(client, "127.0.0.1", port, source=address))
        return True

    until("the port on loopback", by_loopback, 10)


def test_host_port_conflict(context: Context):
    """[sig-network] HostPort: pods with the same hostPort and protocol on 0.0.0.0 and on an address do not fit on one node"""
    node, address = context.nodes[0]
    context.pod("pod4", node=node, ports=[{"hostPort": 54322, "containerPort": 8080}])
    context.pod("pod5", node=node, ports=[{"hostPort": 54322, "containerPort": 8080, "hostIP": address}], wait=False)

    def says_why():
        conditions = context.get(context.core("pods", "pod5"))["status"].get("conditions", [])
        return [one["message"] for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"]

    message = until("it waits", says_why)[0]
    check(message, "didn't have free ports for the requested pod ports" in message)
    context.delete_pod("pod4")
    context.ready("pod5")
    context.answered_by(context.client(1), address, 54322, {"pod5"})


def test_internal_traffic_policy(context: Context):
    """[sig-network] Services should respect internalTrafficPolicy=Local Pod to Pod; Pod and Node, to Pod (hostNetwork: true)"""
    ports = [{"port": 80, "targetPort": 8080}]
    node, _ = context.nodes[0]
    context.pod("local", labels={"app": "local"}, node=node)
    address = context.service("local", ports, {"app": "local"}, internalTrafficPolicy="Local")["spec"]["clusterIP"]
    for client in (context.client(0), context.host_client(0)):
        context.answered_by(client, address, 80, {"local"})
    for client in (context.client(1), context.host_client(1)):
        context.not_answered(client, address, 80)
    context.patch(context.service_path("local"), {"spec": {"internalTrafficPolicy": "Cluster"}})
    context.answered_by(context.client(1), address, 80, {"local"})


def test_external_traffic_policy(context: Context):
    """[sig-network] Services should support externalTrafficPolicy=Local for type=NodePort; the client's address stays, others do not answer"""
    (near, near_address), (_, far_address) = context.nodes
    context.pod("outer", labels={"app": "outer"}, node=near)
    service = context.service("outer", [{"port": 80, "targetPort": 8080}], {"app": "outer"}, type="NodePort", externalTrafficPolicy="Local")
    port = service["spec"]["ports"][0]["nodePort"]
    until("the near node answers", lambda: context.outside(near_address, port) == "outer", 20)
    gateway = near_address.rsplit(".", 1)[0] + ".1"  # where the tests run
    same("the client's address", gateway, context.outside(near_address, port, "/clientip").rsplit(":", 1)[0])
    until("the far node does not answer", lambda: context.outside(far_address, port, timeout=1).startswith("!"), 20)
    # inside the cluster the Service's own address goes everywhere, and so does a node's port for its own pods and processes
    for client in (context.client(1), context.host_client(1)):
        context.answered_by(client, service["spec"]["clusterIP"], 80, {"outer"})
        context.answered_by(client, far_address, port, {"outer"})
    context.patch(context.service_path("outer"), {"spec": {"externalTrafficPolicy": "Cluster"}})
    until("both answer", lambda: context.outside(far_address, port) == context.outside(near_address, port) == "outer", 20)


def test_refused_without_endpoints(context: Context):
    """[sig-network] Services should be rejected when no endpoints exist"""
    ports = [{"name": "http", "port": 80}, {"name": "udp", "port": 90, "protocol": "UDP"}]
    spec = context.service("no-pods", ports, {"nonexistent": "pod"}, type="NodePort")["spec"]
    for client in (context.client(0), context.host_client(1)):
        context.not_answered(client, spec["clusterIP"], 80, how="refused")
        # on a node itself the kernel fails the sending, as it does under kube-proxy
        context.not_answered(client, spec["clusterIP"], 90, "udp", how="refused" if client == context.client(0) else None)
        context.not_answered(client, context.nodes[0][1], spec["ports"][0]["nodePort"], how="refused")


def test_refused_for_evicted(context: Context):
    """[sig-network] Services should be rejected for evicted pods (no endpoints exist)"""
    mount = {"volumeMounts": [{"name": "usr", "mountPath": "/usr", "readOnly": True}, {"name": "small", "mountPath": "/small"}]}
    volumes = [{"name": "usr", "hostPath": {"path": "/usr"}}, {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}]
    context.pod("evicted", labels={"app": "evicted"}, container=mount, volumes=volumes)
    address = context.service("evicted-pods", [{"port": 80, "targetPort": 8080}], {"app": "evicted"})["spec"]["clusterIP"]
    context.answered_by(context.client(), address, 80, {"evicted"})
    context.do("evicted", "sh", command="dd if=/dev/zero of=/small/large bs=1M count=4")
    until("evicted", lambda: context.get(context.core("pods", "evicted"))["status"].get("reason") == "Evicted", 60)
    context.endpoints_are("evicted-pods", set())
    for client in (context.client(0), context.host_client(1)):
        context.not_answered(client, address, 80, how="refused")


def test_readiness_comes_and_goes(context: Context):
    """[sig-network] Services: a pod that stops being ready leaves its Services without a restart, and comes back"""
    probe = {"exec": {"command": ["/bin/sh", "-c", "test ! -e /tmp/unready"]}, "periodSeconds": 1, "failureThreshold": 1}
    context.pod("wavering", labels={"app": "wavering"}, probe=probe)
    context.pod("steady", labels={"app": "wavering"}, node=context.nodes[1][0])
    address = context.service("wavering", [{"port": 80, "targetPort": 8080}], {"app": "wavering"})["spec"]["clusterIP"]
    context.answered_by(context.client(), address, 80, {"wavering", "steady"})
    context.do("wavering", "sh", command="touch /tmp/unready")
    context.answered_by(context.client(), address, 80, {"steady"}, times=20)
    same("not ready in its Endpoints", {("wavering", 8080)}, context.addresses("wavering", ready=False))
    context.do("wavering", "sh", command="rm /tmp/unready")
    context.answered_by(context.client(), address, 80, {"wavering", "steady"})
    same("restarts", 0, context.get(context.core("pods", "wavering"))["status"]["containerStatuses"][0]["restartCount"])


def test_unready_endpoints(context: Context):
    """[sig-network] Services should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true"""
    words = ("--http", "8080", "--linger", "60")
    context.pod("slow", words, {"app": "slow"}, probe={"exec": {"command": ["/bin/false"]}, "periodSeconds": 1}, grace=60, wait=False)
    lenient = context.service("lenient", [{"port": 80, "targetPort": 8080}], {"app": "slow"}, publishNotReadyAddresses=True)["spec"]["clusterIP"]
    strict = context.service("strict", [{"port": 80, "targetPort": 8080}], {"app": "slow"})["spec"]["clusterIP"]
    context.answered_by(context.client(), lenient, 80, {"slow"}, limit=40)
    context.not_answered(context.client(), strict, 80, how="refused")
    same("not ready in the Endpoints of the strict one", {("slow", 8080)}, context.addresses("strict", ready=False))
    context.delete_pod("slow", wait=False)
    until("terminating", lambda: context.get(context.core("pods", "slow"))["metadata"].get("deletionTimestamp"))
    for _ in range(5):
        context.answered_by(context.client(1), lenient, 80, {"slow"})
    context.not_answered(context.client(), strict, 80, how="refused")
    context.patch(context.service_path("lenient"), {"spec": {"publishNotReadyAddresses": False}})
    context.not_answered(context.client(), lenient, 80)
    context.delete_pod("slow", grace=0)


def test_terminating_fallback(context: Context):
    """[sig-network] Services should fallback to terminating endpoints when there are no ready endpoints with internal and external policies"""
    words, (node, address) = ("--http", "8080", "--linger", "60"), context.nodes[0]
    context.pod("ending", words, {"app": "ending"}, node, grace=60)
    places = []
    for policy in ("Cluster", "Local"):
        spec = context.service(f"over-{policy.lower()}", [{"port": 80, "targetPort": 8080}], {"app": "ending"}, type="NodePort",
                               internalTrafficPolicy=policy, externalTrafficPolicy=policy)["spec"]
        places.append((spec["clusterIP"], 80, spec["ports"][0]["nodePort"]))
    health = context.service("health", [{"port": 80, "targetPort": 8080}], {"app": "ending"}, type="LoadBalancer",
                             loadBalancerClass="example.com/none", externalTrafficPolicy="Local")["spec"]["healthCheckNodePort"]

    def all_answer():
        for cluster_ip, port, node_port in places:
            context.answered_by(context.client(0), cluster_ip, port, {"ending"})
            until("from outside", lambda: context.outside(address, node_port) == "ending", 20)

    all_answer()
    until("the health check", lambda: '"localEndpoints":1' in context.outside(address, health, "/").replace(" ", ""), 20)
    context.delete_pod("ending", wait=False)

    def conditions():
        found = context.get(context.slices_path("over-cluster"))["items"][0]["endpoints"]
        return found and found[0]["conditions"] == {"ready": False, "serving": True, "terminating": True}

    until("ready no more, serving, terminating", conditions)
    all_answer()
    # should fail health check node port if there are only terminating endpoints
    until("the health check's 503", lambda: context.outside(address, health, "/").startswith("!503"), 20)
    # another pod, ready: now nothing goes to the one that ends
    context.pod("begun", ("--http", "8080"), {"app": "ending"}, node)
    for cluster_ip, port, _ in places:
        context.answered_by(context.client(0), cluster_ip, port, {"begun"})
    context.delete_pod("ending", grace=0)


def udp_moves(context, kind):
    """A client that keeps its port is led to the next server when the first one is gone, also when nobody was there for a while."""
    spec = context.service("svc-udp", [{"name": "udp", "port": 80, "targetPort": 8081, "protocol": "UDP"}], {"app": "udp"}, type=kind)["spec"]
    host, port = (spec["clusterIP"], 80) if kind == "ClusterIP" else (context.nodes[1][1], spec["ports"][0]["nodePort"])
    source = 12345 if kind == "ClusterIP" else 12346
    client = context.client(0)

    def answers(name):
        until(f"answers of {name}", lambda: context.udp(client, host, port, source_port=source, times=3, pause=0.02) == [name] * 3, 30)

    until("nobody answers at first", lambda: context.udp(client, host, port, source_port=source)[0].startswith("!"), 10)
    context.pod("first", ("--http", "8080", "--udp", "8081"), {"app": "udp"}, context.nodes[1][0])
    answers("first")
    context.pod("second", ("--http", "8080", "--udp", "8081"), {"app": "udp"}, context.nodes[0][0])
    context.delete_pod("first", wait=False)
    answers("second")


def test_udp_cluster_ip(context: Context):
    """[sig-network] Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service; when endpoints get ready"""
    udp_moves(context, "ClusterIP")


def test_udp_node_port(context: Context):
    """[sig-network] Conntrack should be able to preserve UDP traffic when server pod cycles for a NodePort service"""
    udp_moves(context, "NodePort")
