//! Writes launch programs: the flat list of steps that the shim's child carries out, and what each is called in errors.

use std::os::fd::OwnedFd;

use crate::{
    error::{Error, Result},
    wire,
};

/// A program being written.
#[derive(Default)]
pub(crate) struct Program {
    bytes: Vec<u8>,
    names: Vec<StepName>,
}

/// What a step does, for the sentence when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepName {
    /// Replacing the process by the container's command.
    Execute { command: String },
    /// Entering the working directory.
    WorkingDirectory(String),
    /// Becoming the container's user.
    Identity,
    /// Mounting a volume of the specification.
    Volume { source: String, target: String },
    /// Mounting what every container has.
    Mount { source: String, target: String },
    /// Anything else.
    Other(String),
}

/// One step being written; `done` closes it.
pub(crate) struct Step<'a> {
    program: &'a mut Program,
    start: usize,
}

impl Program {
    pub(crate) fn new() -> Program {
        let mut bytes = Vec::with_capacity(8 << 10);
        let head = u64::from(wire::PROGRAM_MAGIC) | u64::from(wire::PROTOCOL_VERSION) << 32;
        bytes.extend_from_slice(&head.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Program { bytes, names: Vec::new() }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, operation: u16, flags: u16, name: StepName) -> Step<'_> {
        self.names.push(name);
        let head = u64::from(operation) | u64::from(flags) << 16;
        self.bytes.extend_from_slice(&head.to_le_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        Step { program: self, start }
    }

    /// Begins a step that has no better name.
    pub(crate) fn plain(&mut self, operation: u16, flags: u16, name: &str) -> Step<'_> {
        self.step(operation, flags, StepName::Other(name.to_owned()))
    }

    /// Ends the program: its bytes in a memory file, and the names of its steps.
    pub(crate) fn finish(mut self) -> Result<(OwnedFd, Vec<StepName>)> {
        let length = self.bytes.len() as u64;
        if self.bytes.len() > wire::PROGRAM_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "arguments and environment are too long: {} bytes, at most {} are allowed",
                self.bytes.len(),
                wire::PROGRAM_BYTES_MAX
            )));
        }
        if let Some(place) = self.bytes.get_mut(8..16) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        let file = rustix::fs::memfd_create("klynge-program", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| Error::io("making a memory file", error))?;
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let count = rustix::io::write(&file, rest).map_err(|error| Error::io("writing a program", error))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok((file, self.names))
    }
}

impl Step<'_> {
    pub(crate) fn number(self, number: u64) -> Self {
        self.program.bytes.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let out = &mut self.program.bytes;
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(8), 0);
        self
    }

    /// A string; one with a NUL inside is cut there by the shim's reader refusing the step, so callers check before.
    pub(crate) fn text(self, text: &str) -> Self {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.bytes(&bytes)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let length = (self.program.bytes.len() - self.start - 8) as u64;
        if let Some(place) = self.program.bytes.get_mut(self.start..self.start + 8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
}
