"""DNS as upstream's test/e2e/network/dns.go checks it: over UDP and TCP, from a pod's own resolver settings."""
from .context import Context, check, same, until


def lookup(context, pod, name, kind="A", wanted=None, limit=20):
    """Over UDP and TCP the values are these (any, where none are named)."""
    def holds():
        for tcp in (False, True):
            found = context.do(pod, "dns", name=name, type=kind, tcp=tcp)
            values = sorted(one["value"] for one in found["answers"] if one["type"] == kind)
            if wanted is None:
                check(f"{kind} {name}: {found}", values)
            else:
                same(f"{kind} {name} {'tcp' if tcp else 'udp'} ({found})", sorted(wanted), values)
        return True

    until(f"{kind} {name}", holds, limit)


def test_dns_cluster(context: Context):
    """[sig-network] DNS should provide DNS for the cluster [Conformance]"""
    address = context.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    for number in (0, 1):
        for name in ("kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "kubernetes.default.svc.cluster.local."):
            lookup(context, context.client(number), name, "A", [address])
        lookup(context, context.client(number), "_https._tcp.kubernetes.default.svc.cluster.local", "SRV",
               ["0 100 443 kubernetes.default.svc.cluster.local."])


def test_dns_hosts_file(context: Context):
    """[sig-network] DNS should provide /etc/hosts entries for the cluster [Conformance]"""
    context.service("dns-test-service", [{"port": 80}], {"app": "querier"}, clusterIP="None")
    pod = context.pod("querier", labels={"app": "querier"}, hostname="dns-querier-1", subdomain="dns-test-service")
    address, whole = pod["status"]["podIP"], f"dns-querier-1.dns-test-service.{context.namespace}.svc.cluster.local"
    lines = [line.split() for line in context.do("querier", "sh", command="cat /etc/hosts")["out"].splitlines() if not line.startswith("#")]
    check(f"a line of its own address with both names: {lines}", [address, whole, "dns-querier-1"] in lines)
    check(f"localhost: {lines}", ["127.0.0.1", "localhost"] in lines)
    for name in (whole, "dns-querier-1"):
        same(f"address of {name}", [address], context.do("querier", "resolve", host=name))


def test_dns_services(context: Context):
    """[sig-network] DNS should provide DNS for services [Conformance]"""
    ns = context.namespace
    pod = context.pod("server", ("--http", "8080"), {"dns-test": "true"})
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    context.service("headless", ports, {"dns-test": "true"}, clusterIP="None")
    cluster_ip = context.service("regular", ports, {"dns-test": "true"})["spec"]["clusterIP"]
    address = pod["status"]["podIP"]
    for suffix in ("", ".svc", ".svc.cluster.local"):
        lookup(context, "server", f"headless.{ns}{suffix}", "A", [address])
        lookup(context, "server", f"regular.{ns}{suffix}", "A", [cluster_ip])
    # an endpoint without a hostname is called by its address
    dashed = address.replace(".", "-")
    whole = f"{ns}.svc.cluster.local."
    for name in (f"_http._tcp.headless.{ns}.svc", f"_http._tcp.headless.{ns}.svc.cluster.local"):
        lookup(context, "server", name, "SRV", [f"0 100 8080 {dashed}.headless.{whole}"])
    lookup(context, "server", f"{dashed}.headless.{ns}.svc.cluster.local", "A", [address])
    lookup(context, "server", f"_http._tcp.regular.{ns}.svc", "SRV", [f"0 100 80 regular.{whole}"])
    backwards = lambda ip: ".".join(reversed(ip.split("."))) + ".in-addr.arpa."
    lookup(context, "server", backwards(cluster_ip), "PTR", [f"regular.{whole}"])
    lookup(context, "server", backwards(address), "PTR", [f"{dashed}.headless.{whole}"])


def test_dns_partial_names(context: Context):
    """[sig-network] DNS should resolve DNS of partial qualified names for services [LinuxOnly] [Conformance]"""
    ns = context.namespace
    pod = context.pod("server", ("--http", "8080"), {"dns-test": "true"})
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    context.service("headless", ports, {"dns-test": "true"}, clusterIP="None")
    cluster_ip = context.service("regular", ports, {"dns-test": "true"})["spec"]["clusterIP"]
    for name in ("headless", f"headless.{ns}", f"headless.{ns}.svc"):
        lookup(context, "server", name, "A", [pod["status"]["podIP"]])
        same(f"{name} by the C library", [pod["status"]["podIP"]], context.do("server", "resolve", host=name))
    for name in ("regular", f"regular.{ns}", f"regular.{ns}.svc"):
        lookup(context, "server", name, "A", [cluster_ip])
    lookup(context, "server", f"_http._tcp.headless.{ns}.svc", "SRV")
    lookup(context, "server", "_http._tcp.regular", "SRV", [f"0 100 80 regular.{ns}.svc.cluster.local."])


def test_dns_hostname(context: Context):
    """[sig-network] DNS should provide DNS for pods for Hostname [Conformance]"""
    ns = context.namespace
    context.service("dns-test-service-2", [{"port": 80, "name": "http"}], {"app": "named"}, clusterIP="None")
    pod = context.pod("one", labels={"app": "named"}, hostname="dns-querier-2", subdomain="dns-test-service-2")
    whole = f"dns-querier-2.dns-test-service-2.{ns}.svc.cluster.local"
    lookup(context, "one", whole, "A", [pod["status"]["podIP"]])
    lookup(context, context.client(1), whole, "A", [pod["status"]["podIP"]])
    same("hostname -f", whole, context.do("one", "sh", command="hostname -f")["out"].strip())
    lookup(context, "one", f"_http._tcp.dns-test-service-2.{ns}.svc.cluster.local", "SRV", [f"0 100 80 {whole}."])


def test_dns_subdomain(context: Context):
    """[sig-network] DNS should provide DNS for pods for Subdomain [Conformance]"""
    ns = context.namespace
    context.service("dns-test-service-3", [{"port": 80}], {"app": "named"}, clusterIP="None")
    pod = context.pod("one", labels={"app": "named"}, hostname="dns-querier-3", subdomain="dns-test-service-3")
    lookup(context, "one", f"dns-test-service-3.{ns}.svc.cluster.local", "A", [pod["status"]["podIP"]])


def test_dns_external_name(context: Context):
    """[sig-network] DNS should provide DNS for ExternalName services [Conformance]"""
    ns = context.namespace
    path = context.service_path("dns-test-service-4")
    context.service("dns-test-service-4", type="ExternalName", externalName="foo.example.com")
    name = f"dns-test-service-4.{ns}.svc.cluster.local"

    def leads_to(target):
        def holds():
            for kind in ("CNAME", "A"):
                found = context.do(context.client(), "dns", name=name + ".", type=kind, timeout=5)
                same(f"{kind} {name}: {found}", [target], [one["value"] for one in found["answers"] if one["type"] == "CNAME"])
            return True
        until(f"{name} leads to {target}", holds)

    leads_to("foo.example.com.")
    context.patch(path, {"spec": {"externalName": "bar.example.com"}})
    leads_to("bar.example.com.")
    changed = context.patch(path, {"spec": {"type": "ClusterIP", "externalName": None, "ports": [{"port": 80, "name": "http", "protocol": "TCP"}]}})
    check(f"it has an address: {changed['spec']}", changed["spec"].get("clusterIP"))
    lookup(context, context.client(), name, "A", [changed["spec"]["clusterIP"]])


def test_dns_policy_none(context: Context):
    """[sig-network] DNS should support configurable pod DNS nameservers [Conformance]"""
    context.pod("one", dnsPolicy="None", dnsConfig={"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]})
    lines = context.do("one", "sh", command="cat /etc/resolv.conf")["out"].split("\n")
    check(f"nameserver and search, and nothing else: {lines}",
          [line for line in lines if line and not line.startswith("#")] == ["search resolv.conf.local", "nameserver 1.1.1.1"]
          or [line for line in lines if line and not line.startswith("#")] == ["nameserver 1.1.1.1", "search resolv.conf.local"])


def test_dns_config_options(context: Context):
    """[sig-network] DNS should support configurable pod resolv.conf"""
    target = context.shared["pods"]["server-1"]["status"]["podIP"]
    context.call("POST", context.core("services"), {"metadata": {"name": "target"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
    subsets = [{"addresses": [{"ip": target}], "ports": [{"port": 80}]}]
    context.call("POST", context.core("endpoints"), {"metadata": {"name": "target"}, "subsets": subsets})
    server = context.get("/api/v1/namespaces/kube-system/services/kube-dns")["spec"]["clusterIP"]
    context.pod("one", dnsPolicy="None", dnsConfig={
        "nameservers": [server], "searches": [f"{context.namespace}.svc.cluster.local"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]})
    text = context.do("one", "sh", command="cat /etc/resolv.conf")["out"]
    check(f"its options: {text}", "options ndots:2 edns0" in text)
    until("a name by the search list", lambda: same("target", [target], context.do("one", "resolve", host="target")) or True)
    # what is added to the cluster's own settings
    context.pod("two", dnsConfig={"searches": ["more.example"], "options": [{"name": "ndots", "value": "3"}]})
    text = context.do("two", "sh", command="cat /etc/resolv.conf")["out"]
    own = f"search {context.namespace}.svc.cluster.local svc.cluster.local cluster.local"
    check(f"the search list: {text}", own in text and "more.example" in text)
    check(f"the options: {text}", "ndots:3" in text and "ndots:5" not in text and f"nameserver {server}" in text)


def test_dns_long_search_list(context: Context):
    """[sig-network] DNS should work with more than 6 search paths and 256 search list characters; with an underscore and a single dot"""
    # the cluster's own comes first: resolvers for the others may be out of reach where this runs
    paths = [f"{context.namespace}.svc.cluster.local"] + [f"{'x' * 55}{number}.example" for number in range(6)]
    context.service("target", [{"port": 80}])
    server = context.get("/api/v1/namespaces/kube-system/services/kube-dns")["spec"]["clusterIP"]
    settings = {"nameservers": [server], "options": [{"name": "ndots", "value": "2"}]}
    context.pod("long", dnsPolicy="None", dnsConfig={**settings, "searches": paths})
    text = context.do("long", "sh", command="cat /etc/resolv.conf")["out"]
    check(f"all of them: {text}", "search " + " ".join(paths) in text)
    lookup(context, "long", "target", "A", [context.get(context.service_path("target"))["spec"]["clusterIP"]])
    context.pod("odd", dnsPolicy="None", dnsConfig={**settings, "searches": [".", "my_domain.example"]})
    text = context.do("odd", "sh", command="cat /etc/resolv.conf")["out"]
    check(f"both as they are: {text}", "search . my_domain.example" in text)


def test_dns_pod_records(context: Context):
    """Kubernetes DNS specification 2.3: pods by their addresses; unknown names do not exist, known names have no AAAA over IPv4"""
    pod = context.shared["pods"]["server-2"]
    address = pod["status"]["podIP"]
    lookup(context, context.client(), f"{address.replace('.', '-')}.conform.pod.cluster.local", "A", [address])
    for name, code in (("absent.default.svc.cluster.local.", 3), ("kubernetes.absent.svc.cluster.local.", 3),
                       ("kubernetes.default.svc.cluster.local.", 0)):
        found = context.do(context.client(), "dns", name=name, type="AAAA")
        same(f"AAAA {name}", (code, []), (found["code"], found["answers"]))


def test_dns_host_network(context: Context):
    """[sig-node] hostNetwork pods with ClusterFirstWithHostNet ask the cluster, with ClusterFirst the host's resolvers"""
    ns = context.namespace
    context.pod("with", ("--http", "18090"), hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet", node=context.nodes[0][0])
    context.pod("without", ("--http", "18091"), hostNetwork=True, node=context.nodes[0][0])
    read = lambda name, port: context.do((ns, name, port), "sh", command="cat /etc/resolv.conf")["out"]
    check("the cluster's settings", f"search {ns}.svc.cluster.local" in read("with", 18090))
    check("the host's settings", "svc.cluster.local" not in read("without", 18091))
    lookup(context, (ns, "with", 18090), "kubernetes.default", "A")


def test_hosts_file_managed(context: Context):
    """[sig-node] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file; hostAliases should write entries to /etc/hosts [Conformance]"""
    ns, header = context.namespace, "# Kubernetes-managed hosts file"
    context.pod("aliased", hostAliases=[{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}])
    text = context.do("aliased", "sh", command="cat /etc/hosts")["out"]
    check(f"managed, with the aliases: {text}", header in text and "123.45.67.89\tfoo\tbar" in text)
    # a container that mounts its own file keeps it, and so does a pod on the host's network
    own = {"volumeMounts": [{"name": "usr", "mountPath": "/usr", "readOnly": True}, {"name": "hosts", "mountPath": "/etc/hosts"}]}
    volumes = [{"name": "usr", "hostPath": {"path": "/usr"}}, {"name": "hosts", "hostPath": {"path": "/etc/hostname", "type": "File"}}]
    context.pod("mounted", container=own, volumes=volumes)
    check("its own file", header not in context.do("mounted", "sh", command="cat /etc/hosts")["out"])
    context.pod("on-host", ("--http", "18092"), hostNetwork=True, node=context.nodes[0][0])
    theirs = context.do((ns, "on-host", 18092), "sh", command="cat /etc/hosts")["out"]
    check(f"the host's file, said to be so: {theirs}", "# Kubernetes-managed hosts file (host network)." in theirs)


def test_hostname_as_fqdn(context: Context):
    """[sig-node] Pod setHostnameAsFQDN: the kernel's host name is the whole name"""
    context.service("sub", [{"port": 80}], {"app": "named"}, clusterIP="None")
    context.pod("whole", labels={"app": "named"}, hostname="first", subdomain="sub", setHostnameAsFQDN=True)
    same("hostname", f"first.sub.{context.namespace}.svc.cluster.local", context.do("whole", "sh", command="hostname")["out"].strip())


def test_dns_headless_readiness(context: Context):
    """[sig-network] Services: headless names leave out pods that are not ready, unless publishNotReadyAddresses is set"""
    ns = context.namespace
    ports = [{"name": "http", "port": 8080}]
    context.service("strict", ports, {"app": "unready"}, clusterIP="None")
    context.service("lenient", ports, {"app": "unready"}, clusterIP="None", publishNotReadyAddresses=True)
    context.pod("unready", labels={"app": "unready"}, probe={"exec": {"command": ["/bin/false"]}, "periodSeconds": 1}, wait=False)

    def address():
        return context.get(context.core("pods", "unready"))["status"].get("podIP")

    found = until("its address", address, 40)
    lookup(context, context.client(), f"lenient.{ns}.svc.cluster.local", "A", [found])
    lookup(context, context.client(), f"strict.{ns}.svc.cluster.local", "A", [])
    answer = context.do(context.client(), "dns", name=f"strict.{ns}.svc.cluster.local.")
    same("a Service without ready endpoints", [], answer["answers"])
