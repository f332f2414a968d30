"""Runs the network behaviours of upstream's conformance suite against a cluster of several nodes, and prints a table of results.

network_conformance.py KUBECONFIG [word ...]     with words: only the tests whose name or docstring contains one
Each test is a function of conformance/*_tests.py; its docstring is the name of upstream's test, with [Conformance] where upstream counts it.
"""
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from cluster import Cluster, Unanswered
from conformance import api_tests, dns_tests, endpoint_tests, pod_tests, proxy_tests, service_tests, traffic_tests
from conformance.context import Context, Failed

WORKERS = 8
MODULES = [traffic_tests, service_tests, pod_tests, endpoint_tests, dns_tests, proxy_tests, api_tests]


def found(words):
    tests = [one for module in MODULES for name, one in vars(module).items()
             if name.startswith("test_") and one.__module__ == module.__name__]
    return [one for one in tests if not words or any(word in one.__name__ or word in one.__doc__ for word in words)]


def prepare(cluster):
    """What all tests use: the nodes' addresses; in the namespace `conform` three servers, and on each node a client in a pod and one on the host."""
    context = Context(cluster, "prepare", {"nodes": None})
    nodes = sorted(context.get("/api/v1/nodes")["items"], key=lambda one: one["metadata"]["name"])
    context.nodes = [(one["metadata"]["name"], next(a["address"] for a in one["status"]["addresses"] if a["type"] == "InternalIP"))
                     for one in nodes[:2]]
    context.call("POST", "/api/v1/namespaces", {"metadata": {"name": "conform"}})
    for number, (node, _) in enumerate(context.nodes, 1):
        server = ("--http", "8080", "--udp", "8081")
        context.pod(f"server-{number}", server, {"app": "server"}, node, namespace="conform", wait=False)
        context.pod(f"client-{number}", node=node, namespace="conform", wait=False)
        context.pod(f"host-client-{number}", ("--http", "18080", "--udp", "18081"), node=node, namespace="conform", wait=False, hostNetwork=True)
    context.pod("server-3", server, {"app": "server"}, context.nodes[0][0], namespace="conform", wait=False)
    names = [f"{kind}-{number}" for kind in ("server", "client", "host-client") for number in (1, 2)] + ["server-3"]
    pods = {name: context.ready(name, "conform") for name in names}
    return {"nodes": context.nodes, "pods": pods, "servers": {"server-1", "server-2", "server-3"}}


def run(cluster, shared, test, results, lock):
    begun = time.monotonic()
    context = Context(cluster, test.__name__.removeprefix("test_").replace("_", "-"), shared)
    why = ""
    try:
        test(context)
    except (Failed, Unanswered, AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
        place = traceback.extract_tb(error.__traceback__)
        line = next((f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(place) if frame.filename.endswith("_tests.py")), "")
        why = f"{line}: {type(error).__name__}: {error}"
    finally:
        try:
            context.finish()
        except Unanswered as error:
            why = why or f"cleaning up: {error}"
    with lock:
        results[test] = (time.monotonic() - begun, why, context.notes)
        print(f"{'FAILED' if why else 'ok':7}{test.__name__} {time.monotonic() - begun:.1f} s{': ' + why if why else ''}", flush=True)


def main():
    cluster, tests = Cluster(sys.argv[1]), found(sys.argv[2:])
    begun = time.monotonic()
    shared = prepare(cluster)
    print(f"prepared after {time.monotonic() - begun:.1f} s; {len(tests)} tests", flush=True)
    results, lock = {}, threading.Lock()
    # those that change settings of the whole cluster or measure it go alone, after the others
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(run, cluster, shared, test, results, lock) for test in tests if not getattr(test, "alone", False)]:
            done.result()
    for test in tests:
        if getattr(test, "alone", False):
            run(cluster, shared, test, results, lock)
    print()
    for test in tests:
        seconds, why, notes = results[test]
        more = "  (" + "; ".join(notes) + ")" if notes else ""
        print(f"{'FAILED' if why else 'ok':7}{seconds:6.1f} s  {test.__doc__.strip().splitlines()[0]}{more}")
    failed = [test for test in tests if results[test][1]]
    counted = sum("[Conformance]" in test.__doc__ for test in tests)
    print(f"\n{len(tests) - len(failed)} of {len(tests)} network behaviours hold ({counted} of them count for conformance upstream), "
          f"{time.monotonic() - begun:.0f} s")
    for test in failed:
        print(f"\nFAILED {test.__name__}\n  {results[test][1]}")
    sys.exit(bool(failed) or not tests)


main()
