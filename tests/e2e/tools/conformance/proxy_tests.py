"""The API server's proxy to pods, Services and nodes, as upstream's test/e2e/network/proxy.go checks it."""
import http.client
import json

from .context import Context, check, same, until

METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]


def raw(context, method, path, body=None):
    """(status, headers, bytes), redirects not followed; a connection of its own, since HEAD and upgrades tell what a kept one hides."""
    connection = http.client.HTTPSConnection(context.cluster.host, context.cluster.port, context=context.cluster.tls, timeout=20)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_proxy_names_and_schemes(context: Context):
    """[sig-network] Proxy version v1 should proxy through a service and a pod [Conformance]"""
    plain = {80: '<a href="/rewriteme">test</a>', 1080: '<a href="/rewriteme">test</a>', 160: "foo", 162: "bar"}
    secure = {443: '<a href="/tlsrewriteme">test</a>', 460: "tls baz", 462: "tls qux"}
    environment = {f"SERVE_PORT_{port}": text for port, text in {**plain, **secure}.items()}
    words = [word for port in plain for word in ("--http", str(port))] + [word for port in secure for word in ("--https", str(port))]
    ports = [{"name": name, "containerPort": port} for name, port in (("dest1", 160), ("dest2", 162), ("tlsdest1", 460), ("tlsdest2", 462))]
    context.pod("proxy-service", words, {"app": "proxied"}, context.nodes[1][0], [{"containerPort": 80}, *ports], environment)
    context.service("proxy-service", [
        {"name": "portname1", "port": 80, "targetPort": "dest1"}, {"name": "portname2", "port": 81, "targetPort": 162},
        {"name": "tlsportname1", "port": 443, "targetPort": "tlsdest1"}, {"name": "tlsportname2", "port": 444, "targetPort": 462}], {"app": "proxied"})
    context.endpoints_are("proxy-service", {("proxy-service", port) for port in (160, 162, 460, 462)})

    def service(scheme, port):
        name = f"{scheme}:proxy-service:{port}" if scheme else f"proxy-service:{port}"
        return context.core("services", f"{name}/proxy/")

    def pod(scheme, port):
        name = f"{scheme}:proxy-service:{port}" if scheme else f"proxy-service:{port}" if port else "proxy-service"
        return context.core("pods", f"{name}/proxy/")

    def link(path, target):
        return f'<a href="{path}{target}">test</a>'

    wanted = {
        service("", "portname1"): "foo", service("http", "portname1"): "foo", service("", "portname2"): "bar", service("http", "portname2"): "bar",
        service("https", "tlsportname1"): "tls baz", service("https", "tlsportname2"): "tls qux",
        service("", "80"): "foo", service("https", "444"): "tls qux",  # by number, as upstream's documentation has it
        pod("", ""): link(pod("", ""), "rewriteme"), pod("", "1080"): link(pod("", "1080"), "rewriteme"),
        pod("http", "1080"): link(pod("http", "1080"), "rewriteme"),
        pod("", "160"): "foo", pod("http", "160"): "foo", pod("", "162"): "bar", pod("http", "162"): "bar",
        pod("https", "443"): link(pod("https", "443"), "tlsrewriteme"), pod("https", "460"): "tls baz", pod("https", "462"): "tls qux",
    }
    wrong = []
    for path, text in wanted.items():
        code, _, body = raw(context, "GET", path)
        if (code, body.decode()) != (200, text):
            wrong.append(f"{path.split(context.namespace)[1]}: {code} {body.decode()[:120]!r}, not {text[-60:]!r}")
    check("\n  ".join([f"{len(wrong)} of {len(wanted)} forms:", *wrong]), not wrong)
    # what is not there is told as upstream does: no such port, no such pod
    code, _, body = raw(context, "GET", service("", "absent"))
    same("a port that the Service has not", 503, code)
    same("its reason", "ServiceUnavailable", json.loads(body)["reason"])
    same("a pod that is not there", 404, raw(context, "GET", context.core("pods", "absent/proxy/"))[0])


def serving(context):
    context.pod("agnhost", ("--http", "80"), {"test": "response"}, ports=[{"containerPort": 80}], environment={"SERVE_PORT_80": "foo", "JSON": "1"})
    context.service("test-service", [{"port": 80, "targetPort": 80, "protocol": "TCP"}], {"test": "response"})
    context.endpoints_are("test-service", {("agnhost", 80)})
    return [context.core("pods", "agnhost/proxy"), context.core("services", "test-service/proxy")]


def valid(context, method, path, asked):

    def answers():
        code, _, body = raw(context, method, path)
        same(f"{method} {path} ({body[:200]})", 200, code)
        if method == "HEAD":
            same("a HEAD's body", b"", body)
            return True
        found = json.loads(body)
        same(f"what the pod saw of {method} {path}", ("foo", method, asked), (found["body"], found["method"], found["path"]))
        return True

    until(f"{method} {path}", answers, 15)


def test_proxy_with_path(context: Context):
    """[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath [Conformance]"""
    for base in serving(context):
        for method in METHODS:
            valid(context, method, f"{base}/some/path/with/{method}", f"/some/path/with/{method}")


def test_proxy_without_path(context: Context):
    """[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service Proxy [Conformance]"""
    for base in serving(context):
        for method in ("DELETE", "OPTIONS", "PATCH", "POST", "PUT"):
            valid(context, method, f"{base}?method={method}", f"/?method={method}")
        for method in ("GET", "HEAD"):
            code, headers, _ = raw(context, method, f"{base}?method={method}")
            same(f"{method} {base} without a slash", 301, code)
            same("where to", f"{base}/?method={method}", next((value for key, value in headers.items() if key.lower() == "location"), None))


def test_proxy_body_and_headers(context: Context):
    """[sig-network] Proxy: bodies, queries and headers pass; credentials of the caller do not"""
    serving(context)
    path = context.core("services", "test-service/proxy/deep/path?a=b%20c&d=")
    code, _, body = raw(context, "POST", path, b"x" * 200_000)
    same("status", 200, code)
    found = json.loads(body)
    same("path and query", "/deep/path?a=b%20c&d=", found["path"])
    same("the body's length", 200_000, len(found["received"]))
    names = {name.lower() for name in found["headers"]}
    check(f"no credentials: {names}", "authorization" not in names)
    missing = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-uri"} - names
    same("headers that tell where the request was sent, missing", set(), missing)


def healthy(context, node):
    code, _, body = raw(context, "GET", f"/api/v1/nodes/{node}/proxy/healthz")
    same(f"nodes/{node}/proxy/healthz", (200, b"ok"), (code, body))
    return True


def test_proxy_nodes(context: Context):
    """[sig-network] Proxy version v1 should proxy to nodes using proxy subresource, with explicit kubelet port and without"""
    for name, _ in context.nodes:
        for form in (name, f"{name}:10250"):
            # on a machine that is overloaded a node's tunnel may be opened anew just now
            until(f"nodes/{form}/proxy/healthz", lambda: healthy(context, form), 20)


def test_proxy_special_addresses(context: Context):
    """Proxy: a pod's status cannot lead the API server to a host's own addresses ("address not allowed", as upstream)"""
    context.pod("nowhere", wait=False, nodeSelector={"nowhere": "yes"})
    path = context.core("pods", "nowhere")
    wrong = []
    for address in ("127.0.0.1", "169.254.169.254"):
        context.patch(path + "/status", {"status": {"podIP": address, "podIPs": [{"ip": address}]}})
        code, _, body = raw(context, "GET", context.core("pods", "nowhere:10250/proxy/healthz"))
        if code != 400 or b"address not allowed" not in body:
            wrong.append(f"{address}: {code} {body[:200]}")
    same("not refused", [], wrong)
