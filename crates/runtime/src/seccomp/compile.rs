//! Translates a policy to classic BPF: a binary search over ranges of system call numbers, then argument tests.

use std::collections::BTreeMap;

/// What the kernel does with a call: `SECCOMP_RET_*` with its data.
pub(crate) type Action = u32;
/// Go ahead.
pub(crate) const ALLOW: Action = 0x7fff_0000;
/// Fail with this errno.
pub(crate) const fn errno(errno: u32) -> Action {
    0x0005_0000 | (errno & 0xffff)
}

/// A test of one 64-bit argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// `argument & mask == value`.
    Masked { argument: u32, mask: u64, value: u64 },
    /// `argument != value`.
    NotEqual { argument: u32, value: u64 },
    /// `argument > value`, or `>=`.
    Greater { argument: u32, value: u64, or_equal: bool },
    /// `argument < value`, or `<=`.
    Less { argument: u32, value: u64, or_equal: bool },
}

/// If all tests hold, the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) tests: Vec<Test>,
    pub(crate) action: Action,
}

/// For every system call its rules, tried in order; what is left gets the default action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) default: Action,
    pub(crate) calls: BTreeMap<u32, Vec<Rule>>,
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
/// The kernel's limit.
const INSTRUCTIONS_MAX: usize = 4096;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

const fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, value }
}
const fn jump(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

/// The filter's bytes; none if it would be longer than the kernel allows.
pub(crate) fn compile(policy: &Policy) -> Option<Vec<u8>> {
    let mut program = vec![
        plain(LOAD, 4),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        // A call of another architecture (32-bit programs on x86-64) is as if the kernel did not have it.
        plain(RETURN, errno(libc::ENOSYS as u32)),
        plain(LOAD, 0),
        jump(JUMP_GREATER_EQUAL, 0x4000_0000, 0, 1),
        plain(RETURN, errno(libc::ENOSYS as u32)),
    ];
    let mut ranges: Vec<(u32, Vec<Rule>)> = Vec::new();
    let mut next = 0;
    for (number, rules) in &policy.calls {
        if *number > next {
            push(&mut ranges, next, Vec::new());
        }
        push(&mut ranges, *number, rules.clone());
        next = number + 1;
    }
    push(&mut ranges, next, Vec::new());
    program.extend(search(&ranges, policy.default));
    if program.len() > INSTRUCTIONS_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for it in program {
        bytes.extend_from_slice(&it.code.to_le_bytes());
        bytes.extend_from_slice(&[it.yes, it.no]);
        bytes.extend_from_slice(&it.value.to_le_bytes());
    }
    Some(bytes)
}

/// Adds a range unless the one before it has the same rules.
fn push(ranges: &mut Vec<(u32, Vec<Rule>)>, from: u32, rules: Vec<Rule>) {
    if ranges.last().is_none_or(|(_, last)| *last != rules) {
        ranges.push((from, rules));
    }
}

fn search(ranges: &[(u32, Vec<Rule>)], default: Action) -> Vec<Instruction> {
    match ranges {
        [] => vec![plain(RETURN, default)],
        [(_, rules)] => leaf(rules, default),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(from, _)| *from);
            let low = search(low, default);
            let mut code = vec![jump(JUMP_GREATER_EQUAL, middle, 0, 1), plain(JUMP, low.len() as u32)];
            code.extend(low);
            code.extend(search(high, default));
            code
        }
    }
}

fn leaf(rules: &[Rule], default: Action) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        // Each test ends by jumping over what follows of this rule when it fails, so build from the back.
        let mut tail = vec![plain(RETURN, rule.action)];
        for test in rule.tests.iter().rev() {
            let mut with_test = test_code(*test, tail.len() as u32);
            with_test.extend(tail);
            tail = with_test;
        }
        code.extend(tail);
        if rule.tests.is_empty() {
            return code;
        }
    }
    code.push(plain(RETURN, default));
    code
}

/// Code that falls through when the test holds and skips `rest` further instructions otherwise.
fn test_code(test: Test, rest: u32) -> Vec<Instruction> {
    let offset = |argument: u32| 16 + argument * 8;
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let skip = plain(JUMP, rest);
    match test {
        Test::Masked { argument, mask, value } => {
            let ((mask_low, mask_high), (low, high)) = (halves(mask), halves(value));
            vec![
                plain(LOAD, offset(argument) + 4),
                plain(AND, mask_high),
                jump(JUMP_EQUAL, high, 0, 3),
                plain(LOAD, offset(argument)),
                plain(AND, mask_low),
                jump(JUMP_EQUAL, low, 1, 0),
                skip,
            ]
        }
        Test::NotEqual { argument, value } => {
            let (low, high) = halves(value);
            vec![
                plain(LOAD, offset(argument) + 4),
                jump(JUMP_EQUAL, high, 0, 3),
                plain(LOAD, offset(argument)),
                jump(JUMP_EQUAL, low, 0, 1),
                skip,
            ]
        }
        Test::Greater { argument, value, or_equal } => {
            let (low, high) = halves(value);
            let last = if or_equal { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                plain(LOAD, offset(argument) + 4),
                jump(JUMP_GREATER, high, 4, 0),
                jump(JUMP_EQUAL, high, 0, 2),
                plain(LOAD, offset(argument)),
                jump(last, low, 1, 0),
                skip,
            ]
        }
        Test::Less { argument, value, or_equal } => {
            let (low, high) = halves(value);
            // Not (greater), and not (greater or equal), with the outcomes exchanged.
            let last = if or_equal { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                plain(LOAD, offset(argument) + 4),
                jump(JUMP_GREATER, high, 3, 0),
                jump(JUMP_EQUAL, high, 0, 3),
                plain(LOAD, offset(argument)),
                jump(last, low, 0, 1),
                skip,
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn run(filter: &[u8], number: u32, architecture: u32, arguments: [u64; 6]) -> Action {
        let mut data = vec![];
        data.extend_from_slice(&number.to_le_bytes());
        data.extend_from_slice(&architecture.to_le_bytes());
        data.extend_from_slice(&[0; 8]);
        arguments.iter().for_each(|it| data.extend_from_slice(&it.to_le_bytes()));
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let it = &filter[at * 8..at * 8 + 8];
            let code = u16::from_le_bytes(it[..2].try_into().unwrap());
            let value = u32::from_le_bytes(it[4..].try_into().unwrap());
            at += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { it[2] } else { it[3] });
            match code {
                LOAD => a = u32::from_le_bytes(data[value as usize..value as usize + 4].try_into().unwrap()),
                AND => a &= value,
                JUMP => at += value as usize,
                JUMP_EQUAL => branch(a == value),
                JUMP_GREATER => branch(a > value),
                JUMP_GREATER_EQUAL => branch(a >= value),
                RETURN => return value,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn interprets_as_the_policy_says() {
        let big = 5 << 32 | 7;
        let one = |test| vec![Rule { tests: vec![test], action: ALLOW }];
        let always = vec![Rule { tests: vec![], action: ALLOW }];
        let mut policy = Policy { default: errno(1), ..Policy::default() };
        for number in (0..400).step_by(3) {
            policy.calls.insert(number, always.clone());
        }
        policy.calls.insert(1, one(Test::Masked { argument: 0, mask: CLONE, value: 0 }));
        policy.calls.insert(2, one(Test::NotEqual { argument: 1, value: big }));
        policy.calls.insert(4, one(Test::Greater { argument: 5, value: big, or_equal: false }));
        policy.calls.insert(5, one(Test::Greater { argument: 5, value: big, or_equal: true }));
        policy.calls.insert(7, one(Test::Less { argument: 5, value: big, or_equal: false }));
        policy.calls.insert(8, one(Test::Less { argument: 5, value: big, or_equal: true }));
        const CLONE: u64 = 0x7e02_0000;
        let filter = compile(&policy).unwrap();
        let with = |at: usize, value: u64| {
            let mut all = [0; 6];
            all[at] = value;
            all
        };
        for number in 9..500 {
            let expected = if number % 3 == 0 && number < 400 { ALLOW } else { errno(1) };
            assert_eq!(run(&filter, number, ARCHITECTURE, [0; 6]), expected, "{number}");
        }
        assert_eq!(run(&filter, 3, 0x4000_0003, [0; 6]), errno(38));
        assert_eq!(run(&filter, 0x4000_0003, ARCHITECTURE, [0; 6]), errno(38));
        for (number, at, value, allowed) in [
            (1, 0, 0x11, true),
            (1, 0, 0x2_0011, false),
            (2, 1, big, false),
            (2, 1, 7, true),
            (4, 5, big, false),
            (4, 5, big + 1, true),
            (4, 5, 6 << 32, true),
            (4, 5, 100, false),
            (5, 5, big, true),
            (5, 5, big - 1, false),
            (7, 5, big, false),
            (7, 5, big - 1, true),
            (7, 5, 6 << 32, false),
            (7, 5, 100, true),
            (8, 5, big, true),
            (8, 5, big + 1, false),
        ] {
            let got = run(&filter, number, ARCHITECTURE, with(at, value));
            assert_eq!(got == ALLOW, allowed, "call {number}, argument {value:#x}");
        }
    }
}
