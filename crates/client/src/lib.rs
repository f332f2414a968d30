//! One ClusterClient trait, its in-process and HTTPS forms, and the typed local mirror.
