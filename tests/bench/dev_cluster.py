"""What the benchmarks over `klynge dev` share: its commands, the API over one kept connection, and waiting."""

import base64
import http.client
import json
import os
import ssl
import subprocess
import time

work = os.environ["WORK"]
binary = os.environ["BINARY"]


def dev(*words):
    subprocess.run([binary, "--data-dir", f"{work}/dev", "dev", *words], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


config = json.loads(subprocess.run(["kubectl", "--kubeconfig", f"{work}/kubeconfig", "config", "view", "--raw", "-o", "json"],
                                   check=True, capture_output=True).stdout)
user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
for name, data in [("crt", user["client-certificate-data"]), ("key", user["client-key-data"]),
                   ("ca", cluster["certificate-authority-data"])]:
    with open(f"{work}/{name}", "wb") as file:
        file.write(base64.b64decode(data))
tls = ssl.create_default_context(cafile=f"{work}/ca")
tls.load_cert_chain(f"{work}/crt", f"{work}/key")
host, port = cluster["server"].removeprefix("https://").split(":")
connection = http.client.HTTPSConnection(host, int(port), context=tls, timeout=10)


def call(method, path, body=None, kind="application/json"):
    def send():
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
        return connection.getresponse()

    try:
        answer = send()
    except http.client.RemoteDisconnected:  # nothing was asked for so long that the server closed it; the next request opens it anew
        connection.close()
        answer = send()
    text = answer.read()
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status} {text[:300]}")
    return json.loads(text)


PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def pods():
    return [pod for pod in call("GET", PODS)["items"] if "deletionTimestamp" not in pod["metadata"]]


def ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def endpoints():
    return [e for s in call("GET", SLICES + "?labelSelector=kubernetes.io/service-name%3Dweb")["items"] for e in s.get("endpoints") or [] if e["conditions"]["ready"]]


def node(name):
    found = call("GET", f"/api/v1/nodes/{name}")
    is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"]["conditions"])
    return is_ready, {f"{t['key'].split('/')[1]}:{t['effect']}" for t in found["spec"].get("taints", [])}


def until(what, check, limit=60):
    """Milliseconds until it holds."""
    begun = time.monotonic()
    while not check():
        if time.monotonic() - begun > limit:
            states = [(p["metadata"]["name"], p["status"].get("phase"), ready(p)) for p in pods()]
            raise SystemExit(f"not within {limit} s: {what}; {states}, {len(endpoints())} endpoints, "
                             f"{[node(f'bench-{n}') for n in (1, 2, 3)]}")
        time.sleep(0.005)
    return (time.monotonic() - begun) * 1000
