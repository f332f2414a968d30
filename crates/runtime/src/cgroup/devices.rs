//! Which devices a container may use, as rules of both control group versions.

/// What a container may do with devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceAccess {
    /// The standard ones; containers share one v1 group.
    Standard,
    /// The standard ones and these.
    With(Vec<Rule>),
    /// All (privileged).
    All,
}

/// One rule; a missing number means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) block: bool,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) make: bool,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

const fn all(major: u32, minor: Option<u32>) -> Rule {
    Rule { block: false, major: Some(major), minor, make: true, read: true, write: true }
}

/// What Docker and containerd allow by default: any node may be made, only these may be used.
pub(crate) const STANDARD: [Rule; 11] = [
    Rule { block: false, major: None, minor: None, make: true, read: false, write: false },
    Rule { block: true, major: None, minor: None, make: true, read: false, write: false },
    all(1, Some(3)),
    all(1, Some(5)),
    all(1, Some(7)),
    all(1, Some(8)),
    all(1, Some(9)),
    all(5, Some(0)),
    all(5, Some(1)),
    all(5, Some(2)),
    all(136, None),
];

impl Rule {
    /// The line that v1's devices.allow wants.
    pub(crate) fn line(&self) -> String {
        let number = |it: Option<u32>| it.map_or_else(|| "*".to_owned(), |it| it.to_string());
        let mut line = format!("{} {}:{} ", if self.block { 'b' } else { 'c' }, number(self.major), number(self.minor));
        for (granted, letter) in [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')] {
            if granted {
                line.push(letter);
            }
        }
        line
    }
}
