"""What each network conformance test works with: the API, a namespace of its own, pods that serve and dial, waiting with a deadline."""
import http.client
import json
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cluster import Cluster, Unanswered  # noqa: E402

IMAGE = "klynge-conform:1"
MERGE, STRATEGIC, JSON_PATCH = ("application/merge-patch+json", "application/strategic-merge-patch+json",
                                "application/json-patch+json")
DISCOVERY = "/apis/discovery.k8s.io/v1"
NETWORKING = "/apis/networking.k8s.io/v1"


class Failed(Exception):
    """A behaviour differs from upstream's."""


def same(what, expected, actual):
    if expected != actual:
        raise Failed(f"{what}: expected {expected!r}, got {actual!r}")


def check(what, holds):
    if not holds:
        raise Failed(what)


def until(what, condition, limit=30, pause=0.1):
    """The first true value of `condition`; exceptions of ours count as not yet."""
    deadline, last = time.monotonic() + limit, None
    while True:
        try:
            found = condition()
            if found:
                return found
            last = found
        except (Failed, Unanswered) as error:
            last = error
        if time.monotonic() > deadline:
            raise Failed(f"not within {limit} s: {what}; last: {last}")
        time.sleep(pause)


def stays(what, condition, seconds):
    """It holds all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check(what, condition())
        time.sleep(0.1)


class Watch:
    """The events of a collection, read in the background from a revision on."""

    def __init__(self, cluster, path, revision):
        self.events, self.lock = [], threading.Lock()
        self.connection = http.client.HTTPSConnection(cluster.host, cluster.port, context=cluster.tls, timeout=60)
        joint = "&" if "?" in path else "?"
        self.connection.request("GET", f"{path}{joint}watch=1&resourceVersion={revision}&timeoutSeconds=55")
        self.answer = self.connection.getresponse()
        same(f"status of the watch {path}", 200, self.answer.status)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.answer:
                with self.lock:
                    self.events.append(json.loads(line))
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass  # closed by the test, or what came is too little and the test says so

    def saw(self, kind, name, condition=lambda found: True, limit=15):
        def find():
            with self.lock:
                return [one["object"] for one in self.events
                        if one["type"] == kind and one["object"]["metadata"]["name"] == name and condition(one["object"])]
        return until(f"event {kind} of {name}", find, limit)[-1]

    def close(self):
        """Shut down rather than closed: a close would wait for the reader."""
        try:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass


class Context:
    """One test's hands. `shared` holds what all tests use and none changes."""

    def __init__(self, cluster, name, shared):
        self.cluster, self.name, self.shared = cluster, name, shared
        self.nodes = shared["nodes"]
        self.namespaces, self.watches, self.notes = [], [], []
        self.made = None

    # the API

    def call(self, method, path, body=None, kind="application/json", status=None, timeout=30):
        """The decoded answer; anything but the wanted status (or any success) is a failure. A broken connection is tried again once for reads."""
        try:
            code, found = self.cluster.request(method, path, body, kind, timeout)
        except Unanswered:
            if method != "GET":
                raise
            code, found = self.cluster.request(method, path, body, kind, timeout)
        wanted = code < 300 if status is None else code == status
        if not wanted:
            raise Failed(f"{method} {path}: {code} {json.dumps(found)[:600]}")
        return found

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def patch(self, path, body, kind=MERGE, **more):
        return self.call("PATCH", path, body, kind, **more)

    def gone(self, path):
        return self.cluster.request("GET", path)[0] == 404

    def watch(self, path, revision):
        watch = Watch(self.cluster, path, revision)
        self.watches.append(watch)
        return watch

    # namespaces

    @property
    def namespace(self):
        if self.made is None:
            self.made = self.another_namespace()
        return self.made

    def another_namespace(self):
        name = f"c-{self.name}"[:50].rstrip("-") + (f"-{len(self.namespaces)}" if self.namespaces else "")
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}}, status=201)
        self.namespaces.append(name)
        return name

    def finish(self):
        for watch in self.watches:
            watch.close()
        for name in self.namespaces:
            self.cluster.request("DELETE", f"/api/v1/namespaces/{name}")

    def core(self, resource, name="", namespace=None):
        return f"/api/v1/namespaces/{namespace or self.namespace}/{resource}" + (f"/{name}" if name else "")

    def slices_path(self, service=None, namespace=None):
        path = f"{DISCOVERY}/namespaces/{namespace or self.namespace}/endpointslices"
        return path + (f"?labelSelector=kubernetes.io/service-name%3D{service}" if service else "")

    # pods

    def pod(self, name, words=("--http", "8080", "--udp", "8081"), labels=None, node=None, ports=None, environment=None,
            namespace=None, grace=1, probe=None, container=None, wait=True, **spec):
        """A pod that serves; by default ready within moments of its start."""
        numbers = [int(words[at + 1]) for at, word in enumerate(words) if word == "--http"]
        if probe is None and numbers:
            probe = {"tcpSocket": {"port": numbers[0]}, "periodSeconds": 1, "failureThreshold": 30}
        body = {
            "metadata": {"name": name, "labels": labels or {"name": name}},
            "spec": {
                "terminationGracePeriodSeconds": grace,
                "containers": [{
                    "name": "server", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                    "command": ["/usr/bin/python3", "-S", "-E", "/conform/pod.py", *words],
                    "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
                    "volumeMounts": [{"name": "usr", "mountPath": "/usr", "readOnly": True}],
                    **({"ports": ports} if ports else {}), **({"readinessProbe": probe} if probe else {}), **(container or {}),
                }],
                "volumes": [{"name": "usr", "hostPath": {"path": "/usr"}}],
                **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}), **spec,
            },
        }
        made = self.call("POST", self.core("pods", namespace=namespace), body, status=201)
        return self.ready(name, namespace) if wait else made

    def ready(self, name, namespace=None, limit=60):
        path = self.core("pods", name, namespace)

        def is_ready():
            pod = self.get(path)
            conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
            return pod if conditions.get("Ready") == "True" else check(f"{name}: {conditions} {pod['status'].get('containerStatuses')}", False)

        return until(f"pod {name} ready", is_ready, limit)

    def delete_pod(self, name, namespace=None, grace=None, wait=True):
        path = self.core("pods", name, namespace)
        self.call("DELETE", path + ("" if grace is None else f"?gracePeriodSeconds={grace}"))
        if wait:
            until(f"pod {name} gone", lambda: self.gone(path), 40)

    def do(self, pod, what, **arguments):
        """Something is done inside a pod, told to it through the API server. `pod`: a name of this namespace, or (namespace, name, port)."""
        namespace, name, port = pod if isinstance(pod, tuple) else (self.namespace, pod, 8080)
        path = self.core("pods", f"{name}:{port}/proxy/do", namespace)
        found = self.call("POST", path, {"do": what, **arguments}, timeout=60)
        if "error" in found:
            raise Failed(f"{what} in {name} with {arguments}: {found['error']}")
        return found["result"]

    def http(self, pod, host, port, **more):
        return self.do(pod, "http", host=host, port=port, **more)

    def udp(self, pod, host, port, **more):
        return self.do(pod, "udp", host=host, port=port, **more)

    def answered_by(self, pod, host, port, names, protocol="http", limit=20, times=None):
        """Waits until calls are answered by exactly these, and says how it was otherwise."""
        times = times or (1 if len(names) == 1 else 12 * len(names))
        ask = self.http if protocol == "http" else self.udp

        def answered():
            seen = set(ask(pod, host, port, times=times))
            same(f"who answered {protocol} {host}:{port} from {pod}", set(names), seen)
            return True

        until(f"{host}:{port} answered by {sorted(names)}", answered, limit)

    def not_answered(self, pod, host, port, protocol="http", limit=20, how=None):
        ask = self.http if protocol == "http" else self.udp

        def silent():
            found = ask(pod, host, port, timeout=1)[0]
            check(f"{protocol} {host}:{port} is answered: {found}", found.startswith("!"))
            if how:
                same(f"how {host}:{port} fails", "!" + how, found)
            return True

        until(f"{host}:{port} not answered", silent, limit)

    # services and what stands behind them

    def service(self, name, ports=None, selector=None, namespace=None, labels=None, annotations=None, **spec):
        body = {"metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}}, "spec": {**spec}}
        if ports is not None:
            body["spec"]["ports"] = ports
        if selector is not None:
            body["spec"]["selector"] = selector
        return self.call("POST", self.core("services", namespace=namespace), body, status=201)

    def service_path(self, name, namespace=None):
        return self.core("services", name, namespace)

    def addresses(self, service, namespace=None, ready=True):
        """{(pod's name or address, port)} that a Service's Endpoints hold."""
        found = self.get(self.core("endpoints", service, namespace))
        return {((one.get("targetRef") or {}).get("name", one["ip"]), port["port"])
                for subset in found.get("subsets") or [] for one in subset.get("addresses" if ready else "notReadyAddresses") or []
                for port in subset.get("ports") or []}

    def sliced(self, service, namespace=None):
        """The same from its EndpointSlices, ready ones."""
        return {((one.get("targetRef") or {}).get("name", one["addresses"][0]), port["port"])
                for piece in self.get(self.slices_path(service, namespace))["items"] for one in piece.get("endpoints") or []
                if one["conditions"]["ready"] for port in piece.get("ports") or []}

    def endpoints_are(self, service, wanted, namespace=None, limit=30):
        def hold():
            same(f"Endpoints of {service}", set(wanted), self.addresses(service, namespace))
            same(f"EndpointSlices of {service}", set(wanted), self.sliced(service, namespace))
            return True

        until(f"endpoints of {service}", hold, limit)

    def outside(self, host, port, path="/hostname", timeout=2):
        """The body of a GET from where the tests run, outside of the cluster; `!why` where none came."""
        try:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            return body if answer.status == 200 else f"!{answer.status} {body}"
        except ConnectionRefusedError:
            return "!refused"
        except (OSError, http.client.HTTPException) as error:
            return f"!{error!r}"

    def client(self, number=0):
        """A pod of the shared namespace that dials from one of the nodes."""
        return ("conform", f"client-{number + 1}", 8080)

    def host_client(self, number=0):
        """The same on a node's own network."""
        return ("conform", f"host-client-{number + 1}", 18080)
