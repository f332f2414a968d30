//! The `klynge` binary: configuration, wiring, command line.

mod agent;
mod beside;
mod cli;
mod commands;
mod dev;
mod explain;
mod kubelet;
mod server;
mod service;

use clap::{CommandFactory as _, Parser as _};
use cli::{Arguments, Command, Failure, Output};
use std::process::ExitCode;

fn main() -> ExitCode {
    abort_on_panic();
    let mut words = std::env::args_os().skip(1);
    let words = [words.next(), words.next()];
    if let [Some(word), Some(path)] = &words
        && let Some(word) =
            [dev::STAGE_WORD, dev::INIT_WORD, dev::DELAY_WORD].into_iter().find(|hidden| *word == *hidden)
    {
        return dev::hidden(word, path.as_ref());
    }
    if let [Some(word), Some(directory)] = &words {
        match word.to_str() {
            Some(network::dns::process::WORD) => return beside::names(directory.as_ref()),
            Some(network::wireguard::WORD) => return beside::encryption(directory.as_ref()),
            _ => {}
        }
    }
    let arguments = Arguments::parse();
    let global = &arguments.global;
    let output = Output::new(global.output, global.quiet);
    let outcome = match &arguments.command {
        Command::Server(server) => server::run(global, server),
        Command::Agent(agent) => agent::run(global, agent, &output),
        Command::Node(node) => commands::node::run(global, node, &output),
        Command::Dev(command) => dev::run(global, command, &output),
        Command::Token(token) => commands::token::run(global, token, &output),
        Command::Up(up) => commands::up::run(global, up, &output),
        Command::Down(down) => commands::down::run(global, down, &output),
        Command::Run(run) => commands::run::run(global, run, &output),
        Command::Image(image) => commands::image::run(global, image, &output),
        Command::Status(_) => commands::status::run(global, &output),
        Command::Explain(explain) => commands::explain::run(global, explain, &output),
        Command::Version => {
            let members = [("version", env!("CARGO_PKG_VERSION")), ("kubernetes", "1.37")];
            let named = output.format == Some(cli::Format::Name); // a version has no kind and no name
            if named || !output.object(&object::Value::Object(members.into_iter().collect())) {
                output.line(concat!("klynge ", env!("CARGO_PKG_VERSION"), " (Kubernetes API 1.37)"));
            }
            Ok(())
        }
        Command::Completions(completions) => {
            // Into memory first: the generator panics where its reader went away (`| head`).
            let mut script = Vec::new();
            clap_complete::generate(completions.shell, &mut Arguments::command(), "klynge", &mut script);
            output.line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => match output.lost() {
            None => ExitCode::SUCCESS,
            Some(why) => {
                output.error(&why);
                ExitCode::FAILURE
            }
        },
        Err(failure) => {
            if !matches!(failure, Failure::Command(_)) {
                output.error(&failure.to_string());
            }
            failure.code()
        }
    }
}

/// A panic ends the process, whichever thread it is in: a server with a dead room would only look alive. What runs outlives it.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}
