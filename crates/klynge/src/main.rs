//! The `klynge` binary: configuration, wiring, command line.

fn main() {}
