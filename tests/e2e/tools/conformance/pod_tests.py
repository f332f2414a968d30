"""Pods that end and pods that take over: connections from and to terminating pods, blue and green with readiness gates."""
import threading
import time

from .context import STRATEGIC, Context, check, same, until


def test_to_terminating_pod(context: Context):
    """[sig-network] Connectivity Pod Lifecycle should be able to connect from a Pod to a terminating Pod"""
    address = context.pod("webserver", ("--http", "8080", "--linger", "60"), node=context.nodes[1][0], grace=60)["status"]["podIP"]
    context.answered_by(context.client(0), address, 8080, {"webserver"})
    context.delete_pod("webserver", wait=False)
    begun = time.monotonic()
    while time.monotonic() - begun < 5:
        for number in (0, 1):
            same("the terminating pod's answer", ["webserver"], context.http(context.client(number), address, 8080))
        time.sleep(0.5)
    check("it is terminating", context.get(context.core("pods", "webserver"))["metadata"].get("deletionTimestamp"))
    context.delete_pod("webserver", grace=0)


def test_from_terminating_pod(context: Context):
    """[sig-network] Connectivity Pod Lifecycle should be able to connect to other Pod from a terminating Pod"""
    context.pod("pause", ("--http", "8080", "--linger", "60"), node=context.nodes[0][0], grace=60)
    target = context.shared["pods"]["server-2"]["status"]["podIP"]
    service = context.service("server", [{"port": 80, "targetPort": 8080}])
    context.call("POST", context.slices_path(), {
        "metadata": {"name": "server", "labels": {"kubernetes.io/service-name": "server"}}, "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": [target]}]})
    context.answered_by("pause", target, 8080, {"server-2"})
    context.answered_by("pause", service["spec"]["clusterIP"], 80, {"server-2"})
    context.delete_pod("pause", wait=False)
    begun = time.monotonic()
    while time.monotonic() - begun < 5:
        same("the answer to a terminating pod", ["server-2"], context.http("pause", target, 8080))
        same("through a Service, by name", ["server-2"], context.http("pause", "server", 80))
        time.sleep(0.5)
    check("it is terminating", context.get(context.core("pods", "pause"))["metadata"].get("deletionTimestamp"))
    context.delete_pod("pause", grace=0)


GATE = "k8s.io/blue-green"


def test_blue_green(context: Context):
    """[sig-network] Connectivity Pod Lifecycle should be able to have zero downtime on a Blue Green deployment using Services and Readiness Gates"""
    address = context.service("blue-green-svc", [{"name": "http", "port": 80, "targetPort": 8080}], {"app": "blue-green"})["spec"]["clusterIP"]
    for name, (node, _) in zip(("blue", "green"), context.nodes):
        context.pod(name, ("--http", "8080"), {"app": "blue-green"}, node, wait=False, readinessGates=[{"conditionType": GATE}])
        path = context.core("pods", name)
        conditions = lambda: {one["type"]: one["status"] for one in context.get(path)["status"].get("conditions", [])}
        until(f"containers of {name} ready", lambda: conditions().get("ContainersReady") == "True", 60)
        same("not ready without its gate", "False", conditions()["Ready"])

    def gate(name, value):
        context.patch(context.core("pods", name) + "/status", {"status": {"conditions": [{"type": GATE, "status": value}]}}, STRATEGIC)
        wanted = value == "True"
        until(f"{name} ready: {wanted}", lambda: (name in {one for one, _ in context.sliced("blue-green-svc")}) == wanted)

    gate("blue", "True")
    context.answered_by(context.client(), address, 80, {"blue"})
    seen, ended = [], threading.Event()

    def go_on():
        while not ended.is_set():
            seen.extend(context.http(context.client(), address, 80, times=10, pause=0.01))

    caller = threading.Thread(target=go_on)
    caller.start()
    watch = context.watch(context.slices_path("blue-green-svc"), context.get(context.slices_path())["metadata"]["resourceVersion"])
    try:
        for old, new in (("blue", "green"), ("green", "blue"), ("blue", "green"), ("green", "blue")):
            gate(new, "True")
            gate(old, "False")
            context.answered_by(context.client(1), address, 80, {new})
            until(f"only {new} for the caller too", lambda: seen[-10:] == [new] * 10)
    finally:
        ended.set()
        caller.join()
    with watch.lock:
        pieces = [one["object"].get("endpoints") or [] for one in watch.events]
    ready = [" ".join(one["targetRef"]["name"] for one in piece if one["conditions"]["ready"]) or "none" for piece in pieces]
    lost = [one for one in seen if one not in ("blue", "green")]
    check(f"{len(lost)} of {len(seen)} calls failed: {lost[:5]}; ready were, one after the other: {ready}", not lost)
    context.notes.append(f"{len(seen)} calls, none lost")
