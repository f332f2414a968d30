//! Work queues that run controllers and scheduler and carry their actions out.
