//! The agent is killed, the containers are not: same processes, logs that go on, exit codes that are found again.
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use std::{fs, path::PathBuf};

use common::{Machine, is_running, within};
use klynge_runtime::{ContainerState, ExecSpec, Mount, PodEvent, Runtime};

/// Not a test by itself: what the other test executes as the agent that it kills.
#[tokio::test(flavor = "multi_thread")]
async fn agent_process() {
    let Some(machine) = Machine::of_agent().await else { return };
    let directory = machine.directory.clone();
    let pod = machine.pod().await;
    let go = Mount { source: directory.join("volume"), target: "/v".into(), ..Mount::default() };
    let mut ticker = machine.script("ticker", "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.02; done");
    ticker.mounts.push(go.clone());
    let mut waiter = machine.script("waiter", "until test -e /v/go; do sleep 0.01; done; echo going; exit 42");
    waiter.mounts.push(go);
    let ticker = pod.start_container(ticker).await.unwrap();
    let waiter = pod.start_container(waiter).await.unwrap();
    let line = format!("{} {} {}", ticker.id, is_running(&ticker).unwrap(), waiter.id);
    fs::write(directory.join("ready.new"), line).unwrap();
    fs::rename(directory.join("ready.new"), directory.join("ready")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_their_agent() {
    let machine = Machine::with_image().await;
    fs::create_dir_all(machine.directory.join("volume")).unwrap();
    machine.kill_an_agent("agent_process").await;

    let line = fs::read_to_string(machine.directory.join("ready")).unwrap();
    let [ticker, pid, waiter] = line.split(' ').collect::<Vec<_>>()[..] else { unreachable!("{line}") };
    let start_time = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().split(' ').nth(21).unwrap().to_owned();
    let before = start_time();
    let ticks = || common::log_text(&machine.log_path("ticker")).lines().count();
    let then = ticks();
    common::until("more ticks without an agent", || ticks() > then + 3).await;
    fs::write(machine.directory.join("volume/go"), "").unwrap();
    common::until("the waiter's end", || common::log_text(&machine.log_path("waiter")) == "going\n").await;
    common::until("its exit file", || {
        let pods = fs::read_dir(machine.directory.join("run/pods")).unwrap().flatten();
        pods.flat_map(|pod| fs::read_dir(pod.path().join("exits")).unwrap().flatten()).next().is_some()
    })
    .await;

    let pods = machine.runtime.recover().await.unwrap();
    let [pod] = &pods[..] else { unreachable!("{} pods", pods.len()) };
    assert!(pod.is_alive() && pod.pid() > 0);
    let running = pod.container(ticker).unwrap();
    assert_eq!(is_running(&running).unwrap().to_string(), pid);
    assert_eq!(start_time(), before);
    match pod.container(waiter).unwrap().state {
        ContainerState::Exited(exit) => assert_eq!((exit.code, exit.observed), (42, true)),
        other => unreachable!("{other:?}"),
    }
    let then = ticks();
    common::until("ticks go on", || ticks() > then + 3).await;

    // Everything works as before: exec, rotation, a new container, the end.
    let mut exec = pod.exec(ticker, ExecSpec { args: vec!["true".into()], ..ExecSpec::default() }).await.unwrap();
    assert_eq!(within(exec.wait()).await.unwrap(), 0);
    let log = machine.log_path("ticker");
    fs::rename(&log, log.with_extension("1")).unwrap();
    pod.reopen_log(ticker).await.unwrap();
    common::until("the new log", || fs::metadata(&log).is_ok_and(|it| it.len() > 100)).await;
    let joined = common::log_text(&log.with_extension("1")) + &common::log_text(&log);
    let lines: Vec<&str> = joined.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("tick {}", index + 1), "a line was lost or doubled");
    }
    let mut events = pod.events();
    pod.signal(ticker, 9).await.unwrap();
    assert!(matches!(within(events.next()).await, Some(PodEvent::Exited { exit, .. }) if exit.code == 137));
    pod.remove_container(waiter).await.unwrap();
    let (exit, _) = machine.run(pod, machine.script("later", "exit 4")).await;
    assert_eq!(exit.code, 4);
    pod.destroy().await.unwrap();
    assert!(machine.runtime.recover().await.unwrap().is_empty());
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_ends_its_pod() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let container = pod.start_container(machine.script("x", "sleep 1000")).await.unwrap();
    let pid = is_running(&container).unwrap();
    let mut events = pod.events();
    let shim = rustix::process::Pid::from_raw(pod.pid()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    match within(events.next()).await {
        Some(PodEvent::Exited { exit, .. }) => assert_eq!((exit.code, exit.observed), (137, false)),
        other => unreachable!("{other:?}"),
    }
    assert_eq!(within(events.next()).await, Some(PodEvent::Lost));
    common::until("the process is gone", || !PathBuf::from(format!("/proc/{pid}/ns/pid")).exists()).await;
    assert!(!pod.is_alive());
    drop(pod);
    let pods = machine.runtime.recover().await.unwrap();
    assert!(pods.len() == 1 && !pods[0].is_alive());
    assert!(matches!(&pods[0].containers()[0].state, ContainerState::Exited(exit) if exit.code == 137));
    pods[0].destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_made_anew_at_once_after_its_shim_was_killed() {
    let machine = Machine::with_image().await;
    let mut pod = machine.pod().await;
    for round in 0..16_u64 {
        let spec = pod.spec().clone();
        pod.start_container(machine.script("x", "sleep 1000")).await.unwrap();
        // Containers are being started all the time, before the kill, during it, and during the removal.
        let busy: Vec<_> = (0..4)
            .map(|index| {
                let (pod, spec) = (pod.clone(), machine.script(&format!("y{index}"), "sleep 1000"));
                tokio::spawn(async move { while pod.start_container(spec.clone()).await.is_ok() {} })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_micros(round * 200)).await;
        let shim = rustix::process::Pid::from_raw(pod.pid()).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        within(pod.destroy()).await.unwrap();
        pod = machine.runtime.create_pod(spec).await.unwrap();
        for starter in busy {
            within(starter).await.unwrap();
        }
        assert!(pod.containers().is_empty());
    }
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_on_a_full_disk_and_lines_in_parts() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let small = machine.directory.join("small");
    fs::create_dir_all(&small).unwrap();
    rustix::mount::mount("tmpfs", &small, "tmpfs", rustix::mount::MountFlags::empty(), c"size=64k").unwrap();
    let mut spec = machine.script("full", "i=0; while test $i -lt 5000; do i=$((i+1)); echo line $i; done; exit 3");
    spec.log_path = Some(small.join("log"));
    let container = pod.start_container(spec).await.unwrap();
    let exit = within(pod.wait(&container.id)).await.unwrap();
    assert_eq!(exit.code, 3, "the container waited for the disk");
    let kept = common::log_text(&small.join("log")).lines().count() as u64;
    assert!(kept > 100 && kept + exit.dropped_log_lines == 5000, "{kept} kept, {exit:?}");
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::empty()).unwrap();

    let mut spec = machine.script("parts", "head -c 40000 /dev/zero | tr '\\0' x; echo; yes | head -n 500");
    spec.log_notice_bytes = 20_000;
    let mut events = pod.events();
    let container = pod.start_container(spec).await.unwrap();
    let notice = within(events.next()).await;
    assert!(
        matches!(&notice, Some(PodEvent::LogGrew { id, size_bytes }) if *id == container.id && *size_bytes >= 20_000),
        "{notice:?}"
    );
    within(pod.wait(&container.id)).await.unwrap();
    let text = fs::read_to_string(machine.log_path("parts")).unwrap();
    let tags: Vec<&str> = text.lines().take(3).map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F"]);
    assert_eq!(text.lines().next().unwrap().len(), 40 + 16_384);
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_on_one_shim_do_not_take_each_other_s_names() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let other = Runtime::open(common::options(&machine.directory, &machine.cgroup)).await.unwrap();
    let again = other.recover().await.unwrap().remove(0);
    for index in 0..3 {
        let one = pod.start_container(machine.script(&format!("a{index}"), "sleep 1000")).await.unwrap();
        let two = again.start_container(machine.script(&format!("b{index}"), "sleep 1000")).await.unwrap();
        assert_ne!(is_running(&one), is_running(&two));
    }
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_during_a_start_leaves_a_container_that_runs_or_none() {
    let machine = Machine::with_image().await;
    let mut pod = machine.pod().await;
    for round in 0..24_u64 {
        let name = format!("r{round}");
        let spec = machine.script(&name, "echo begun; sleep 1000");
        let cut = pod.clone();
        let start = tokio::spawn(async move { cut.start_container(spec).await });
        tokio::time::sleep(std::time::Duration::from_micros(round * 400)).await;
        start.abort();
        let _ = start.await;
        // What the ended agent had on a thread for blocking work ends with its process; here it is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        let next = Runtime::open(common::options(&machine.directory, &machine.cgroup)).await.unwrap();
        pod = next.recover().await.unwrap().remove(0);
        let known: Vec<_> = pod.containers().into_iter().filter(|it| it.name == name).collect();
        for container in &known {
            assert!(is_running(container).is_some(), "{container:?} is neither running nor gone");
        }
        let then = pod.start_container(machine.script(&format!("then{round}"), "sleep 1000")).await.unwrap();
        for id in known.iter().map(|it| &it.id).chain([&then.id]) {
            pod.remove_container(id).await.unwrap();
        }
        assert_eq!(pod.containers().len(), 0);
    }
    let left = fs::read_dir(machine.directory.join("run/pods")).unwrap().flatten();
    let left: Vec<_> = left.flat_map(|it| fs::read_dir(it.path().join("containers")).unwrap().flatten()).collect();
    assert!(left.is_empty(), "{left:?}");
    pod.destroy().await.unwrap();
    machine.finish().await;
}
