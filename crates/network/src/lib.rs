//! Pod network, Services, policy and DNS: each compiles purely, then applies.
