//! Development chores: `cargo xtask tidy | bench NAME | schema`.

mod bench;
mod schema;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "xtask", about = "Development chores of Klynge")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the project's own rules: arrows between crates, file sizes, headers, banned words
    Tidy,
    /// Run a benchmark by its name in SPEC.md, or all of them
    Bench(bench::Arguments),
    /// Generate the schema data of the built-in kinds (crates/kinds/schema)
    Schema(schema::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Tidy => tidy::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
