//! Images, root file systems, namespaces, cgroups, exec, logs, and the shim that outlives the agent.
