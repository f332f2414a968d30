//! `klynge dev node`: what can be done to single nodes.

use super::arguments::{DevNodeCommand, DevNodes, DevSlowArguments, Direction};
use super::lock::Lock;
use super::machine::{self, Condition, Machine};
use super::record::{self, Record};
use super::slow::{Form, Slow};
use super::{delay, groups, plan};
use crate::cli::{Failure, Global, Output};
use std::path::Path;
use std::time::{Duration, Instant};

/// A node that is started again is ready in this time, or the command says that it is not.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Action {
    StopAgent,
    KillAgent,
    StartAgent,
    RestartAgent,
    Kill,
    Start,
    Pause,
    Resume,
    Partition(Direction),
    Slow(Option<Slow>),
    Heal,
}

/// Carries a command out on each of its nodes.
pub(super) fn run(global: &Global, command: &DevNodeCommand, output: &Output) -> Result<(), Failure> {
    let (action, nodes) = match command {
        DevNodeCommand::StopAgent(nodes) => (Action::StopAgent, nodes),
        DevNodeCommand::KillAgent(nodes) => (Action::KillAgent, nodes),
        DevNodeCommand::StartAgent(nodes) => (Action::StartAgent, nodes),
        DevNodeCommand::RestartAgent(nodes) => (Action::RestartAgent, nodes),
        DevNodeCommand::Kill(nodes) => (Action::Kill, nodes),
        DevNodeCommand::Start(nodes) => (Action::Start, nodes),
        DevNodeCommand::Pause(nodes) => (Action::Pause, nodes),
        DevNodeCommand::Resume(nodes) => (Action::Resume, nodes),
        DevNodeCommand::Partition { nodes, direction } => (Action::Partition(*direction), nodes),
        DevNodeCommand::Slow(arguments) => (Action::Slow(slowness(arguments)?), &arguments.nodes),
        DevNodeCommand::Heal(nodes) => (Action::Heal, nodes),
    };
    each(global, nodes, |base, name, number| {
        let _lock = Lock::of_cluster(base, name)?;
        let mut record = Record::existing(base, name)?;
        if number > record.nodes {
            return Err(unknown(&record, number));
        }
        machine::refresh(&mut record)?;
        act(&mut record, number, action)?;
        let done = match (action, record.slow.get(&number)) {
            (Action::Slow(_), Some(slow)) => format!("is slow: {}", slow.describe()),
            _ => done(action).to_owned(),
        };
        output.line(&format!("{} {done}", plan::node_name(name, number)));
        Ok(())
    })
}

fn done(action: Action) -> &'static str {
    match action {
        Action::StopAgent => "agent stopped; its pods go on",
        Action::KillAgent => "agent killed; its pods go on",
        Action::StartAgent | Action::RestartAgent => "agent started",
        Action::Kill => "killed",
        Action::Start => "started",
        Action::Pause => "paused",
        Action::Resume => "resumed",
        Action::Partition(Direction::Both) => "cut off",
        Action::Partition(Direction::From) => "cut off: what it sends is lost",
        Action::Partition(Direction::To) => "cut off: what is sent to it is lost",
        Action::Slow(_) => "as fast as ever",
        Action::Heal => "healed",
    }
}

fn each(
    global: &Global,
    nodes: &DevNodes,
    mut act: impl FnMut(&Path, &str, u16) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let base = record::base(global);
    let parsed: Result<Vec<_>, String> = nodes.nodes.iter().map(|node| plan::parse_node(node)).collect();
    let mut parsed = parsed.map_err(Failure::Usage)?;
    // The first node has the control plane, which the others wait for.
    parsed.sort_by_key(|(_, number)| *number);
    for (name, number) in parsed {
        act(&base, &name, number)?;
    }
    Ok(())
}

pub(super) fn unknown(record: &Record, number: u16) -> Failure {
    Failure::NotFound(format!(
        "cluster {} has no node {}: its nodes are {} to {}",
        record.name,
        plan::node_name(&record.name, number),
        plan::node_name(&record.name, 1),
        plan::node_name(&record.name, record.nodes)
    ))
}

fn act(record: &mut Record, number: u16, action: Action) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    match action {
        Action::Start => return start(record, number, deadline),
        Action::Partition(direction) => return partition(record, number, Some(direction)),
        Action::Slow(slow) => return link(record, number, slow),
        Action::Heal => {
            partition(record, number, None)?;
            return link(record, number, None);
        }
        Action::Kill => {
            let namespace = machine::home(record)?;
            let switch = machine::switch_of(record, &namespace)?;
            Machine { record, number }.kill(&switch)?;
            switch.heal(number)?;
            switch.unslow(number, None)?;
            delay::stop(record, number)?;
            record.partitions.remove(&number);
            record.slow.remove(&number);
            return record.save();
        }
        _ => {}
    }
    let machine = Machine { record, number };
    let condition = machine.condition();
    let name = machine.name();
    if condition == Condition::Off {
        return Err(Failure::Failed(format!("node {name} does not run; start it with `klynge dev node start {name}`")));
    }
    if condition == Condition::Paused && !matches!(action, Action::Resume | Action::Pause) {
        return Err(Failure::Failed(format!(
            "node {name} is paused; let it go on with `klynge dev node resume {name}`"
        )));
    }
    match action {
        Action::StopAgent => machine.end_agent("stop"),
        Action::KillAgent => machine.end_agent("kill"),
        Action::RestartAgent => {
            machine.end_agent("stop")?;
            machine.start_agent(None)?;
            machine.wait_ready(deadline)
        }
        Action::StartAgent => {
            machine.start_agent(None)?;
            machine.wait_ready(deadline)
        }
        Action::Pause => groups::freeze(&record.hierarchies, &record.group, number, true),
        Action::Resume => groups::freeze(&record.hierarchies, &record.group, number, false),
        Action::Kill | Action::Start | Action::Partition(_) | Action::Slow(_) | Action::Heal => Ok(()),
    }
}

fn start(record: &mut Record, number: u16, deadline: Instant) -> Result<(), Failure> {
    let namespace = machine::home(record)?;
    let switch = machine::switch_of(record, &namespace)?;
    let machine = Machine { record, number };
    match machine.condition() {
        Condition::Off => {
            // A birth that was interrupted may have left something.
            machine.kill(&switch)?;
            delay::stop(record, number)?;
            switch.ensure()?;
            let stage = machine.spawn()?;
            switch.connect(number, machine.born(stage)?)?;
        }
        Condition::Paused => {
            return Err(Failure::Failed(format!(
                "node {} runs and is paused; let it go on with `klynge dev node resume {}`",
                machine.name(),
                machine.name()
            )));
        }
        // Connected again, since a kill that was interrupted takes the link first.
        _ => {
            if let Some(init) = machine.init()
                && !switch.is_connected(number)?
            {
                switch.connect(number, init)?;
            }
        }
    }
    machine.start_agent(None)?;
    machine.wait_ready(deadline)
}

fn partition(record: &mut Record, number: u16, direction: Option<Direction>) -> Result<(), Failure> {
    let namespace = machine::home(record)?;
    let switch = machine::switch_of(record, &namespace)?;
    switch.heal(number)?;
    match direction {
        Some(direction) => {
            if !switch.is_connected(number)? {
                let name = plan::node_name(&record.name, number);
                return Err(Failure::Failed(format!(
                    "node {name} does not run, so it is cut off already; start it with `klynge dev node start {name}`"
                )));
            }
            switch.cut(number, direction)?;
            record.partitions.insert(number, direction);
        }
        None => {
            record.partitions.remove(&number);
        }
    }
    record.save()
}

/// What is asked for; none for what `--off` asks.
fn slowness(arguments: &DevSlowArguments) -> Result<Option<Slow>, Failure> {
    if arguments.off {
        return Ok(None);
    }
    let slow = Slow {
        delay_ms: arguments.delay,
        jitter_ms: arguments.jitter,
        lost: arguments.loss,
        rate: arguments.rate,
        form: None,
    };
    slow.check().map_err(Failure::Usage)?;
    Ok(Some(slow))
}

/// Makes a node's link slow, or as it was; what it was made before is undone first.
fn link(record: &mut Record, number: u16, slow: Option<Slow>) -> Result<(), Failure> {
    let made = make_slow(record, number, slow);
    match &made {
        Ok(Some(slow)) => record.slow.insert(number, *slow),
        _ => record.slow.remove(&number),
    };
    record.save()?;
    made.map(drop)
}

fn make_slow(record: &Record, number: u16, slow: Option<Slow>) -> Result<Option<Slow>, Failure> {
    let namespace = machine::home(record)?;
    let switch = machine::switch_of(record, &namespace)?;
    let machine = Machine { record, number };
    let init = machine.init();
    let undo = || {
        switch.unslow(number, init)?;
        delay::stop(record, number)
    };
    undo()?;
    let Some(slow) = slow else { return Ok(None) };
    let Some(init) = init else {
        let name = machine.name();
        return Err(Failure::Failed(format!("node {name} does not run; start it with `klynge dev node start {name}`")));
    };
    let made = switch.slow(number, init, &slow).and_then(|form| {
        if form == Some(Form::Queue) {
            delay::start(record, number, init, &slow)?;
        }
        Ok(Some(Slow { form, ..slow }))
    });
    if made.is_err() {
        undo()?;
    }
    made
}
