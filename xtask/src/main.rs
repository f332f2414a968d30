//! Development chores.

mod schema;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Development chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Generate the schema data of the built-in kinds (crates/kinds/schema).
    Schema(schema::Arguments),
}

fn main() -> std::process::ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Schema(arguments) => schema::run(&arguments),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln_line(&error);
            std::process::ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command line's errors")]
fn eprintln_line(text: &str) {
    eprintln!("{text}");
}
