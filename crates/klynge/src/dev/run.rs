//! Which command goes where.

use super::arguments::{DevCommand, DevImageCommand};
use super::record::{self, Record};
use super::{down, enter, images, node, status, up};
use crate::cli::{Failure, Global, Output};

/// Carries a `klynge dev` command out.
pub(crate) fn run(global: &Global, command: &DevCommand, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge dev")?;
    record::check_base(&record::base(global))?;
    match command {
        DevCommand::Up(arguments) => up::run(global, arguments, output),
        DevCommand::Ls => status::list(global, output),
        DevCommand::Status(name) => status::run(global, &name.name, output),
        DevCommand::Image(DevImageCommand::Import { file, name }) => {
            let record = Record::existing(&record::base(global), &name.name)?;
            images::give(&record, file, output)
        }
        DevCommand::Node(command) => node::run(global, command, output),
        DevCommand::Exec(arguments) => enter::run(global, &arguments.node, &arguments.command),
        DevCommand::Down(arguments) => down::run(global, arguments, output),
    }
}
