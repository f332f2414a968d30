"""Drives and watches the cluster of tests/bench/node-loss; prints a table and, last, one JSON object."""

import json
import random
import statistics
import sys
import time

from dev_cluster import PODS, call, connection, dev, endpoints, node, pods, ready, until

quick = "--quick" in sys.argv


def all_well():
    return len(pods()) == 6 and all(map(ready, pods())) and len(endpoints()) == 6 and \
        all(node(f"bench-{n}") == (True, set()) for n in (1, 2, 3))


call("POST", "/apis/apps/v1/namespaces/default/deployments", {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": 6, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}}}],
            "containers": [{"name": "main", "image": "klynge-bench:1", "command": ["httpd", "-f", "-p", "8080"]}]}}}})
call("POST", "/api/v1/namespaces/default/services", {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
until("six pods", all_well)

# Freezes of a machine: none of its pods may be touched.
freezes = 4 if quick else 200  # two for each node: four changes, fewer than flapping
before = {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["containerID"] for pod in pods()}
random.seed(7)
longest = 3.0 if quick else 10.0
for number in range(freezes):
    seconds = 0.3 + (longest - 0.3) * number / max(freezes - 1, 1) if quick else random.uniform(0.3, longest)
    name = f"bench-{2 + number % 2}"
    dev("node", "partition", name)
    dev("node", "pause", name)
    time.sleep(seconds)
    dev("node", "resume", name)
    dev("node", "heal", name)
    if not quick and number % 4 == 3:
        time.sleep(2)
until("all well after the freezes", lambda: len(endpoints()) == 6, 120)
after = {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["containerID"] for pod in pods()}
evicted = sum(after.get(uid) != container for uid, container in before.items())
# A node that was frozen so often flaps: it keeps its taint until it was there for a minute.
until("all well", all_well, 150)

# Power cuts with fast failover: `kill` ends the node's kernel namespaces; what is counted begins when it returns.
call("PATCH", "/api/v1/namespaces/default", {"metadata": {"annotations": {"klynge.io/fast-failover": "true"}}},
     "application/merge-patch+json")
rounds = 2 if quick else 3
taint, gone, replaced, kill_ms = [], [], [], []
for number in range(rounds):
    name = f"bench-{2 + number % 2}"
    begun = time.monotonic()
    dev("node", "kill", name)
    kill_ms.append((time.monotonic() - begun) * 1000)
    since = lambda: (time.monotonic() - begun) * 1000
    seen = {}

    def look():
        if "taint" not in seen and "unreachable:NoSchedule" in node(name)[1]:
            seen["taint"] = since()
        if "gone" not in seen and not any(e["nodeName"] == name for e in endpoints()):
            seen["gone"] = since()
        if "gone" in seen and "replaced" not in seen:
            live = [pod for pod in pods() if pod["spec"].get("nodeName") != name and ready(pod)]
            if len(live) == 6:
                seen["replaced"] = since()
        return len(seen) == 3

    until("taint, endpoints and replacements", look, 30)
    taint.append(seen["taint"])
    gone.append(seen["gone"])
    replaced.append(seen["replaced"])
    dev("node", "start", name)
    # By now it flaps, and keeps a taint for a minute; only who switches it off again has to wait for that.
    until("the node's return", lambda: node(name)[0] if quick else node(name) == (True, set()), 90)

# A pod that is deleted leaves its Service.
left = []
for _ in range(10 if quick else 50):
    until("all pods ready", lambda: len(endpoints()) == 6, 60)
    pod = next(pod for pod in pods() if pod["spec"]["nodeName"] == "bench-1")
    uid = pod["metadata"]["uid"]
    begun = time.monotonic()
    connection.request("DELETE", f"{PODS}/{pod['metadata']['name']}")
    connection.getresponse().read()
    until("the pod's leaving", lambda: all(e["targetRef"]["uid"] != uid for e in endpoints()), 30)
    left.append((time.monotonic() - begun) * 1000)

figures = {
    "bench": "node-loss", "taint_ms": round(max(taint)), "endpoints_gone_ms": round(max(gone)),
    "replaced_ms": round(max(replaced)), "freezes": freezes, "false_evictions": evicted,
    "deleted_pod_leaves_p50_ms": round(statistics.median(left), 1), "deleted_pod_leaves_max_ms": round(max(left), 1),
}
print(f"power cut to taint                ms {sorted(round(ms) for ms in taint)}")
print(f"power cut to endpoints gone       ms {sorted(round(ms) for ms in gone)}")
print(f"power cut to replacements Ready   ms {sorted(round(ms) for ms in replaced)}")
print(f"  of which the command `dev node kill` ms {sorted(round(ms) for ms in kill_ms)}")
print(f"freezes of 0.3 to {longest} s: {freezes}, pods touched: {evicted}")
print(f"deleted pod leaves its Service    ms p50 {figures['deleted_pod_leaves_p50_ms']}, max {figures['deleted_pod_leaves_max_ms']}")
print(json.dumps(figures))
