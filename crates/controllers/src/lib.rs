//! Pure controllers: plan(snapshot, key, memory, now) gives actions.
