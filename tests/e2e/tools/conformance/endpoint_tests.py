"""Endpoints and EndpointSlices: made for selectors, mirrored, written by hand with several ports and addresses, and how soon they come."""
import threading
import time

from .context import Context, check, same, until


def test_slices_of_api_server(context: Context):
    """[sig-network] EndpointSlice should have Endpoints and EndpointSlices pointing to API Server [Conformance]"""
    service = context.get(context.service_path("kubernetes", "default"))
    endpoints = context.get(context.core("endpoints", "kubernetes", "default"))
    same("subsets", 1, len(endpoints["subsets"]))
    slices = context.get(context.slices_path("kubernetes", "default"))["items"]
    check("a slice of it", slices)
    same("its name", "kubernetes", slices[0]["metadata"]["name"])
    addresses = {one["ip"] for one in endpoints["subsets"][0]["addresses"]}
    same("addresses of both", addresses, {address for one in slices for each in one["endpoints"] for address in each["addresses"]})
    ports = {(one["name"], one["port"]) for one in endpoints["subsets"][0]["ports"]}
    same("ports of both", ports, {(one["name"], one["port"]) for one in slices[0]["ports"]})
    same("the Service's ports", {one["name"] for one in service["spec"]["ports"]}, {name for name, _ in ports})
    for address in addresses:
        code = context.do(context.client(1), "sh", command=f"nc -w 3 {address} {slices[0]['ports'][0]['port']} </dev/null")["code"]
        same("a connection to it", 0, code)


def test_slices_created_and_deleted(context: Context):
    """[sig-network] EndpointSlice should create and delete Endpoints and EndpointSlices for a Service with a selector specified [Conformance]"""
    selector = {"does-not-match-anything": "endpoints-and-endpoint-slices-should-still-be-created"}
    context.service("example", [{"name": "example", "port": 80, "protocol": "TCP"}], selector)
    path = context.core("endpoints", "example")
    until("Endpoints", lambda: context.get(path))
    found = until("a slice", lambda: context.get(context.slices_path("example"))["items"])
    same("slices", 1, len(found))
    same("its owner", "example", found[0]["metadata"]["ownerReferences"][0]["name"])
    same("who manages it", "endpointslice-controller.k8s.io", found[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"])
    context.call("DELETE", context.service_path("example"))
    until("Endpoints gone", lambda: context.gone(path))
    until("slices gone", lambda: not context.get(context.slices_path("example"))["items"])


def test_slices_for_pods(context: Context):
    """[sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service [Conformance]"""
    # Services before their pods, and after
    context.service("named", [{"name": "example-name", "port": 80, "targetPort": "example-name", "protocol": "TCP"}], {"foo": "bar"})
    context.service("unready", [{"name": "example-other", "port": 80, "targetPort": "example-other"}], {"foo": "bar"}, publishNotReadyAddresses=True)
    ports = [{"name": "example-name", "containerPort": 3000}]
    context.pod("pod1", labels={"foo": "bar", "first": "yes"}, ports=ports)
    context.pod("pod2", labels={"foo": "bar"}, ports=ports, node=context.nodes[1][0])
    context.service("number", [{"name": "number", "port": 80, "targetPort": 8080}], {"first": "yes"})
    context.endpoints_are("named", {("pod1", 3000), ("pod2", 3000)})
    context.endpoints_are("number", {("pod1", 8080)})
    piece = context.get(context.slices_path("number"))["items"][0]
    pod = context.get(context.core("pods", "pod1"))
    endpoint = piece["endpoints"][0]
    same("its addresses", [pod["status"]["podIP"]], endpoint["addresses"])
    same("its node", pod["spec"]["nodeName"], endpoint["nodeName"])
    same("its target", ("Pod", context.namespace, "pod1", pod["metadata"]["uid"]),
         tuple(endpoint["targetRef"][key] for key in ("kind", "namespace", "name", "uid")))
    same("its conditions", {"ready": True, "serving": True, "terminating": False}, endpoint["conditions"])
    # a port name that no container has
    same("endpoints of a port that is nobody's", set(), context.addresses("unready"))
    # labels that change
    context.patch(context.core("pods", "pod1"), {"metadata": {"labels": {"first": None}}})
    context.endpoints_are("number", set())


def by_hand(context, name, ports, addresses):
    return context.call("POST", context.slices_path(), {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "example-custom-endpoints",
                                              "endpointslice.kubernetes.io/managed-by": "e2e-test.k8s.io"}},
        "addressType": "IPv4", "ports": ports, "endpoints": [{"addresses": addresses, "conditions": {"ready": True}}]}, status=201)


def test_slices_multiple_ports(context: Context):
    """[sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices [Conformance]"""
    service = context.service("example-custom-endpoints", [{"name": "portname80", "port": 80}, {"name": "portname81", "port": 81}])
    address = service["spec"]["clusterIP"]
    server = context.pod("server", ("--http", "3090", "--http", "3091", "--http", "8080"))["status"]["podIP"]
    by_hand(context, "one", [{"name": "portname80", "port": 3090, "protocol": "TCP"}], [server])
    by_hand(context, "two", [{"name": "portname81", "port": 3091, "protocol": "TCP"}], [server])
    for number in (0, 1):
        context.answered_by(context.client(number), address, 80, {"server"})
        context.answered_by(context.client(number), address, 81, {"server"})
    context.answered_by(context.client(), f"example-custom-endpoints.{context.namespace}", 80, {"server"})


def test_slices_multiple_addresses(context: Context):
    """[sig-network] EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices [Conformance]"""
    service = context.service("example-custom-endpoints", [{"name": "port80", "port": 80}, {"name": "port81", "port": 81}])
    address = service["spec"]["clusterIP"]
    both = {}
    for number, (node, _) in enumerate(context.nodes, 1):
        words = ("--http", "3090", "--http", "3091")
        both[f"pod{number}"] = context.pod(f"pod{number}", words, node=node)["status"]["podIP"]
    by_hand(context, "one", [{"name": "port80", "port": 3090, "protocol": "TCP"}], list(both.values())[:1])
    by_hand(context, "two", [{"name": "port80", "port": 3090, "protocol": "TCP"}], list(both.values())[1:])
    by_hand(context, "three", [{"name": "port81", "port": 3091, "protocol": "TCP"}], list(both.values())[:1])
    by_hand(context, "four", [{"name": "port81", "port": 3091, "protocol": "TCP"}], list(both.values())[1:])
    for port in (80, 81):
        context.answered_by(context.client(1), address, port, set(both))
    # one of them is taken out
    context.call("DELETE", context.slices_path() + "/one")
    context.answered_by(context.client(1), address, 80, {"pod2"})


def mirrored(context, name):
    return [one for one in context.get(context.slices_path(name))["items"]
            if one["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"]


def test_mirroring(context: Context):
    """[sig-network] EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete [Conformance]"""
    context.service("example-custom-endpoints", [{"name": "example", "port": 80, "protocol": "TCP"}])
    path = context.core("endpoints", "example-custom-endpoints")
    endpoints = {"metadata": {"name": "example-custom-endpoints"}, "subsets": [{"ports": [{"port": 80}], "addresses": [{"ip": "10.1.2.3"}]}]}
    context.call("POST", context.core("endpoints"), endpoints, status=201)

    def has(address, port):
        def holds():
            found = mirrored(context, "example-custom-endpoints")
            same("slices", 1, len(found))
            same("ports", [port], [one["port"] for one in found[0]["ports"]])
            same("addresses", [[address]], [one["addresses"] for one in found[0]["endpoints"]])
            return True
        until("the mirror", holds)

    has("10.1.2.3", 80)
    endpoints["subsets"] = [{"ports": [{"port": 81}], "addresses": [{"ip": "10.2.3.4"}]}]
    context.call("PUT", path, endpoints)
    has("10.2.3.4", 81)
    context.call("DELETE", path)
    until("no mirror", lambda: not context.get(context.slices_path("example-custom-endpoints"))["items"])


def test_mirroring_subsets(context: Context):
    """[sig-network] EndpointSliceMirroring should mirror a custom Endpoint with multiple subsets and same IP address"""
    context.service("custom", [{"name": "port80", "port": 80}, {"name": "port81", "port": 81}])
    address = context.shared["pods"]["server-2"]["status"]["podIP"]
    context.call("POST", context.core("endpoints"), {"metadata": {"name": "custom"}, "subsets": [
        {"ports": [{"name": "port80", "port": 8080}], "addresses": [{"ip": address}]},
        {"ports": [{"name": "port81", "port": 8080}], "addresses": [{"ip": address}]}]}, status=201)
    until("two mirrors", lambda: len(mirrored(context, "custom")) == 2)
    cluster_ip = context.get(context.service_path("custom"))["spec"]["clusterIP"]
    for port in (80, 81):
        context.answered_by(context.client(), cluster_ip, port, {"server-2"})


def test_endpoints_lifecycle(context: Context):
    """[sig-network] Services should test the lifecycle of an Endpoint [Conformance]"""
    home, path = context.core("endpoints"), context.core("endpoints", "testservice")
    listed = context.get(home)
    watch = context.watch(home + "?labelSelector=test-endpoint-static%3Dtrue", listed["metadata"]["resourceVersion"])
    made = context.call("POST", home, {"metadata": {"name": "testservice", "labels": {"test-endpoint-static": "true"}}, "subsets": [
        {"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}, status=201)
    watch.saw("ADDED", "testservice")
    everywhere = context.get("/api/v1/endpoints?labelSelector=test-endpoint-static%3Dtrue")["items"]
    check("listed over all namespaces", any(one["metadata"]["name"] == "testservice" for one in everywhere))
    made["metadata"]["labels"]["test-service"] = "updated"
    context.call("PUT", path, made)
    watch.saw("MODIFIED", "testservice", lambda one: one["metadata"]["labels"].get("test-service") == "updated")
    context.patch(path, {"metadata": {"labels": {"test-service": "patched"}}, "subsets": [
        {"addresses": [{"ip": "10.0.0.25"}], "ports": [{"name": "http-test", "port": 8080, "protocol": "TCP"}]}]})
    seen = watch.saw("MODIFIED", "testservice", lambda one: one["metadata"]["labels"].get("test-service") == "patched")
    same("the patched address", "10.0.0.25", seen["subsets"][0]["addresses"][0]["ip"])
    found = context.get(path)
    subset = found["subsets"][0]
    same("address and port", ("10.0.0.25", "http-test", 8080), (subset["addresses"][0]["ip"], subset["ports"][0]["name"], subset["ports"][0]["port"]))
    context.call("DELETE", home + "?labelSelector=test-endpoint-static%3Dtrue")
    watch.saw("DELETED", "testservice")
    until("gone", lambda: context.gone(path))


def test_endpoints_basic(context: Context):
    """[sig-network] Services should serve a basic endpoint from pods [Conformance]"""
    address = context.service("endpoint-test2", [{"port": 80, "targetPort": 8080}], {"app": "basic"})["spec"]["clusterIP"]
    context.endpoints_are("endpoint-test2", set())
    context.pod("pod1", labels={"app": "basic"})
    context.endpoints_are("endpoint-test2", {("pod1", 8080)})
    context.answered_by(context.client(), address, 80, {"pod1"})
    context.pod("pod2", labels={"app": "basic"}, node=context.nodes[1][0])
    context.endpoints_are("endpoint-test2", {("pod1", 8080), ("pod2", 8080)})
    context.answered_by(context.client(), address, 80, {"pod1", "pod2"})
    context.delete_pod("pod1", wait=False)
    context.endpoints_are("endpoint-test2", {("pod2", 8080)})
    context.answered_by(context.client(), address, 80, {"pod2"})
    context.delete_pod("pod2", wait=False)
    context.endpoints_are("endpoint-test2", set())


def test_endpoints_multiport(context: Context):
    """[sig-network] Services should serve multiport endpoints from pods [Conformance]"""
    ports = [{"name": "portname1", "port": 80, "targetPort": "svc1"}, {"name": "portname2", "port": 81, "targetPort": "svc2"}]
    address = context.service("multi-endpoint-test", ports, {"app": "multi"})["spec"]["clusterIP"]
    context.endpoints_are("multi-endpoint-test", set())
    context.pod("pod1", ("--http", "100", "--http", "8080"), {"app": "multi"}, ports=[{"name": "svc1", "containerPort": 100}])
    context.endpoints_are("multi-endpoint-test", {("pod1", 100)})
    context.pod("pod2", ("--http", "101", "--http", "8080"), {"app": "multi"}, ports=[{"name": "svc2", "containerPort": 101}])
    context.endpoints_are("multi-endpoint-test", {("pod1", 100), ("pod2", 101)})
    context.answered_by(context.client(), address, 80, {"pod1"})
    context.answered_by(context.client(1), address, 81, {"pod2"})
    context.delete_pod("pod1", wait=False)
    context.endpoints_are("multi-endpoint-test", {("pod2", 101)})
    context.not_answered(context.client(), address, 80, how="refused")
    context.answered_by(context.client(), address, 81, {"pod2"})
    context.delete_pod("pod2", wait=False)
    context.endpoints_are("multi-endpoint-test", set())


def test_endpoints_latency(context: Context):
    """[sig-network] Service endpoints latency should not be very high [Conformance]"""
    context.pod("svc-latency-rc", labels={"name": "svc-latency-rc"})
    times, lock = [], threading.Lock()
    watch = context.watch(context.core("endpoints"), context.get(context.core("endpoints"))["metadata"]["resourceVersion"])

    def make(numbers):
        for number in numbers:
            name = f"latency-svc-{number}"
            begun = time.monotonic()
            context.service(name, [{"port": 80, "targetPort": 8080, "protocol": "TCP"}], {"name": "svc-latency-rc"})
            until(f"endpoints of {name}", lambda: arrived(name), 60, 0.005)
            with lock:
                times.append(time.monotonic() - begun)

    def arrived(name):
        with watch.lock:
            return any(one["object"]["metadata"]["name"] == name and one["object"].get("subsets") for one in watch.events[-200:])

    workers = [threading.Thread(target=make, args=(range(first, 100, 5),)) for first in range(5)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    same("endpoints that came", 100, len(times))
    times.sort()
    context.notes.append(f"p50 {times[50] * 1000:.0f} ms, p90 {times[90] * 1000:.0f} ms, p99 {times[99] * 1000:.0f} ms over 100")
    check(f"median below 20 s: {times[50]}", times[50] < 20)
    check(f"99th percentile below 50 s: {times[99]}", times[99] < 50)
