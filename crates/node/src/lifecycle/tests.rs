//! Lifecycle tables: a pod, a script of events, and the world that has to come out.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;
use std::sync::Arc;

struct Bench {
    state: PodState,
    now: Timestamp,
    /// What was asked for and not answered yet.
    open: Vec<Action>,
    reports: Vec<String>,
    signals: Vec<(String, Signal)>,
    finished: bool,
    cleaned: bool,
    starts: Vec<String>,
    serial: u32,
}

fn pod(spec: serde_json::Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u1", "generation": 1}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

impl Bench {
    fn new(spec: serde_json::Value) -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = pod(spec);
        let state = PodState::new(Arc::clone(&pod), now);
        let mut bench = Bench {
            state,
            now,
            open: Vec::new(),
            reports: Vec::new(),
            signals: Vec::new(),
            finished: false,
            cleaned: false,
            starts: Vec::new(),
            serial: 0,
        };
        bench.tell(Event::Changed(pod));
        bench
    }

    fn tell(&mut self, event: Event) {
        let (state, actions) = step(self.state.clone(), event, self.now);
        // A checkpoint has to hold everything: each state goes through it.
        self.state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(self.state, state, "the checkpoint lost something");
        for action in actions {
            match action {
                Action::Report(report) => self.reports.push(format!("{}: {}", report.reason, report.message)),
                Action::Signal { container, signal, .. } => self.signals.push((container, signal)),
                Action::FinishDeletion => self.finished = true,
                Action::CleanUp => self.cleaned = true,
                Action::RemoveContainer { .. } => {}
                Action::Start { container, attempt } => {
                    self.starts.push(format!("{container}/{attempt}"));
                    self.open.push(Action::Start { container, attempt });
                }
                other => self.open.push(other),
            }
        }
    }

    /// Answers everything that has an obvious good answer, until nothing is left; probes and hooks stay open.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let at =
                self.open.iter().position(|action| !matches!(action, Action::Probe { .. } | Action::RunHook { .. }));
            let Some(at) = at else { return };
            let event = match self.open.remove(at) {
                Action::PrepareVolumes => Event::VolumesReady,
                Action::CreateSandbox => Event::SandboxReady { pid: 7, addresses: vec!["10.0.0.2".parse().unwrap()] },
                Action::DestroySandbox => Event::SandboxDestroyed,
                Action::EnsureImage { container } => {
                    Event::ImageReady { container, id: "i@sha256:1".into(), pulled: None }
                }
                Action::Start { container, .. } => {
                    self.serial += 1;
                    Event::Started { id: format!("{container}-{}", self.serial), container, started_at: self.now }
                }
                other => panic!("no answer for {other:?}"),
            };
            self.tell(event);
        }
        panic!("the machine does not come to rest");
    }

    fn pass(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        for _ in 0..10_000 {
            match next_wake(&self.state) {
                Some(at) if at <= end => {
                    self.now = at.max(self.now);
                    self.tell(Event::Woken);
                    self.settle();
                }
                _ => break,
            }
        }
        self.now = end;
        self.tell(Event::Woken);
        self.settle();
    }

    fn exit(&mut self, name: &str, code: i32) {
        self.tell_exit(name, code);
        self.settle();
    }

    fn tell_exit(&mut self, name: &str, code: i32) {
        let container = self.state.container(name).unwrap();
        let Phase::Running(running) = &container.phase else { panic!("{name} does not run: {:?}", container.phase) };
        let exit = Exit {
            id: running.id.clone(),
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            message: String::new(),
            started_at: Some(running.started_at),
            finished_at: self.now,
        };
        self.tell(Event::Exited { container: name.into(), exit });
    }

    fn probe(&mut self, kind: ProbeKind, outcome: Outcome) {
        let at =
            self.open.iter().position(|action| matches!(action, Action::Probe { kind: open, .. } if *open == kind));
        let at = at.unwrap_or_else(|| panic!("no {kind:?} probe is open: {:?}", self.open));
        let Action::Probe { container, id, kind } = self.open.remove(at) else { panic!() };
        self.tell(Event::Probed { container, id, kind, outcome });
        self.settle();
    }

    fn hook(&mut self, outcome: Outcome) {
        let at = self.open.iter().position(|action| matches!(action, Action::RunHook { .. })).unwrap();
        let Action::RunHook { container, id, hook, .. } = self.open.remove(at) else { panic!() };
        self.tell(Event::HookDone { container, id, hook, outcome });
        self.settle();
    }

    fn delete(&mut self, grace: i64) {
        let mut pod = (*self.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.tell(Event::Changed(Arc::new(pod)));
        self.settle();
    }

    fn status(&self) -> PodStatus {
        status(&self.state, &NodeAddresses(vec!["192.0.2.1".parse().unwrap()]))
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let condition =
            self.status().conditions.unwrap().into_iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default())
    }

    fn shown(&self, name: &str) -> (String, String, i32) {
        let status = self.status();
        let all = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let one = all.into_iter().flatten().flatten().find(|status| status.name == name).unwrap();
        let state = one.state.unwrap();
        let (kind, reason) = match (state.waiting, state.running, state.terminated) {
            (Some(waiting), None, None) => ("waiting", waiting.reason.unwrap_or_default()),
            (None, Some(_), None) => ("running", String::new()),
            (None, None, Some(terminated)) => ("terminated", terminated.reason.unwrap_or_default()),
            other => panic!("exactly one state: {other:?}"),
        };
        (kind.into(), reason, one.restart_count)
    }
}

fn running(restarts: i32) -> (String, String, i32) {
    ("running".into(), String::new(), restarts)
}

fn waits(reason: &str, restarts: i32) -> (String, String, i32) {
    ("waiting".into(), reason.into(), restarts)
}

#[test]
fn a_plain_pod_runs_and_is_deleted_gracefully() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "busybox"}]}));
    assert_eq!(bench.phase(), "Pending");
    assert_eq!(bench.shown("a"), waits("ContainerCreating", 0));
    bench.settle();
    assert_eq!((bench.phase().as_str(), bench.shown("a")), ("Running", running(0)));
    assert_eq!(bench.condition("Ready").0, "True");
    let status = bench.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.observed_generation, Some(1));
    assert!(status.container_statuses.unwrap()[0].container_id.as_deref().unwrap().starts_with("klynge://"));
    assert_eq!(
        bench.reports,
        [
            "Pulled: Container image \"busybox\" already present on machine and can be accessed by the pod",
            "Created: Created container: a",
            "Started: Started container a"
        ]
    );
    bench.delete(30);
    assert_eq!(bench.signals, [("a".to_owned(), Signal::Stop)]);
    bench.pass(29);
    assert_eq!(bench.signals.len(), 1);
    bench.pass(1);
    assert_eq!(bench.signals[1], ("a".to_owned(), Signal::Kill));
    assert!(!bench.finished);
    bench.exit("a", 137);
    assert!(bench.finished && bench.cleaned);
    assert_eq!(bench.phase(), "Failed");
    assert_eq!(next_wake(&bench.state), None);
}

#[test]
fn restarts_back_off_from_ten_seconds_to_five_minutes_and_are_forgotten() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}]}));
    bench.settle();
    bench.exit("a", 1);
    assert_eq!(bench.shown("a"), running(1), "the first restart comes at once");
    let mut restarts = 1;
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        bench.pass(1);
        bench.exit("a", 1);
        assert_eq!(bench.shown("a"), waits("CrashLoopBackOff", restarts), "before {wait} s");
        assert_eq!(bench.phase(), "Running");
        bench.pass(wait - 1);
        assert_eq!(bench.shown("a"), waits("CrashLoopBackOff", restarts), "just before {wait} s");
        bench.pass(1);
        restarts += 1;
        assert_eq!(bench.shown("a"), running(restarts), "after {wait} s");
    }
    assert!(bench.reports.contains(&"BackOff: Back-off restarting failed container a in pod p_d(u1)".to_owned()));
    bench.pass(700);
    bench.exit("a", 1);
    assert_eq!(bench.shown("a"), running(restarts + 1), "ten quiet minutes reset the back-off");
}

#[test]
fn policies_decide_the_end() {
    // (policy, code, phase, restarts)
    let cases = [
        ("Never", 0, "Succeeded", 0),
        ("Never", 3, "Failed", 0),
        ("OnFailure", 0, "Succeeded", 0),
        ("OnFailure", 1, "Running", 1),
        ("Always", 0, "Running", 1),
    ];
    for (policy, code, phase, restarts) in cases {
        let mut bench = Bench::new(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "b"}]}));
        bench.settle();
        bench.exit("a", code);
        assert_eq!((bench.phase().as_str(), bench.shown("a").2), (phase, restarts), "{policy} {code}");
        assert_eq!(bench.cleaned, phase != "Running", "{policy} {code}");
        if phase == "Succeeded" {
            assert_eq!(bench.condition("Ready"), ("False".into(), "PodCompleted".into(), String::new()));
        }
        if bench.cleaned {
            bench.delete(30);
            assert!(bench.finished, "an ended pod goes at once");
        }
    }
}

#[test]
fn a_container_s_own_rules_win_over_the_pod_s_policy() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let containers = json!([{"name": "a", "image": "b", "restartPolicy": "Never", "restartPolicyRules": rules}]);
    let mut bench = Bench::new(json!({"restartPolicy": "Always", "containers": containers}));
    bench.settle();
    bench.exit("a", 42);
    assert_eq!(bench.shown("a"), running(1));
    bench.exit("a", 1);
    assert_eq!(bench.phase(), "Failed");
}

#[test]
fn init_containers_run_in_order_and_sidecars_end_last_in_reverse() {
    let mut bench = Bench::new(json!({
        "initContainers": [
            {"name": "i1", "image": "b"},
            {"name": "s1", "image": "b", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}},
            {"name": "s2", "image": "b", "restartPolicy": "Always"},
            {"name": "i2", "image": "b"}
        ],
        "containers": [{"name": "a", "image": "b"}]
    }));
    bench.settle();
    assert_eq!(bench.starts, ["i1/0"]);
    assert_eq!(bench.shown("a"), waits("PodInitializing", 0));
    let message = "containers with incomplete status: [i1 s1 s2 i2]";
    assert_eq!(bench.condition("Initialized"), ("False".into(), "ContainersNotInitialized".into(), message.into()));
    bench.exit("i1", 1);
    assert_eq!(bench.shown("i1"), running(1), "an init container is tried again");
    bench.exit("i1", 0);
    assert_eq!(bench.starts, ["i1/0", "i1/1", "s1/0"]);
    bench.pass(0);
    bench.probe(ProbeKind::Startup, Ok(()));
    assert_eq!(bench.starts[3..], ["s2/0", "i2/0"]);
    bench.exit("i2", 0);
    assert_eq!((bench.phase().as_str(), bench.shown("a")), ("Running", running(0)));
    assert_eq!(bench.condition("Initialized").0, "True");
    bench.exit("s2", 0);
    assert_eq!(bench.shown("s2"), running(1), "a sidecar runs as long as the pod");
    assert_eq!(bench.shown("i2").0, "terminated");
    bench.delete(10);
    assert_eq!(bench.signals, [("a".to_owned(), Signal::Stop)]);
    bench.exit("a", 0);
    assert_eq!(bench.signals.last().unwrap().0, "s2");
    bench.exit("s2", 0);
    assert_eq!(bench.signals.last().unwrap().0, "s1");
    bench.exit("s1", 143);
    assert!(bench.finished);
    assert_eq!(bench.phase(), "Succeeded");
}

#[test]
fn a_failed_init_container_of_a_pod_that_never_restarts_fails_the_pod() {
    let mut bench = Bench::new(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "b"}], "containers": [{"name": "a", "image": "b"}]}));
    bench.settle();
    bench.exit("i", 2);
    assert_eq!(bench.phase(), "Failed");
    assert_eq!(bench.starts, ["i/0"]);
    assert!(bench.cleaned && bench.state.torn_down);
    assert_eq!(bench.shown("a"), waits("PodInitializing", 0));
    let message = "containers with incomplete status: [i]";
    assert_eq!(bench.condition("Initialized"), ("False".into(), "ContainersNotInitialized".into(), message.into()));
}

#[test]
fn images_that_cannot_be_had_are_tried_again_more_and_more_seldom() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "nope"}]}));
    let fail = |bench: &mut Bench, reason: &str| {
        let at = bench.open.iter().position(|action| matches!(action, Action::EnsureImage { .. }));
        bench.open.remove(at.unwrap_or_else(|| panic!("no pull is open")));
        bench.tell(Event::ImageFailed { container: "a".into(), reason: reason.into(), message: "not there".into() });
    };
    let pulls = |bench: &Bench| bench.open.iter().filter(|action| matches!(action, Action::EnsureImage { .. })).count();
    let wake = |bench: &mut Bench, seconds: i64| {
        bench.now += SignedDuration::from_secs(seconds);
        bench.tell(Event::Woken);
    };
    (0..2).for_each(|_| bench.settle_one());
    fail(&mut bench, "ErrImagePull");
    assert_eq!(bench.shown("a"), waits("ErrImagePull", 0));
    wake(&mut bench, 1);
    assert_eq!(bench.shown("a"), waits("ImagePullBackOff", 0));
    wake(&mut bench, 8);
    assert_eq!(pulls(&bench), 0);
    wake(&mut bench, 1);
    assert_eq!(pulls(&bench), 1);
    fail(&mut bench, "ErrImagePull");
    wake(&mut bench, 19);
    assert_eq!(pulls(&bench), 0);
    wake(&mut bench, 1);
    assert_eq!(pulls(&bench), 1);
    assert!(bench.reports.contains(&"Failed: Failed to pull image \"nope\": not there".to_owned()));
    assert!(bench.reports.contains(&"BackOff: Back-off pulling image \"nope\"".to_owned()));
    fail(&mut bench, "ErrImageNeverPull");
    wake(&mut bench, 2);
    assert_eq!(bench.shown("a"), waits("ErrImageNeverPull", 0), "this one does not turn into a back-off");
}

#[test]
fn probes_follow_their_thresholds() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b",
        "startupProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 3},
        "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 5, "failureThreshold": 2, "terminationGracePeriodSeconds": 4},
        "readinessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 2, "successThreshold": 2, "initialDelaySeconds": 3}}]}));
    bench.settle();
    assert_eq!(bench.open.len(), 1, "only the startup probe runs at first: {:?}", bench.open);
    bench.probe(ProbeKind::Startup, Err("no".into()));
    let started = |bench: &Bench| bench.status().container_statuses.unwrap()[0].started;
    assert_eq!(started(&bench), Some(false));
    bench.pass(1);
    bench.probe(ProbeKind::Startup, Ok(()));
    assert_eq!(started(&bench), Some(true));
    assert_eq!(bench.condition("Ready").2, "containers with unready status: [a]");
    bench.pass(2);
    bench.probe(ProbeKind::Readiness, Ok(()));
    assert_eq!(bench.condition("Ready").0, "False", "one success is not two");
    bench.pass(2);
    bench.probe(ProbeKind::Readiness, Ok(()));
    assert_eq!(bench.condition("Ready").0, "True");
    bench.probe(ProbeKind::Liveness, Err("dead".into()));
    bench.pass(5);
    assert!(bench.signals.is_empty());
    bench.probe(ProbeKind::Liveness, Err("dead".into()));
    assert_eq!(bench.signals, [("a".to_owned(), Signal::Stop)]);
    assert!(bench.reports.contains(&"Unhealthy: Liveness probe failed: dead".to_owned()));
    assert!(bench.reports.contains(&"Killing: Container a failed liveness probe, will be restarted".to_owned()));
    bench.open.clear();
    bench.pass(4);
    assert_eq!(bench.signals[1].1, Signal::Kill, "the probe's own grace counts");
    bench.exit("a", 137);
    assert_eq!(bench.shown("a"), running(1));
    assert_eq!(bench.condition("Ready").0, "False", "a new run begins unready");
}

#[test]
fn hooks_hold_back_what_comes_after_them() {
    let mut bench = Bench::new(json!({"containers": [
        {"name": "a", "image": "b", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}, "preStop": {"sleep": {"seconds": 5}}}},
        {"name": "c", "image": "b"}]}));
    bench.settle();
    assert_eq!(bench.starts, ["a/0"], "the second waits for the first one's hook");
    bench.hook(Ok(()));
    assert_eq!(bench.starts, ["a/0", "c/0"]);
    bench.delete(10);
    assert_eq!(bench.signals, [("c".to_owned(), Signal::Stop)]);
    bench.pass(9);
    bench.hook(Ok(()));
    assert_eq!(bench.signals[1], ("a".to_owned(), Signal::Stop));
    bench.exit("c", 0);
    bench.pass(2);
    assert_eq!(bench.signals.last().unwrap(), &("a".to_owned(), Signal::Kill), "at least two seconds after the hook");
    bench.exit("a", 137);
    assert!(bench.finished);
}

#[test]
fn deadlines_evictions_and_rejections_fail_the_pod_with_their_reason() {
    let spec = json!({"activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 5, "containers": [{"name": "a", "image": "b"}]});
    let mut bench = Bench::new(spec.clone());
    bench.settle();
    bench.pass(60);
    assert_eq!(bench.signals, [("a".to_owned(), Signal::Stop)]);
    bench.exit("a", 143);
    assert_eq!((bench.phase().as_str(), bench.status().reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
    let mut bench = Bench::new(spec);
    bench.settle();
    bench.tell(Event::Failed(
        Terminal { disrupted: true, ..Terminal::new("Evicted", "The node was low on resource: memory. ".into()) },
        0,
    ));
    assert_eq!(bench.signals, [("a".to_owned(), Signal::Kill)]);
    bench.exit("a", 137);
    assert_eq!((bench.phase().as_str(), bench.status().reason.as_deref()), ("Failed", Some("Evicted")));
    let conditions = bench.status().conditions.unwrap();
    let target: Vec<_> = conditions.iter().filter(|one| one.type_ == "DisruptionTarget").collect();
    assert!(target.len() == 1 && target[0].last_transition_time.is_some(), "{target:?}");
    assert_eq!(target[0].reason.as_deref(), Some("TerminationByKubelet"));
    assert_eq!(target[0].message.as_deref(), Some("The node was low on resource: memory. "));
    assert!(bench.cleaned && !bench.finished, "the object stays until someone deletes it");
}

#[test]
fn a_restarted_agent_goes_on_with_what_runs() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}, {"name": "c", "image": "b"}]}));
    bench.settle();
    let (a, c) = (bench.state.container("a").unwrap().clone(), bench.state.container("c").unwrap().clone());
    let (Phase::Running(a), Phase::Running(c)) = (a.phase, c.phase) else { panic!() };
    let exit = Exit {
        id: c.id.clone(),
        code: 1,
        reason: "Error".into(),
        message: String::new(),
        started_at: None,
        finished_at: bench.now,
    };
    bench.tell(Event::Recovered {
        sandbox: Some((9, Vec::new())),
        containers: vec![
            RecoveredContainer { name: "a".into(), id: a.id.clone(), started_at: a.started_at, exit: None },
            RecoveredContainer { name: "c".into(), id: c.id, started_at: c.started_at, exit: Some(exit) },
        ],
    });
    bench.settle();
    assert_eq!((bench.shown("a"), bench.shown("c")), (running(0), running(1)));
    assert_eq!(bench.state.sandbox, Sandbox::Ready { pid: 9, addresses: vec!["10.0.0.2".parse().unwrap()] });
    bench.tell(Event::Recovered { sandbox: None, containers: Vec::new() });
    bench.settle();
    assert_eq!(bench.shown("a").2, 1, "a lost sandbox is made again and its containers restart");
    let last = bench.status().container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
}

#[test]
fn a_lost_sandbox_is_cleared_away_made_anew_and_initialised_again() {
    let spec = json!({"initContainers": [{"name": "i", "image": "b"}, {"name": "s", "image": "b", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "b"}, {"name": "c", "image": "b"}]});
    let mut bench = Bench::new(spec);
    bench.settle();
    bench.exit("i", 0);
    assert_eq!(bench.starts, ["i/0", "s/0", "a/0", "c/0"]);
    bench.tell(Event::SandboxLost);
    assert_eq!(bench.open, [Action::DestroySandbox], "nothing else before what is left is gone");
    assert_eq!(bench.reports.iter().filter(|report| report.starts_with("SandboxChanged")).count(), 1);
    bench.tell_exit("a", 137);
    bench.tell_exit("s", 137);
    bench.tell(Event::SandboxLost);
    let sandbox = |action: &&Action| matches!(action, Action::DestroySandbox | Action::CreateSandbox);
    assert_eq!(bench.open.iter().filter(sandbox).count(), 1, "a loss is told once");
    bench.settle();
    assert_eq!(bench.starts[4..], ["i/1"], "what has not told its end has ended with the sandbox");
    assert_eq!((bench.phase().as_str(), bench.condition("Initialized").0.as_str()), ("Running", "True"));
    bench.exit("i", 0);
    assert_eq!(bench.starts[5..], ["s/1", "a/1", "c/1"]);
    assert!(!bench.state.reinitializing);
    // A start that meets the loss is no failure of the container, and waits for the new sandbox.
    let mut bench = Bench::new(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}));
    bench.fail_start(StartFailure::SandboxLost);
    assert_eq!(bench.open, [Action::DestroySandbox]);
    assert_eq!(bench.shown("a"), waits("ContainerCreating", 0));
    bench.settle();
    assert_eq!(bench.shown("a"), running(0));
    assert!(!bench.reports.iter().any(|report| report.starts_with("Failed")), "{:?}", bench.reports);
}

#[test]
fn a_sandbox_that_an_ended_agent_left_half_made_is_made_anew() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}]}));
    bench.settle_one();
    assert!(bench.open.contains(&Action::CreateSandbox));
    bench.open.clear(); // what was under way ended with the agent
    bench.tell(Event::Recovered { sandbox: Some((9, Vec::new())), containers: Vec::new() });
    assert!(bench.open.contains(&Action::DestroySandbox) && !bench.open.contains(&Action::CreateSandbox));
    bench.settle();
    assert_eq!(bench.shown("a"), running(0));
    assert_eq!(bench.state.sandbox, Sandbox::Ready { pid: 7, addresses: vec!["10.0.0.2".parse().unwrap()] });
    // One whose making was over stays, also without containers.
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}]}));
    bench.settle();
    bench.tell(Event::Recovered { sandbox: Some((7, Vec::new())), containers: Vec::new() });
    assert!(!bench.open.contains(&Action::DestroySandbox));
}

#[test]
fn what_cannot_be_configured_waits_for_the_missing_object() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}]}));
    while let Some(at) = bench.open.iter().position(|action| !matches!(action, Action::Start { .. })) {
        let rest: Vec<Action> = bench.open.drain(..).collect();
        bench.open = vec![rest[at].clone()];
        bench.settle_one();
        let mut rest = rest;
        rest.remove(at);
        bench.open.extend(rest);
    }
    bench.open.clear();
    let message = "configmap \"x\" not found".to_owned();
    bench.tell(Event::StartFailed { container: "a".into(), failure: StartFailure::Configuration, message });
    assert_eq!(bench.shown("a"), waits("CreateContainerConfigError", 0));
    assert!(bench.reports.contains(&"Failed: Error: configmap \"x\" not found".to_owned()));
    bench.tell(Event::ReferencesChanged);
    bench.settle();
    assert_eq!(bench.shown("a"), running(0));
    assert_eq!(bench.state.container("a").unwrap().restart_count, 0, "a start that never was is no restart");
}

impl Bench {
    /// Answers what is open until a start is, then says how this start failed.
    fn fail_start(&mut self, failure: StartFailure) {
        while let Some(at) = self.open.iter().position(|action| !matches!(action, Action::Start { .. })) {
            let action = self.open.remove(at);
            self.open.insert(0, action);
            self.settle_one();
        }
        let Some(Action::Start { container, .. }) = self.open.pop() else { panic!("no start is open") };
        self.tell(Event::StartFailed { container, failure, message: "exec: no such file".into() });
    }
}

#[test]
fn a_command_that_cannot_be_started_is_a_run_that_counts() {
    let mut bench = Bench::new(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}));
    bench.fail_start(StartFailure::Command);
    bench.settle();
    let status = bench.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("StartError"), 128));
    assert_eq!(
        (ended.message.as_deref(), ended.started_at.unwrap().0),
        (Some("exec: no such file"), Timestamp::UNIX_EPOCH)
    );
    assert!(bench.reports.contains(&"Failed: Error: exec: no such file".to_owned()));
    for policy in ["OnFailure", "Always"] {
        let mut bench = Bench::new(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "b"}]}));
        bench.fail_start(StartFailure::Command);
        bench.fail_start(StartFailure::Command);
        assert_eq!(bench.shown("a"), waits("CrashLoopBackOff", 1), "{policy}");
        assert_eq!(bench.status().phase.as_deref(), Some("Running"));
        let last = bench.status().container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
        assert_eq!((last.reason.as_deref(), last.exit_code), (Some("StartError"), 128));
        assert!(bench.reports.iter().any(|report| report.starts_with("BackOff: ")), "{policy}");
        bench.pass(11);
        assert_eq!(bench.shown("a"), running(2), "{policy}");
    }
    let init = json!([{"name": "i", "image": "b"}]);
    let mut bench = Bench::new(
        json!({"restartPolicy": "Never", "initContainers": init, "containers": [{"name": "a", "image": "b"}]}),
    );
    bench.fail_start(StartFailure::Command);
    bench.settle();
    assert_eq!(bench.phase(), "Failed", "an init container that cannot be started ends its pod");
}

#[test]
fn a_failure_of_ours_is_tried_again_and_does_not_count() {
    for failure in [StartFailure::SetUp, StartFailure::Creation] {
        let mut bench = Bench::new(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}));
        bench.fail_start(failure);
        assert_eq!(bench.shown("a"), waits(failure.reason(), 0));
        assert_eq!(bench.phase(), "Pending");
        bench.pass(11);
        assert_eq!(bench.shown("a"), running(0));
    }
}

impl Bench {
    fn settle_one(&mut self) {
        let event = match self.open.remove(0) {
            Action::PrepareVolumes => Event::VolumesReady,
            Action::CreateSandbox => Event::SandboxReady { pid: 7, addresses: Vec::new() },
            Action::EnsureImage { container } => {
                Event::ImageReady { container, id: "i".into(), pulled: Some((1, 0.5)) }
            }
            other => panic!("no answer for {other:?}"),
        };
        self.tell(event);
    }
}

#[test]
fn a_pod_deleted_while_it_is_made_waits_for_the_answers() {
    for made in 0..2 {
        let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}]}));
        (0..made).for_each(|_| bench.settle_one());
        let mut pod = (*bench.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(bench.now));
        bench.tell(Event::Changed(Arc::new(pod)));
        assert!(!bench.finished, "the volumes, then the sandbox, are still being made");
        bench.settle();
        assert!(bench.finished && bench.cleaned && bench.starts.is_empty());
    }
}

#[test]
fn volumes_come_before_the_sandbox_and_the_sandbox_before_images() {
    let mut bench = Bench::new(json!({"containers": [{"name": "a", "image": "b"}, {"name": "c", "image": "d"}]}));
    assert_eq!(bench.open, [Action::PrepareVolumes]);
    bench.open.clear();
    bench.tell(Event::VolumesFailed("configmap \"x\" not found".into()));
    bench.now += SignedDuration::from_secs(1);
    bench.tell(Event::Woken);
    assert_eq!(bench.open, [Action::PrepareVolumes], "and nothing else is tried meanwhile");
    bench.settle_one();
    assert_eq!(bench.open, [Action::CreateSandbox]);
    bench.open.clear();
    bench.tell(Event::SandboxFailed("no".into()));
    assert!(bench.open.is_empty());
    bench.now += SignedDuration::from_secs(3);
    bench.tell(Event::Woken);
    bench.settle_one();
    let image = |name: &str| Action::EnsureImage { container: name.into() };
    assert_eq!(bench.open, [image("a"), image("c")], "images of app containers come together");
    bench.settle();
    assert_eq!(bench.starts, ["a/0", "c/0"]);
}

#[test]
fn admission_refuses_what_does_not_fit() {
    let offered = Allocatable {
        requests: Requests { cpu_milli: 1000, memory_bytes: 1 << 30, ephemeral_bytes: 1 << 30 },
        pods: 2,
    };
    let want = |cpu: &str| pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}));
    let used = Requests { cpu_milli: 600, ..Requests::default() };
    let labels = std::collections::BTreeMap::new();
    assert!(admit(&want("400m"), &labels, offered, used, 1).is_ok());
    let refused = admit(&want("401m"), &labels, offered, used, 1).unwrap_err();
    assert_eq!(refused.reason, "OutOfcpu");
    let expected = "Pod was rejected: Node didn't have enough resource: cpu, requested: 401, used: 600, capacity: 1000";
    assert_eq!(refused.message, expected);
    assert_eq!(admit(&want("1m"), &labels, offered, used, 2).unwrap_err().reason, "OutOfpods");
    let picky = pod(json!({"nodeSelector": {"disk": "ssd"}, "containers": []}));
    assert_eq!(admit(&picky, &labels, offered, used, 0).unwrap_err().reason, "NodeAffinity");
}

#[test]
fn qos_classes() {
    let cases = [
        (json!([{"name": "a"}]), "BestEffort"),
        (json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
        (json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), "Guaranteed"),
        (json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]), "Burstable"),
    ];
    for (containers, class) in cases {
        assert_eq!(qos_class(pod(json!({"containers": containers})).spec.as_ref().unwrap()), class, "{containers}");
    }
}
