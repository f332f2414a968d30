//! Real containers: how they start and end, what they may do, what they see, and their limits.
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use std::fs;

use common::{Machine, is_running, until, within};
use klynge_runtime::{
    Capabilities, ContainerSpec, ContainerState, Error, ExecSpec, Mount, PidNamespace, PodEvent, PodSpec, Resources,
    StartFault,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_logs_and_events() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let mut events = pod.events();
    let (exit, log) = machine.run(&pod, machine.script("a", "echo out; echo err >&2; printf partial; exit 7")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.observed), (7, 0, false, true));
    assert!(exit.started_ns > 0 && exit.finished_ns >= exit.started_ns, "{exit:?}");
    assert!(log.contains("out\n") && log.contains("E:err\n") && log.contains("partial\n"), "{log}");
    assert!(matches!(within(events.next()).await.unwrap(), PodEvent::Exited { exit, .. } if exit.code == 7));

    let container = pod.start_container(machine.script("b", "sleep 100")).await.unwrap();
    let pid = is_running(&container).unwrap();
    // The shell may be on its way to becoming `sleep`: while it executes, its command line reads empty.
    until("the command line shows", || {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains("sleep"))
    })
    .await;
    pod.signal(&container.id, 9).await.unwrap();
    let exit = within(pod.wait(&container.id)).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, false));
    pod.remove_container(&container.id).await.unwrap();
    assert!(pod.containers().is_empty());
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_errors_are_upstreams() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let with = |command: &str| ContainerSpec { command: vec![command.into()], ..machine.script("x", "") };
    let within =
        |directory: &str| ContainerSpec { working_directory: Some(directory.into()), ..machine.script("x", "") };
    for (spec, words, code) in [
        (with("nothing-like-this"), "exec: \"nothing-like-this\": executable file not found in $PATH", 127),
        (with("/no/such"), "exec: \"/no/such\": stat /no/such: no such file or directory", 127),
        (with("/etc/passwd"), "exec: \"/etc/passwd\": permission denied", 126),
        (within("/etc/passwd"), "chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory", 128),
        (
            ContainerSpec {
                mounts: vec![Mount { source: "/no/source".into(), target: "/mnt".into(), ..Mount::default() }],
                ..machine.script("x", "")
            },
            "error mounting \"/no/source\" to rootfs at \"/mnt\": no such file or directory",
            128,
        ),
    ] {
        match pod.start_container(spec).await {
            Err(Error::Start { message, exit_code, fault }) => {
                assert!(message.contains(words), "{message}");
                assert_eq!((exit_code, fault), (code, StartFault::Specification), "{message}");
            }
            other => unreachable!("{other:?}"),
        }
    }
    assert!(pod.containers().is_empty());
    let unknown = ContainerSpec { user: Some("nobody-here".into()), ..machine.script("x", "") };
    let error = pod.start_container(unknown).await.unwrap_err().to_string();
    assert!(error.contains("unable to find user nobody-here: no matching entries in passwd file"), "{error}");
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_environment_and_confinement() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let script = "id -u; id -g; id -G; echo $HOME; echo $HOSTNAME; hostname; grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status";
    let default = machine.run(&pod, machine.script("root", script)).await.1;
    let status = default.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.starts_with("0 0 0 /root test-host test-host "), "{status}");
    assert!(status.contains("CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb"), "{status}");
    assert!(status.contains("NoNewPrivs: 1 Seccomp: 2"), "{status}");

    let web = ContainerSpec {
        user: Some("web".into()),
        supplemental_groups: vec![77],
        capabilities: Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] },
        env: vec![("GREETING".into(), "good day".into())],
        working_directory: Some("/made/for/it".into()),
        ..machine.script("web", &format!("{script}; echo $GREETING; readlink /proc/self/cwd; echo again > /dev/stderr"))
    };
    let log = machine.run(&pod, web).await.1;
    let status = log.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.starts_with("33 34 34 40 77 /srv "), "{status}");
    assert!(status.contains("CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000001000"), "{status}");
    assert!(status.contains("good day /made/for/it E:again"), "{status}");

    let probes = [
        ("unshare -m true 2>/dev/null || /bin/busybox unshare -m true", 1),
        ("mount -t tmpfs none /tmp", 1),
        ("mknod /tmp/disk b 8 0 && cat /tmp/disk", 1),
        ("echo 1 > /proc/sys/kernel/panic", 1),
        ("test -s /proc/kcore", 1),
        ("test -z \"$(cat /proc/keys)\"", 0),
        ("test -z \"$(ls /sys/firmware)\"", 0),
        ("touch /sys/x", 1),
        ("touch /here && echo x > /dev/null && head -c 4 /dev/urandom > /tmp/r && test -s /tmp/r", 0),
        ("test $$ = 1", 0),
        ("ls /proc/self/fd | wc -l | grep -q '^4$'", 0),
        ("grep -q ' /dev/shm ' /proc/mounts && touch /dev/shm/x", 0),
        ("ip link show lo | grep -q UP", 0),
    ];
    for (index, (probe, expected)) in probes.iter().enumerate() {
        let (exit, log) = machine.run(&pod, machine.script(&format!("probe{index}"), probe)).await;
        assert_eq!(exit.code, *expected, "{probe}: {log}");
    }
    let read_only =
        ContainerSpec { read_only_root: true, ..machine.script("ro", "touch /x; echo $?; touch /dev/shm/y; echo $?") };
    let log = machine.run(&pod, read_only).await.1;
    assert!(log.contains("1\n") && log.ends_with("0\n"), "{log}");
    let privileged =
        ContainerSpec { privileged: true, ..machine.script("priv", "mount -t tmpfs none /tmp && touch /tmp/x") };
    assert_eq!(machine.run(&pod, privileged).await.0.code, 0);
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_pipes_terminal_and_errors() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let spec = ContainerSpec {
        env: vec![("A".into(), "1".into())],
        user: Some("33:34".into()),
        ..machine.script("main", "echo mine > /tmp/f; sleep 1000")
    };
    let container = pod.start_container(spec).await.unwrap();
    let shell = |script: &str| ExecSpec { args: vec!["sh".into(), "-c".into(), script.into()], ..ExecSpec::default() };

    let mut exec = pod.exec(&container.id, shell("until cat /tmp/f; do sleep 0.01; done; id -u; echo $A; echo oops >&2; grep Seccomp: /proc/self/status; grep -c . /proc/1/cmdline; exit 3")).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    within(exec.stdout.take().unwrap().read_to_string(&mut out)).await.unwrap();
    within(exec.stderr.take().unwrap().read_to_string(&mut err)).await.unwrap();
    assert_eq!(within(exec.wait()).await.unwrap(), 3);
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["mine", "33", "1", "Seccomp:", "2", "1"], "{err}");
    assert!(err.ends_with("oops\n"), "{err}");

    let mut exec = pod.exec(&container.id, ExecSpec { stdin: true, ..shell("tr a-z A-Z") }).await.unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    let input = "hello world\n".repeat(20_000);
    let writer = tokio::spawn(async move {
        stdin.write_all(input.as_bytes()).await.unwrap();
    });
    let mut out = String::new();
    within(exec.stdout.take().unwrap().read_to_string(&mut out)).await.unwrap();
    writer.await.unwrap();
    assert_eq!(out, "HELLO WORLD\n".repeat(20_000));
    assert_eq!(within(exec.wait()).await.unwrap(), 0);

    let spec = ExecSpec {
        tty: true,
        stdin: true,
        size: Some((101, 33)),
        ..shell("tty; stty size; read line; stty size; echo got $line")
    };
    let mut exec = pod.exec(&container.id, spec).await.unwrap();
    let (mut stdin, mut stdout) = (exec.stdin.take().unwrap(), exec.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("33 101") {
        let mut buffer = [0; 256];
        let count = within(stdout.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(seen.contains("/dev/pts/0"), "{seen}");
    exec.resize(80, 24).unwrap();
    stdin.write_all(b"this\n").await.unwrap();
    within(stdout.read_to_string(&mut seen)).await.unwrap();
    assert!(seen.contains("24 80") && seen.contains("got this"), "{seen}");
    assert_eq!(within(exec.wait()).await.unwrap(), 0);

    let missing = ExecSpec { args: vec!["not-there".into()], ..ExecSpec::default() };
    assert!(matches!(pod.exec(&container.id, missing).await, Err(Error::Start { exit_code: 127, .. })));
    let mut exec = pod.exec(&container.id, shell("sleep 100")).await.unwrap();
    exec.signal(15).await.unwrap();
    assert_eq!(within(exec.wait()).await.unwrap(), 143);
    pod.signal(&container.id, 9).await.unwrap();
    within(pod.wait(&container.id)).await.unwrap();
    assert!(matches!(pod.exec(&container.id, shell("true")).await, Err(Error::NotFound(_))));
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_enforced() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let resources = Resources {
        memory_limit_bytes: Some(16 << 20),
        pids_limit: Some(20),
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        ..Resources::default()
    };
    let hungry = ContainerSpec {
        resources: resources.clone(),
        ..machine.script("hungry", "x=0123456789abcdef; while true; do x=$x$x; done")
    };
    let (exit, _) = machine.run(&pod, hungry).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);
    let forks =
        ContainerSpec { resources, ..machine.script("forks", "for i in $(seq 40); do sleep 5 & done; echo all") };
    let (_, log) = machine.run(&pod, forks).await;
    assert!(log.contains("can't fork"), "{log}");
    let container = pod.start_container(machine.script("calm", "yes > /dev/null")).await.unwrap();
    common::until("using CPU", || pod.container_stats(&container.id).unwrap().cpu_ns > 10_000_000).await;
    let stats = pod.stats();
    assert!(stats.memory_usage_bytes > 0 && stats.tasks == 1, "{stats:?}");
    pod.remove_container(&container.id).await.unwrap();
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_sub_paths() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let volume = machine.directory.join("volume");
    fs::create_dir_all(volume.join("inside/deep")).unwrap();
    fs::write(volume.join("inside/file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
    std::os::unix::fs::symlink("inside/deep", volume.join("fine")).unwrap();
    let mount = |sub: Option<&str>, target: &str, read_only| Mount {
        source: volume.clone(),
        sub_path: sub.map(str::to_owned),
        target: target.into(),
        read_only,
        ..Mount::default()
    };
    let spec = ContainerSpec {
        mounts: vec![
            mount(None, "/v/all", false),
            mount(Some("inside/file"), "/etc/file", true),
            mount(Some("fine"), "/fine", true),
        ],
        ..machine.script(
            "v",
            "cat /etc/file; echo; echo new > /v/all/new; touch /fine/x; echo $?; echo x > /etc/file; echo $?",
        )
    };
    let log = machine.run(&pod, spec).await.1;
    assert!(log.starts_with("content\n") && log.contains("1\n"), "{log}");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    assert!(!volume.join("inside/deep/x").exists());
    assert_eq!(fs::read_to_string(volume.join("inside/file")).unwrap(), "content");
    for sub in ["escape", "../x", "escape/passwd"] {
        let spec = ContainerSpec { mounts: vec![mount(Some(sub), "/e", false)], ..machine.script("e", "ls /e") };
        assert!(matches!(pod.start_container(spec).await, Err(Error::Start { .. })), "{sub}");
    }
    pod.destroy().await.unwrap();
    machine.finish().await;
}

struct SetOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Whoever may write to a volume swaps what a sub path leads to, all the time: what is mounted is what one walk found, and that
/// never left the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_sub_path_that_is_swapped_never_leads_out_of_its_volume() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let (volume, outside) = (machine.directory.join("volume"), machine.directory.join("outside"));
    for (directory, word) in [(volume.join("real/deep"), "inside"), (outside.join("deep"), "outside")] {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("word"), word).unwrap();
    }
    // Names that take turns at `sub`: the directory itself, and links out of the volume of either kind.
    std::os::unix::fs::symlink(&outside, volume.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../outside", volume.join("relative")).unwrap();
    let over = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // Also where an assertion below fails, the swapper ends.
        let _end = SetOnDrop(&over);
        let (swapped, stop) = (volume.clone(), &over);
        let swapper = scope.spawn(move || {
            let sub = swapped.join("sub");
            let mut turns = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for name in ["real", "absolute", "real", "relative"] {
                    let place = swapped.join(name);
                    fs::rename(&place, &sub).unwrap();
                    // The directory stays a little longer, so that some walks find it.
                    std::thread::sleep(std::time::Duration::from_micros(if name == "real" { 300 } else { 20 }));
                    fs::rename(&sub, &place).unwrap();
                    turns += 1;
                }
            }
            turns
        });
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                for round in 0..120 {
                    let mount = Mount {
                        source: volume.clone(),
                        sub_path: Some("sub/deep".into()),
                        target: "/m".into(),
                        ..Mount::default()
                    };
                    let name = format!("r{round}");
                    let spec = ContainerSpec {
                        mounts: vec![mount],
                        ..machine.script(&name, "cat /m/word; sleep 0.002; cat /m/word")
                    };
                    let log = machine.log_path(&name);
                    match pod.start_container(spec).await {
                        Ok(container) => {
                            within(pod.wait(&container.id)).await.unwrap();
                            // Also what it becomes later does not matter any more: a directory is mounted, not a name.
                            assert_eq!(common::log_text(&log), "insideinside\n", "round {round}");
                            pod.remove_container(&container.id).await.unwrap();
                            inside += 1;
                        }
                        Err(Error::Start { .. }) => refused += 1,
                        Err(other) => unreachable!("{other}"),
                    }
                }
            });
        });
        over.store(true, Ordering::Relaxed);
        assert!(swapper.join().unwrap() > 100);
    });
    assert!(inside > 0 && refused > 0, "{inside} mounted, {refused} refused: there was no race");
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_and_host_namespaces() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let shared =
        |name: &str, script: &str| ContainerSpec { pid_namespace: PidNamespace::Pod, ..machine.script(name, script) };
    let first = pod.start_container(shared("first", "echo shared > /dev/shm/x; sleep 12345")).await.unwrap();
    let (exit, log) = machine
        .run(
            &pod,
            shared("second", "until cat /dev/shm/x; do sleep 0.01; done; ps | grep -q 'sleep 1234[5]'; test $$ != 1"),
        )
        .await;
    assert_eq!(exit.code, 0, "{log}");
    pod.remove_container(&first.id).await.unwrap();

    // A debugger sees the processes of its target and of nobody else, and is seen by it.
    let target = pod.start_container(machine.script("target", "sleep 54321")).await.unwrap();
    let other = pod.start_container(machine.script("other", "sleep 65432")).await.unwrap();
    let joined = |name: &str, id: &str, script: &str| ContainerSpec {
        pid_namespace: PidNamespace::Of(id.to_owned()),
        ..machine.script(name, script)
    };
    let script = "ps; ps | grep -q 'sleep 5432[1]' && ! ps | grep -q 'sleep 6543[2]' && test $$ != 1";
    let (exit, log) = machine.run(&pod, joined("debugger", &target.id, script)).await;
    assert_eq!(exit.code, 0, "{log}");
    pod.signal(&target.id, 9).await.unwrap();
    within(pod.wait(&target.id)).await.unwrap();
    let late = pod.start_container(joined("late", &target.id, "true")).await;
    assert!(matches!(late, Err(Error::Start { fault: StartFault::SetUp, .. })), "{late:?}");
    assert!(pod.start_container(joined("nobody", "none", "true")).await.is_err());
    assert!(is_running(&pod.container(&other.id).unwrap()).is_some());
    pod.destroy().await.unwrap();

    let spec = PodSpec { uid: common::unique(), host_network: true, host_ipc: true, ..PodSpec::default() };
    let pod = machine.runtime.create_pod(spec).await.unwrap();
    let namespace = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let me = std::process::id() as i32;
    assert_eq!(namespace(pod.pid(), "net"), namespace(me, "net"));
    let host =
        ContainerSpec { pid_namespace: PidNamespace::Host, ..machine.script("host", "sleep 1000 & sleep 1000 & wait") };
    let container = pod.start_container(host).await.unwrap();
    let pid = is_running(&container).unwrap();
    assert_eq!(namespace(pid, "pid"), namespace(me, "pid"));
    common::until("children", || pod.container_stats(&container.id).unwrap().tasks == 3).await;
    pod.signal(&container.id, 9).await.unwrap();
    within(pod.wait(&container.id)).await.unwrap();
    // They are dead by now, yet the kernel counts a process until its parent has taken its status.
    common::until("no children", || pod.container_stats(&container.id).unwrap().tasks == 0).await;
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_image_stay_writable_on_a_read_only_root() {
    let machine = Machine::new().await;
    let config = common::Config { volumes: vec!["/data", "/made/late", "/out", "/"], ..common::Config::default() };
    let extra = common::Layer::new().file("data/kept", 0o644, b"from the image").symlink("out", "/etc").finish();
    let archive = common::layout(&[common::busybox_layer(), extra], config, Some(common::IMAGE));
    machine.runtime.images().import(std::io::Cursor::new(archive), None).await.unwrap();
    let pod = machine.pod().await;
    let script = "cat /data/kept && touch /data/x /made/late/x && ! touch /etc/x && ! touch /x && ! touch /out/x";
    let spec = ContainerSpec { read_only_root: true, ..machine.script("ro", script) };
    let (exit, log) = machine.run(&pod, spec).await;
    assert_eq!(exit.code, 0, "{log}");
    assert!(log.contains("from the image"), "{log}");
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_with_stdin_and_terminal() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let spec =
        ContainerSpec { stdin: true, ..machine.script("pipe", "while read x; do echo got $x; done; echo end >&2") };
    let container = pod.start_container(spec).await.unwrap();
    let mut attached = pod.attach(&container.id).await.unwrap();
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    pod.close_stdin(&container.id).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    within(attached.stdout.read_to_string(&mut out)).await.unwrap();
    within(attached.stderr.read_to_string(&mut err)).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("got one\ngot two\n", "end\n"));
    within(pod.wait(&container.id)).await.unwrap();
    assert_eq!(common::log_text(&machine.log_path("pipe")), "got one\ngot two\nE:end\n");

    let spec = ContainerSpec {
        tty: true,
        stdin: true,
        ..machine.script("tty", "read x; stty size; echo console $x > /dev/console; tty")
    };
    let container = pod.start_container(spec).await.unwrap();
    let mut attached = pod.attach(&container.id).await.unwrap();
    pod.resize(&container.id, 90, 40).await.unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"hi\n").await.unwrap();
    let mut out = String::new();
    within(attached.stdout.read_to_string(&mut out)).await.unwrap();
    assert!(out.contains("40 90") && out.contains("console hi"), "{out}");
    assert!(matches!(within(pod.wait(&container.id)).await, Ok(exit) if exit.code == 0));
    assert!(matches!(pod.container(&container.id).unwrap().state, ContainerState::Exited(_)));
    pod.destroy().await.unwrap();
    machine.finish().await;
}
