//! Device rules on cgroup v2: a small BPF program, assembled here and attached to the group. The one module with bpf(2).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::devices::Rule;

const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

/// A program that returns 1 when one of the rules grants the access and 0 otherwise.
pub(crate) fn assemble(rules: &[Rule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    // r2 type, r3 access, r4 major, r5 minor
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let granted = [(rule.make, ACCESS_MAKE), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)];
        let granted: i32 = granted.iter().filter(|(given, _)| *given).map(|(_, bit)| bit).sum();
        let kind = if rule.block { TYPE_BLOCK } else { TYPE_CHARACTER };
        let numbers = [(4u8, rule.major), (5u8, rule.minor)];
        let mut tests = vec![(2u8, kind)];
        tests.extend(numbers.iter().filter_map(|(register, number)| number.map(|it| (*register, it as i32))));
        // After the tests: copy the access, mask what is granted, skip if anything is left, return 1.
        let mut left = tests.len() + 3;
        for (register, value) in tests {
            program.push(instruction(JUMP_NOT_EQUAL, register, 0, (left + 1) as i16, value));
            left -= 1;
        }
        program.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
        program.push(instruction(AND, 1, 0, 0, !granted & 7));
        program.push(instruction(JUMP_NOT_EQUAL, 1, 0, 2, 0));
        program.push(instruction(MOVE, 0, 0, 0, 1));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

fn bpf(command: i32, attributes: &mut [u64; 16]) -> io::Result<i32> {
    // SAFETY: the attributes are zeroed memory of the size given, filled as the command wants, and live during the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Loads a program for device access.
pub(crate) fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = [0u64; 16];
    attributes[0] = 15 | (program.len() as u64) << 32;
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    let descriptor = bpf(5, &mut attributes)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches a program to a v2 group; it lives as long as the group.
pub(crate) fn attach(program: BorrowedFd<'_>, group: BorrowedFd<'_>) -> io::Result<()> {
    const ALLOW_MULTIPLE: u64 = 2;
    let mut attributes = [0u64; 16];
    attributes[0] = group.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    attributes[1] = 6 | ALLOW_MULTIPLE << 32;
    bpf(8, &mut attributes).map(drop)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use super::*;
    use crate::cgroup::devices::STANDARD;

    /// Interprets the few instructions that `assemble` uses.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let it = program[at];
            let (code, to, from) = (it as u8, (it >> 8 & 15) as usize, (it >> 12 & 15) as usize);
            let (offset, immediate) = ((it >> 16) as i16, (it >> 32) as i32 as i64 as u64);
            at += 1;
            match code {
                0x61 => registers[to] = u64::from(context[offset as usize / 4]),
                0xb7 => registers[to] = immediate,
                0xbf => registers[to] = registers[from],
                0x57 => registers[to] &= immediate,
                0x77 => registers[to] >>= immediate,
                0x55 if registers[to] != immediate => at += offset as usize,
                0x55 => {}
                0x95 => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn grants_what_the_rules_grant() {
        let program = assemble(&STANDARD);
        let cases = [
            (2, 6, 1, 3, 1),   // read and write /dev/null
            (2, 2, 1, 1, 0),   // read /dev/mem
            (2, 1, 1, 1, 1),   // make any node
            (1, 1, 8, 0, 1),   // make a disk node
            (1, 2, 8, 0, 0),   // read it
            (2, 6, 136, 7, 1), // a terminal
            (2, 7, 5, 2, 1),   // /dev/ptmx
            (2, 4, 10, 229, 0),
        ];
        for (kind, access, major, minor, expected) in cases {
            assert_eq!(run(&program, kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        match load(&assemble(&STANDARD)) {
            Ok(_) => {}
            // Refused in some sandboxes, where the warning at start says so.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
        }
    }
}
