//! A container that floods its output: no log file passes its cap, nothing is lost that would be kept, and the container
//! can be used and ended all the while; with an agent, with one that does not rotate, and with none.
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{Machine, is_running, until, within};
use klynge_runtime::{ContainerSpec, ContainerState, ExecSpec, Pod, PodEvent};

const NOTICE: u64 = 300 << 10;
/// More than a pipe of 64 KiB makes in lines, so that its rest at the end takes one rotation at most.
const CAP: u64 = 700 << 10;

fn flood(machine: &Machine, name: &str, command: &str) -> ContainerSpec {
    ContainerSpec { log_notice_bytes: NOTICE, log_cap_bytes: CAP, ..machine.script(name, command) }
}

/// The sizes of a log's files, those put aside first.
fn sizes(log: &Path) -> Vec<u64> {
    files(log).iter().filter_map(|path| fs::metadata(path).ok()).map(|it| it.len()).collect()
}

fn files(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap().to_str().unwrap();
    let entries = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries.map(|it| it.path()).collect();
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}.")));
    found.sort();
    found.push(log.to_path_buf());
    found
}

/// The numbers that these files hold, which must be consecutive whole lines.
fn numbers(files: &[PathBuf]) -> (u64, u64) {
    let mut range: Option<(u64, u64)> = None;
    for path in files {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", path.display());
        for line in text.lines() {
            let number: u64 = line.splitn(4, ' ').nth(3).unwrap().parse().unwrap();
            if let Some((_, last)) = range {
                assert_eq!(number, last + 1, "lines are lost or doubled in {}", path.display());
            }
            range = Some((range.map_or(number, |it| it.0), number));
        }
    }
    range.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_an_agent_rotates_slowly() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let mut events = pod.events();
    let container = pod.start_container(flood(&machine, "flood", "exec seq 1 300000")).await.unwrap();
    let log = machine.log_path("flood");
    let mut rotations = 0;
    let exit = loop {
        match within(events.next()).await.unwrap() {
            PodEvent::LogGrew { .. } => {
                tokio::time::sleep(Duration::from_millis(20)).await; // as an agent on a busy machine
                fs::rename(&log, log.with_extension(format!("log.{rotations:03}"))).unwrap();
                rotations += 1;
                let _ = pod.reopen_log(&container.id).await;
            }
            PodEvent::Exited { exit, .. } => break exit,
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!((exit.code, exit.dropped_log_lines), (0, 0));
    assert!(rotations > 10, "{rotations} rotations");
    let mut all = files(&log);
    // What the pipe held at the end may have been rotated by the shim, which this test's names know nothing of.
    all.retain(|path| fs::metadata(path).is_ok_and(|it| it.len() > 0));
    all.sort_by_key(|path| numbers(std::slice::from_ref(path)).0);
    for path in &all {
        assert!(fs::metadata(path).unwrap().len() <= CAP, "{} is too large", path.display());
    }
    assert_eq!(numbers(&all), (1, 300_000));
    let private_kib = || {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.pid())).unwrap();
        let values = text.lines().filter(|line| line.starts_with("Private_"));
        values.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    until("the shim has given its buffers back", || private_kib() <= 100).await;
    pod.destroy().await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_waits_for_an_agent_that_does_not_rotate_and_then_goes_on_alone() {
    let machine = Machine::with_image().await;
    let pod = machine.pod().await;
    let container = pod.start_container(flood(&machine, "flood", "exec seq 1 100000000")).await.unwrap();
    let pid = is_running(&container).unwrap();
    let log = machine.log_path("flood");
    let still = |pid: i32| fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    until("the log is full", || sizes(&log)[0] > CAP - (150 << 10)).await;
    let begun = Instant::now();
    until("the container waits in its pipe", || still(pid).contains("pipe")).await;
    let full = sizes(&log);
    // Exec works, and its own output is not held.
    let mut exec =
        pod.exec(&container.id, ExecSpec { args: vec!["true".into()], ..ExecSpec::default() }).await.unwrap();
    assert_eq!(within(exec.wait()).await.unwrap(), 0);
    if begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(sizes(&log), full, "the log went on growing");
    }
    let inode = fs::metadata(&log).unwrap().ino();
    until("the shim rotates by itself", || fs::metadata(&log).is_ok_and(|it| it.ino() != inode)).await;
    assert!(begun.elapsed() > Duration::from_secs(4), "it did not wait for the agent: {:?}", begun.elapsed());
    // From then on it does not wait again, and keeps one file beside the current one.
    let inode = fs::metadata(&log).unwrap().ino();
    let again = Instant::now();
    until("it rotates again", || fs::metadata(&log).is_ok_and(|it| it.ino() != inode)).await;
    assert!(again.elapsed() < Duration::from_secs(4), "it waited again");
    // A kill ends it though nobody reads what it writes.
    let mut events = pod.events();
    pod.signal(&container.id, 9).await.unwrap();
    let exit = within(async {
        loop {
            if let Some(PodEvent::Exited { exit, .. }) = events.next().await {
                break exit;
            }
        }
    });
    let exit = exit.await;
    assert_eq!((exit.code, exit.dropped_log_lines), (137, 0));
    let all = files(&log);
    assert!(all.len() == 2 && sizes(&log).iter().all(|it| *it <= CAP), "{all:?} {:?}", sizes(&log));
    // The last line may lack its end: the kill came in the midst of a write.
    numbers(&all[..1]);
    pod.destroy().await.unwrap();
    machine.finish().await;
}

/// Not a test by itself: what the other test executes as the agent that it kills.
#[tokio::test(flavor = "multi_thread")]
async fn agent_process() {
    let Some(machine) = Machine::of_agent().await else { return };
    let pod = machine.pod().await;
    pod.start_container(flood(&machine, "flood", "exec seq 1 100000000")).await.unwrap();
    fs::write(machine.directory.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

/// The one pod that a new agent finds, and its container's id.
async fn found(machine: &Machine) -> (Pod, String) {
    let pod = machine.runtime.recover().await.unwrap().remove(0);
    let id = pod.containers().remove(0).id;
    (pod, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_stays_bounded_without_an_agent_and_the_next_one_takes_over() {
    let machine = Machine::with_image().await;
    machine.kill_an_agent("agent_process").await;
    let log = machine.log_path("flood");
    until("the shim has rotated some times", || {
        let sizes = sizes(&log);
        assert!(sizes.iter().all(|it| *it <= CAP), "{sizes:?}");
        // A third is there for the moment between rename and removal.
        assert!(sizes.len() <= 3, "{sizes:?}");
        numbers_of_current(&log) > 100_000
    })
    .await;

    // The next agent is told of the log that is being filled, and rotation is its work again.
    let (pod, id) = found(&machine).await;
    assert!(matches!(pod.container(&id).unwrap().state, ContainerState::Running { .. }));
    let mut events = pod.events();
    // The first answer may meet a rotation of the shim's own, as an agent's would; after it the shim waits for the agent.
    for rotates in [false, true] {
        while !matches!(within(events.next()).await, Some(PodEvent::LogGrew { .. })) {}
        if rotates {
            fs::rename(&log, log.with_extension("log.mine")).unwrap();
        }
        pod.reopen_log(&id).await.unwrap();
    }
    until("the new log is full", || fs::metadata(&log).is_ok_and(|it| it.len() > CAP - (150 << 10))).await;
    let (_, last) = numbers(&[log.with_extension("log.mine")]);
    let (first, _) = numbers(&whole_lines(&log));
    assert_eq!(first, last + 1);
    pod.signal(&id, 9).await.unwrap();
    within(pod.wait(&id)).await.unwrap();
    pod.destroy().await.unwrap();
    machine.finish().await;
}

/// The last number in the log, 0 if it is just being made.
fn numbers_of_current(log: &Path) -> u64 {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |it| it.0);
    whole.lines().last().and_then(|line| line.splitn(4, ' ').nth(3)?.parse().ok()).unwrap_or(0)
}

/// A copy of a log that is being written, up to its last whole line.
fn whole_lines(log: &Path) -> [PathBuf; 1] {
    let copy = log.with_extension("copy");
    let text = fs::read_to_string(log).unwrap();
    fs::write(&copy, text.rsplit_once('\n').map_or(String::new(), |it| format!("{}\n", it.0))).unwrap();
    [copy]
}
