"""Drives the cluster of tests/bench/killed-pod; prints a table and, last, one JSON object.

Each round kills the process of one of three pods behind a Service. Its container comes up again at once, but listens only two seconds later,
so every connection that still finds it is refused. Clients on two nodes open connections all the time and note each one that fails, judged by
when it was begun. They leave the servers time: where one's backlog is full, a connection waits a second without anybody being gone."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

from dev_cluster import PODS, binary, call, endpoints, pods, ready, until, work

quick = "--quick" in sys.argv
PODS_COUNT = 3

CLIENT = r"""
import socket, sys, time
address = (sys.argv[1], 80)
opened = 0
while True:
    client = socket.socket()
    client.settimeout(1)
    begun = time.monotonic()
    try:
        client.connect(address)
        opened += 1
    except OSError as error:
        print(f"{begun:.6f} {error.errno or 'timeout'}", flush=True)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    if opened % 1000 == 0:
        print(f"opened {opened}", flush=True)
    time.sleep(0.0015)
"""

COMMAND = "if [ -e /kept/started ]; then sleep 2; fi; touch /kept/started; exec httpd -f -p 8080"
call("POST", "/apis/apps/v1/namespaces/default/deployments", {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {"replicas": PODS_COUNT, "selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "volumes": [{"name": "kept", "emptyDir": {}}], "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}}}],
            "containers": [{"name": "main", "image": "klynge-bench:1", "command": ["sh", "-c", COMMAND],
                            "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
                            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}}}})
service = call("POST", "/api/v1/namespaces/default/services", {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
until("all pods", lambda: sum(map(ready, pods())) == PODS_COUNT and len(endpoints()) == PODS_COUNT)


def processes():
    """The servers' host process ids by the uid of their pod, as their control groups name it."""
    found = {}
    uids = {pod["metadata"]["uid"] for pod in pods() if "deletionTimestamp" not in pod["metadata"]}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = file.read()
            with open(f"/proc/{process}/cgroup") as file:
                groups = file.read()
        except OSError:
            continue
        if words.startswith(b"httpd\0"):
            found.update({uid: int(process) for uid in uids if uid in groups})
    return found


clients = {}
for name in ("bench-1", "bench-3"):
    file = open(f"{work}/{name}.refusals", "w+")
    child = subprocess.Popen([binary, "--data-dir", f"{work}/dev", "dev", "exec", name, "--", sys.executable, "-u", "-c", CLIENT,
                              service["spec"]["clusterIP"]], stdout=file, stderr=subprocess.STDOUT)
    clients[name] = (child, file)

random.seed(7)
rounds = 10 if quick else 100
last = {name: [] for name in clients}
refused = unanswered = 0
try:
    time.sleep(0.5)
    for _ in range(rounds):
        until("all endpoints", lambda: len(endpoints()) == PODS_COUNT, 60)
        time.sleep(random.uniform(0.05, 0.15))  # whoever was told late has heard it by now
        here = {}

        def all_found():
            here.clear()
            here.update(processes())
            return len(here) == PODS_COUNT

        until("all servers' processes", all_found, 5)
        marks = {name: file.seek(0, os.SEEK_END) for name, (_, file) in clients.items()}
        victim = random.choice(sorted(here))
        begun = time.monotonic()
        os.kill(here[victim], signal.SIGKILL)
        time.sleep(0.9)
        for name, (child, file) in clients.items():
            if child.poll() is not None:
                file.seek(0)
                raise SystemExit(f"the client on {name} ended: {file.read()[-500:]}")
            file.seek(marks[name])
            failed = [((float(at) - begun) * 1000, why) for at, why in (line.split() for line in file if line[0].isdigit())]
            failed = [(ms, why) for ms, why in failed if ms >= 0]
            refused += len(failed)
            unanswered += sum(why == "timeout" for _, why in failed)
            last[name].append(max([ms for ms, _ in failed], default=0.0))
        # A pod that is killed again and again is started ever later: a new one takes its place.
        call("DELETE", f"{PODS}/" + next(pod["metadata"]["name"] for pod in pods() if pod["metadata"]["uid"] == victim))
finally:
    for child, _ in clients.values():
        child.terminate()
    for child, _ in clients.values():
        child.wait()

opened = 0
for _, file in clients.values():
    file.seek(0)
    opened += max([int(line.split()[1]) for line in file if line.startswith("opened")], default=0)
if opened < 1000:
    raise SystemExit(f"the clients opened {opened} connections only")
everything = sorted(ms for values in last.values() for ms in values)
if everything[-1] == 0:
    raise SystemExit("no connection was refused: nothing was measured")


def share(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


for name, values in last.items():
    print(f"killed until its last refusal, client on {name}   ms p50 {statistics.median(values):.1f}, p99 {share(values, 0.99):.1f}, max {max(values):.1f}")
print(f"{rounds} pods killed, {opened} connections opened, {refused} failed, {unanswered} of them without any answer")
print(json.dumps({"bench": "killed-pod", "rounds": rounds, "connections": opened, "refused": refused, "unanswered": unanswered,
                  "last_refusal_p50_ms": round(statistics.median(everything), 1), "last_refusal_p99_ms": round(share(everything, 0.99), 1),
                  "last_refusal_max_ms": round(everything[-1], 1)}))
