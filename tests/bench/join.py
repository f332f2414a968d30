"""Drives the two machines of tests/bench/join; prints a table and, last, one JSON object."""

import json
import os
import statistics
import subprocess
import sys
import time

from dev_cluster import binary, call, until, work

rounds = 5 if "--quick" in sys.argv else 20
there = ["nsenter", f"--net=/run/netns/{os.environ['SECOND']}", binary, "--data-dir", f"{work}/second"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def is_ready():
    for node in call("GET", "/api/v1/nodes")["items"]:
        if node["metadata"]["name"] == "second":
            return any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", []))
    return False


times = []
for number in range(rounds):
    words = run(binary, "--data-dir", f"{work}/data", "token", "create").split()
    server, token = words[words.index("--server") + 1], words[words.index("--token") + 1]
    begun = time.monotonic()
    agent = subprocess.Popen([*there, "agent", "--background", "--node-name", "second", "--server", server, "--token", token],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until("the node is Ready", is_ready, 30)
    times.append((time.monotonic() - begun) * 1000)
    agent.wait()
    run(binary, "--data-dir", f"{work}/data", "node", "remove", "second", "--force")
    run(*there, "down", "--purge", "--quiet")

print(f"joined until Ready   ms {sorted(round(ms) for ms in times)}")
print(json.dumps({"bench": "join", "rounds": rounds, "ready_p50_ms": round(statistics.median(times)), "ready_max_ms": round(max(times))}))
