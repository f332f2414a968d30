//! Pure scheduling: place(snapshot, pods) gives bindings or the reason why not.
