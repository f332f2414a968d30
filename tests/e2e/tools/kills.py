"""kill -9 of the server at random milliseconds, while every kind of step goes on.

An answered request is a fact that must be there after the restart; an unanswered one may have happened or not. What runs
must be the same process before and after; in the end everything that was asked for is there, once, and nothing else is.

    KLYNGE_KILL_ROUNDS=15  KLYNGE_KILL_SEED=<what a failed run printed>
"""
import os, random, shutil, signal, subprocess, sys, threading, time
from pathlib import Path
import machine
from cluster import Cluster, Unanswered

WORK, BINARY = Path(os.environ["WORK"]), os.environ["BINARY"]
DATA = WORK / "data"
NAMESPACE = sys.argv[1]
ROUNDS = int(os.environ.get("KLYNGE_KILL_ROUNDS", "15"))
SEED = int(os.environ.get("KLYNGE_KILL_SEED") or time.time_ns() % 1_000_000)
IMAGE = "klynge-test:1"
LABEL = {"made-by": "kills"}
CORE, APPS, BATCH = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/apps/v1/namespaces/{NAMESPACE}", \
    f"/apis/batch/v1/namespaces/{NAMESPACE}"
ABSENT = None


class Facts:
    """What each thing may be now: one value after an answer, two where a request broke off."""

    def __init__(self):
        self.allowed, self.lock, self.answered, self.unanswered = {}, threading.Lock(), 0, 0

    def known(self, key):
        """The value if it is certain, else the string `unsure`."""
        with self.lock:
            allowed = self.allowed.get(key, [ABSENT])
            return allowed[0] if len(allowed) == 1 else "unsure"

    def change(self, key, value, request):
        """Makes a request that brings `key` to `value`; it answers True, or False where it was refused."""
        with self.lock:
            before = list(self.allowed.get(key, [ABSENT]))
            self.allowed[key] = before + [value]
        try:
            done = request()
        except Unanswered:
            with self.lock:
                self.unanswered += 1
            raise
        with self.lock:
            self.answered += 1
            self.allowed[key] = [value] if done else before

    def compare(self, key, found):
        with self.lock:
            allowed = self.allowed.get(key, [ABSENT])
            if found not in allowed:
                return f"{key}: it is {found!r}, acknowledged or under way was {allowed!r}"
            self.allowed[key] = [found]
        return None


def accepted(answer, *fine):
    status, body = answer
    if status in fine:
        return True
    if status in (404, 409):  # a controller was faster, or our last try had happened
        return False
    raise Unanswered(f"{status} {body.get('message')}")


class Workload:
    """Threads that change things as fast as they are answered, each with a random sequence of its own."""

    def __init__(self, cluster, facts, steady):
        self.cluster, self.facts, self.steady = cluster, facts, steady
        self.go, self.ended, self.idle = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.errors, self.refused, self.jobs = [], {}, 0
        kinds = [self.configuration, self.configuration, self.deployments, self.images, self.executions, self.run_jobs,
                 self.services]
        self.threads = [threading.Thread(target=self.repeat, args=(kind, random.Random(f"{SEED} {index}")), daemon=True,
                                         name=str(index))
                        for index, kind in enumerate(kinds)]
        self.resting = 0
        self.count = threading.Condition()

    def repeat(self, step, dice):
        while not self.ended.is_set():
            if not self.go.is_set():
                with self.count:
                    self.resting += 1
                    self.count.notify_all()
                self.go.wait()
                with self.count:
                    self.resting -= 1
                continue
            try:
                step(dice)
            except Unanswered:
                time.sleep(0.02)
            except Exception as error:  # a mistake of this program must not look like a quiet worker
                self.errors.append(repr(error))
                return

    def start(self):
        for thread in self.threads:
            thread.start()

    def pause(self):
        self.go.clear()
        with self.count:
            if not self.count.wait_for(lambda: self.resting == len(self.threads) or self.errors, timeout=60):
                self.errors.append("a worker does not come to rest")
        if self.errors:
            raise SystemExit(f"the workload itself failed: {self.errors}")

    def configuration(self, dice):
        name = f"c-{threading.current_thread().name}-{dice.randrange(8)}"  # no two workers share a thing
        key, path = ("configmaps", name), f"{CORE}/configmaps/{name}"
        value = str(dice.randrange(1_000_000))
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": LABEL}, "data": {"v": value}}
        known = self.facts.known(key)
        if known is ABSENT:
            self.facts.change(key, value, lambda: accepted(self.cluster.request("POST", f"{CORE}/configmaps", body), 201))
        elif known == "unsure" or dice.random() < 0.5:
            patch = {"data": {"v": value}}
            self.facts.change(key, value, lambda: accepted(
                self.cluster.request("PATCH", path, patch, "application/merge-patch+json"), 200))
        elif dice.random() < 0.6:
            self.facts.change(key, value, lambda: accepted(self.cluster.request("PUT", path, body), 200))
        else:
            self.facts.change(key, ABSENT, lambda: accepted(self.cluster.request("DELETE", path), 200))

    def deployments(self, dice):
        name = f"d-{dice.randrange(3)}"
        key, path = ("deployments", name), f"{APPS}/deployments/{name}"
        known = self.facts.known(key)
        if known == "unsure":
            self.facts.change(key, ABSENT, lambda: accepted(self.cluster.request("DELETE", path), 200, 404))
        elif known is ABSENT:
            value = (dice.randrange(3), "0")
            self.facts.change(key, value, lambda: accepted(
                self.cluster.request("POST", f"{APPS}/deployments", deployment(name, *value)), 201))
        else:
            replicas, version = known
            choice = dice.random()
            if choice < 0.4:
                value = (dice.randrange(4), version)
                self.facts.change(key, value, lambda: accepted(self.cluster.request(
                    "PATCH", f"{path}/scale", {"spec": {"replicas": value[0]}}, "application/merge-patch+json"), 200))
            elif choice < 0.8:
                value = (replicas, str(int(version) + 1))
                patch = {"spec": {"template": {"spec": {"containers": [
                    {"name": "main", "env": [{"name": "VERSION", "value": value[1]}]}]}}}}
                self.facts.change(key, value, lambda: accepted(self.cluster.request(
                    "PATCH", path, patch, "application/strategic-merge-patch+json"), 200))
            else:
                self.facts.change(key, ABSENT, lambda: accepted(self.cluster.request("DELETE", path), 200))
        time.sleep(dice.uniform(0.05, 0.4))

    def services(self, dice):
        name = f"s-{dice.randrange(4)}"
        key, path = ("services", name), f"{CORE}/services/{name}"
        if self.facts.known(key) is ABSENT:
            body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": LABEL}, "spec": {
                "type": "NodePort", "selector": {"app": "steady"}, "ports": [{"port": 80, "targetPort": 8080}]}}
            self.facts.change(key, True, lambda: accepted(self.cluster.request("POST", f"{CORE}/services", body), 201))
        else:
            self.facts.change(key, ABSENT, lambda: accepted(self.cluster.request("DELETE", path), 200, 404))
        time.sleep(dice.uniform(0.02, 0.2))

    def run_jobs(self, dice):
        self.jobs += 1
        name = f"j-{self.jobs}"
        script = f"echo $HOSTNAME >> /ran/{name}; sleep 0.{dice.randrange(6)}"
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": LABEL}, "spec": {
            "backoffLimit": 0, "template": {"metadata": {"labels": LABEL}, "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script],
                                "volumeMounts": [{"name": "ran", "mountPath": "/ran"}]}],
                "volumes": [{"name": "ran", "hostPath": {"path": str(WORK / "ran")}}]}}}}
        self.facts.change(("jobs", name), True, lambda: accepted(self.cluster.request("POST", f"{BATCH}/jobs", body), 201))
        time.sleep(dice.uniform(0.2, 0.8))

    def command(self, *words):
        """A command line's exit code; one that could not reach the cluster counts as unanswered."""
        done = subprocess.run(words, capture_output=True, timeout=60, text=True)
        if done.returncode != 0:
            self.refused[done.stderr.strip()[-200:]] = self.refused.get(done.stderr.strip()[-200:], 0) + 1
            raise Unanswered(done.stderr)
        return done.stdout

    def images(self, dice):
        name = f"docker.io/library/kills-{dice.randrange(3)}:1"
        key = ("images", name)
        if self.facts.known(key) is ABSENT or dice.random() < 0.5:
            self.facts.change(key, True, lambda: bool(self.command(
                BINARY, "--data-dir", str(DATA), "image", "import", "--name", name, str(WORK / "kills.tar"))))
        else:
            self.facts.change(key, ABSENT, lambda: bool(self.command(
                BINARY, "--data-dir", str(DATA), "image", "rm", name)))
        time.sleep(dice.uniform(0, 0.1))

    def executions(self, dice):
        number = dice.randrange(1_000_000)

        def run():
            # kubectl takes a stream that breaks off for one that ended well: only the last word is an acknowledgement.
            if self.command(self.cluster.kubectl, "--kubeconfig", str(DATA / "kubeconfig"), "-n", NAMESPACE, "exec", "steady",
                            "--", "sh", "-c", f"echo {number} >> /tmp/lines; echo done").strip() != "done":
                raise Unanswered("the output broke off")
            return True

        self.facts.change(("lines", str(number)), True, run)


def deployment(name, replicas, version):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": LABEL}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name, **LABEL}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": IMAGE, "command": ["sleep", "100000"],
                 "env": [{"name": "VERSION", "value": version}]}]}}}}


class Test:
    def __init__(self):
        self.cluster = Cluster(DATA / "kubeconfig")
        self.facts = Facts()
        self.dice = random.Random(SEED)
        self.kills = self.locked = 0
        self.up_seconds = []
        self.steady = {}
        self.workload = Workload(self.cluster, self.facts, self.steady)

    def eventually(self, seconds, problems):
        """Waits until `problems()` finds none; says the last ones otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = problems()
            except Unanswered as error:
                found = [str(error)]
            if not found:
                return
            if time.monotonic() > deadline:
                raise SystemExit("\n".join(["never came true:"] + found[:20]))
            time.sleep(0.1)

    def up(self):
        """The server again. Where the dying one still holds the store, `up` waits for it."""
        begun = time.monotonic()
        for attempt in range(20):
            done = subprocess.run([BINARY, "--data-dir", str(DATA), "up"], capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                self.up_seconds.append(time.monotonic() - begun)
                self.cluster.disconnect()
                return
            if "in use" not in done.stderr:
                raise SystemExit(f"`klynge up` failed after a kill: {done.stderr}")
            self.locked += 1
            time.sleep(0.1)
        raise SystemExit("the store stays locked after a kill")

    def kill(self):
        os.kill(int((DATA / "server.pid").read_text()), signal.SIGKILL)
        self.kills += 1

    def kill_while_it_starts(self, delay):
        """`up` in the background; its server is killed `delay` seconds after it has a process id."""
        old = (DATA / "server.pid").read_text()
        starting = subprocess.Popen([BINARY, "--data-dir", str(DATA), "up"], stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while (new := (DATA / "server.pid").read_text() or old) == old and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        if new != old:
            try:
                self.kill()
            except ProcessLookupError:
                pass  # it had ended by itself: the next start says why
        starting.wait(90)

    def begin(self):
        shutil.rmtree(WORK / "ran", ignore_errors=True)
        (WORK / "ran").mkdir()
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "steady", "labels": {"app": "steady"}}, "spec": {
            "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": IMAGE, "command": [
                    "sh", "-c", "httpd -p 8080 -h /www; i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"]},
                {"name": "other", "image": IMAGE, "command": ["sleep", "100000"]}]}}
        body = deployment("steady", 2, "0")
        del body["metadata"]["labels"], body["spec"]["template"]["metadata"]["labels"]["made-by"]
        for path, what in ((f"{CORE}/pods", pod), (f"{APPS}/deployments", body), (f"{CORE}/services", {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "steady"},
                "spec": {"selector": {"app": "steady"}, "ports": [{"port": 80, "targetPort": 8080}]}})):
            status, answer = self.cluster.request("POST", path, what)
            if status != 201:
                raise SystemExit(f"POST {path}: {status} {answer}")
        self.eventually(60, lambda: [] if len(self.ready_pods()) == 3 else ["the steady pods are not ready"])
        self.group = machine.cluster_group(machine.shims(DATA)[0])
        groups = machine.pod_groups(self.group)
        self.before["groups"] = set(groups) - {pod["metadata"]["uid"] for pod in self.ready_pods()}
        for pod in self.ready_pods():
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            self.steady[name] = (uid, {one: at for one, at in machine.processes_of(groups[uid]).items()
                                       if Path(f"/proc/{one}/comm").read_text().strip() != "sleep"
                                       or name != "steady" or "100000" in Path(f"/proc/{one}/cmdline").read_text()})
            if not self.steady[name][1]:
                raise SystemExit(f"no processes of {name} were found below {groups[uid]}")

    def ready_pods(self):
        pods = self.cluster.items(f"{CORE}/pods?labelSelector=app%3Dsteady")
        return [pod for pod in pods if any(one["type"] == "Ready" and one["status"] == "True"
                                           for one in pod["status"].get("conditions", []))]

    def untouched(self):
        """The steady containers are the same processes, whatever the server does."""
        problems = []
        groups = machine.pod_groups(self.group)
        for name, (uid, before) in self.steady.items():
            now = machine.processes_of(groups[uid]) if uid in groups else {}
            for one, at in before.items():
                if now.get(one) != at:
                    problems.append(f"{name}: process {one} started at {at} is gone or another")
        return problems

    def facts_hold(self):
        """Everything that was acknowledged is there."""
        found = {("configmaps", one["metadata"]["name"]): one["data"]["v"]
                 for one in self.cluster.items(f"{CORE}/configmaps?labelSelector=made-by%3Dkills")}
        for one in self.cluster.items(f"{APPS}/deployments?labelSelector=made-by%3Dkills"):
            version = one["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
            found["deployments", one["metadata"]["name"]] = (one["spec"]["replicas"], version)
        for kind, path in (("jobs", f"{BATCH}/jobs"), ("services", f"{CORE}/services")):
            for one in self.cluster.items(f"{path}?labelSelector=made-by%3Dkills"):
                found[kind, one["metadata"]["name"]] = True
        listed = subprocess.run([BINARY, "--data-dir", str(DATA), "image", "ls", "-o", "name"], check=True,
                                capture_output=True, text=True, timeout=30).stdout
        for name in listed.split():
            if "/kills-" in name:
                found["images", name] = True
        # Where a process of the pod sees the file, whatever the server does.
        one = next(iter(self.steady["steady"][1]))
        for name in machine.processes_of(machine.pod_groups(self.group)[self.steady["steady"][0]]):
            path = Path(f"/proc/{name}/root/tmp/lines")
            if path.exists():
                one = name
        lines = Path(f"/proc/{one}/root/tmp/lines")
        for line in lines.read_text().split() if lines.exists() else []:
            found["lines", line] = True
        keys = set(found) | set(self.facts.allowed)
        return [problem for key in sorted(keys) if (problem := self.facts.compare(key, found.get(key, ABSENT)))]

    def no_restarts(self):
        problems = []
        for pod in self.cluster.items(f"{CORE}/pods"):
            for one in pod["status"].get("containerStatuses", []):
                if one["restartCount"] != 0:
                    problems.append(f"{pod['metadata']['name']}: container {one['name']} restarted {one['restartCount']} times")
        if len(self.ready_pods()) != 3:
            problems.append("the steady pods are not ready any more")
        return problems

    def converged(self):
        """Everything is as asked for, by the API and in the kernel."""
        problems, pods, wanted = [], self.cluster.items(f"{CORE}/pods"), 3
        for one in self.cluster.items(f"{APPS}/deployments"):
            name, spec, status = one["metadata"]["name"], one["spec"], one["status"]
            counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")]
            if counts != [spec["replicas"]] * 4 or status["observedGeneration"] != one["metadata"]["generation"]:
                problems.append(f"deployment {name}: wants {spec['replicas']}, has {counts}")
            wanted += spec["replicas"] if name != "steady" else 0
        for one in self.cluster.items(f"{BATCH}/jobs"):
            if one["status"].get("succeeded") != 1 or one["status"].get("failed", 0) != 0:
                problems.append(f"job {one['metadata']['name']}: {one['status']}")
        alive = [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
        if len(alive) != wanted:
            problems.append(f"{wanted} pods are wanted, there are {[pod['metadata']['name'] for pod in alive]}")
        return problems + self.kernel_holds({pod["metadata"]["uid"] for pod in alive})

    def kernel_holds(self, uids):
        """Shims, interfaces, groups and nftables elements of exactly these pods, beside what there was before."""
        problems = []
        for what, count in (("shims", len(machine.shims(DATA))), ("interfaces", len(machine.interfaces())),
                            ("routes", len(machine.routes()))):
            if count != len(uids) + self.before[what]:
                problems.append(f"{what}: {count}, expected {len(uids)} and {self.before[what]} from before")
        groups = {uid for uid, group in machine.pod_groups(self.group).items() if machine.processes_of(group)}
        if groups - self.before["groups"] != uids:
            problems.append(f"groups with processes: {sorted(groups)}, expected {sorted(uids)}")
        # A pod's volumes in memory are there exactly as long as it is.
        others = [one for one in machine.mounts(DATA) if not any(f"/pods/{uid}/" in one for uid in uids)]
        if others != self.before["mounts"]:
            problems.append(f"mounts: {others}, before {self.before['mounts']}")
        return problems

    def jobs_ran_once(self):
        problems = []
        for (kind, name), allowed in self.facts.allowed.items():
            if kind == "jobs" and allowed == [True]:
                ran = (WORK / "ran" / name).read_text().split() if (WORK / "ran" / name).exists() else []
                if len(ran) != 1:
                    problems.append(f"job {name} ran {len(ran)} times: {ran}")
        return problems

    def put_away(self):
        for path in (f"{APPS}/deployments", f"{BATCH}/jobs", f"{CORE}/pods"):
            self.cluster.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1",
                                                  "propagationPolicy": "Background", "gracePeriodSeconds": 0})
        for one in self.cluster.items(f"{CORE}/services"):
            self.cluster.request("DELETE", f"{CORE}/services/{one['metadata']['name']}")
        self.eventually(60, lambda: [f"{len(left)} pods stay"] if (left := self.cluster.items(f"{CORE}/pods")) else [])
        self.eventually(30, lambda: self.kernel_holds(set()) + [
            f"group {uid} stays" for uid in set(machine.pod_groups(self.group)) - self.before["groups"]] + [
            f"nftables {name}: {now}, before {self.before['nft'].get(name)}"
            for name, now in machine.nft_elements().items() if now != self.before["nft"].get(name)
            # verdicts by the shape of Services, shared and kept for the next one of that shape
            and not name.endswith(("-actions", "-alternates"))] + [
            f"{path} stays" for path in self.directories() - self.before["directories"]])

    def directories(self):
        """What agent and runtime keep of pods on the disk."""
        kept = (DATA / "agent" / "pods", DATA / "agent" / "run" / "pods", DATA / "agent" / "checkpoints")
        return {f"{path}/{name}" for path in kept if path.exists() for name in os.listdir(path)}

    def run(self):
        print(f"seed {SEED}, {ROUNDS} rounds", flush=True)
        begun = time.monotonic()
        # What other tests left may end while it is counted.
        self.eventually(90, lambda: [f"{pod['metadata']['name']} still ends" for pod in self.cluster.items("/api/v1/pods")
                                     if "deletionTimestamp" in pod["metadata"]])
        self.before = {"shims": len(machine.shims(DATA)), "interfaces": len(machine.interfaces()), "groups": set(),
                       "routes": len(machine.routes()), "mounts": machine.mounts(DATA), "nft": machine.nft_elements(),
                       "directories": self.directories()}
        self.begin()
        self.workload.start()
        for number in range(1, ROUNDS + 1):
            self.workload.go.set()
            delay = self.dice.uniform(0, 1.5)
            time.sleep(delay)
            self.kill()
            starts = []
            if self.dice.random() < 0.4:
                starts = [self.dice.choice([0, 0.02, 0.1, 0.4]) * self.dice.random() for _ in range(self.dice.choice([1, 1, 2]))]
                for start in starts:
                    self.kill_while_it_starts(start)
            self.workload.pause()
            problems = self.untouched()
            self.up()
            problems += self.untouched() + self.facts_hold() + self.no_restarts()
            print(f"round {number}: killed after {delay * 1000:.0f} ms" +
                  "".join(f", again {start * 1000:.0f} ms into the start" for start in starts) +
                  f"; up in {self.up_seconds[-1]:.2f} s; {self.facts.answered} acknowledged, "
                  f"{self.facts.unanswered} broken off", flush=True)
            if problems:
                raise SystemExit("\n".join([f"round {number}, seed {SEED}:"] + problems[:20]))
        self.workload.ended.set()
        self.workload.go.set()
        # A job that was asked for without an answer may be there; compare() has found that out above.
        self.eventually(60, self.converged)
        problems = self.jobs_ran_once() + self.untouched() + self.no_restarts() + self.facts_hold()
        if problems:
            raise SystemExit("\n".join([f"in the end, seed {SEED}:"] + problems[:20]))
        self.put_away()
        print(f"{self.kills} kills in {ROUNDS} rounds, {time.monotonic() - begun:.0f} s; {self.facts.answered} requests "
              f"acknowledged and kept; `up` {min(self.up_seconds):.2f} to {max(self.up_seconds):.2f} s; "
              f"the lock was held {self.locked} times")


Test().run()
