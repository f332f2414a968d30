//! Ordered revisions: the embedded store engine and its watch window.
