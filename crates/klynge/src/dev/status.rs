//! `klynge dev ls` and `klynge dev status`.

use super::arguments::Direction;
use super::groups;
use super::machine::{Condition, Machine};
use super::record::{self, Record};
use super::slow::Slow;
use crate::cli::{Failure, Format, Global, Output};
use object::{Map, Value};

fn word(condition: &Condition, cut: Option<Direction>, slow: Option<&Slow>) -> String {
    let mut text = match condition {
        Condition::Off => "off".to_owned(),
        Condition::Paused => "paused".to_owned(),
        Condition::AgentAway(None) => "agent away".to_owned(),
        Condition::AgentAway(Some(how)) => format!("agent away ({how})"),
        Condition::Starting => "starting".to_owned(),
        Condition::Ready => "ready".to_owned(),
    };
    if let Some(direction) = cut {
        text.push_str(match direction {
            Direction::Both => ", cut off",
            Direction::From => ", cut off (from)",
            Direction::To => ", cut off (to)",
        });
    }
    if let Some(slow) = slow {
        text.push_str(&format!(", slow ({})", slow.describe()));
    }
    text
}

fn print(output: &Output, heads: &[&str], keys: &[&str], list: &str, rows: Vec<Vec<String>>) {
    if output.format == Some(Format::Name) {
        rows.iter().filter_map(|row| row.first()).for_each(|name| output.line(name));
        return;
    }
    let object = |row: &Vec<String>| {
        // In the text form everything is a word; for programs numbers are numbers, and what is not known is null.
        let number = |cell: &str| cell.parse().map_or(Value::Null, Value::Int);
        let mut map = Map::new();
        for (key, cell) in keys.iter().zip(row) {
            match (*key, cell.split_once(" of ")) {
                ("nodesUp", Some((up, all))) => {
                    map.insert("nodesUp", number(up));
                    map.insert("nodes", number(all));
                }
                ("nodesUp", None) => map.insert("state", cell.as_str()).map_or((), drop),
                ("processes" | "init", _) => map.insert(*key, number(cell)).map_or((), drop),
                _ => map.insert(*key, cell.as_str()).map_or((), drop),
            }
        }
        Value::Object(map)
    };
    let objects = Value::Array(rows.iter().map(object).collect());
    if !output.object(&Value::Object([(list, objects)].into_iter().collect())) {
        output.table(heads, &rows);
    }
}

/// The clusters.
pub(super) fn list(global: &Global, output: &Output) -> Result<(), Failure> {
    let base = record::base(global);
    let mut rows = Vec::new();
    for name in record::names(&base) {
        let row = match Record::load(&record::directory(&base, &name)) {
            Ok(Some(record)) => {
                let up = record
                    .numbers()
                    .filter(|number| Machine { record: &record, number: *number }.condition() != Condition::Off);
                vec![name, format!("{} of {}", up.count(), record.nodes), record.subnet.clone()]
            }
            Ok(None) => vec![name, "half made".to_owned(), String::new()],
            Err(failure @ Failure::NotRoot(_)) => return Err(failure),
            Err(_) => vec![name, "damaged".to_owned(), String::new()],
        };
        rows.push(row);
    }
    print(output, &["CLUSTER", "NODES UP", "SUBNET"], &["name", "nodesUp", "subnet"], "clusters", rows);
    Ok(())
}

/// The nodes of one cluster.
pub(super) fn run(global: &Global, name: &str, output: &Output) -> Result<(), Failure> {
    let record = Record::existing(&record::base(global), name)?;
    let mut rows = Vec::new();
    for number in record.numbers() {
        let machine = Machine { record: &record, number };
        let processes = groups::processes(&record.hierarchies, &record.group, Some(number));
        rows.push(vec![
            machine.name(),
            word(&machine.condition(), record.partitions.get(&number).copied(), record.slow.get(&number)),
            machine.address()?.to_string(),
            processes.len().to_string(),
            machine.init().map(|init| init.to_string()).unwrap_or_default(),
            record.data_dir(number).display().to_string(),
        ]);
    }
    let heads = ["NODE", "STATE", "ADDRESS", "PROCESSES", "INIT", "DATA DIRECTORY"];
    let keys = ["name", "state", "address", "processes", "init", "dataDir"];
    print(output, &heads, &keys, "nodes", rows);
    Ok(())
}
