//! A simulated cluster for tests of controllers.
#![expect(unused_imports, dead_code, reason = "each test binary uses its part")]

mod cluster;

pub(crate) use cluster::{Cluster, condition, merge, ready};
