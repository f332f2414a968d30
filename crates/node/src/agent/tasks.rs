//! The agent's tasks, all on one leash: stopping the agent ends them and waits for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// How long the agent's stop waits for what is better brought to its end, and then for what was told to end.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Running {
    /// Ended where they stand.
    endless: JoinSet<()>,
    /// Given some time to come to their end: half of what they do would be in the next agent's way.
    finishing: JoinSet<()>,
    stopped: bool,
}

/// Every task of one agent; a cheap handle.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Running>>);

/// Finished tasks are let go of whenever another one begins.
fn reap(set: &mut JoinSet<()>) {
    while set.try_join_next().is_some() {}
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that ends with the agent, wherever it stands. A stopped agent starts nothing.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut running = self.lock();
        if running.stopped {
            return None;
        }
        reap(&mut running.endless);
        Some(running.endless.spawn(task))
    }

    /// Starts a task that the agent's end waits for a while.
    pub fn spawn_to_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.lock();
        if !running.stopped {
            reap(&mut running.finishing);
            running.finishing.spawn(task);
        }
    }

    /// Runs what blocks on a thread for it. The agent's end waits for it also where nobody waits for its result any more.
    ///
    /// # Errors
    /// The agent is stopped, or the work panicked.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (sender, result) = oneshot::channel();
        {
            let mut running = self.lock();
            if running.stopped {
                return Err("the agent is being stopped".to_owned());
            }
            reap(&mut running.finishing);
            running.finishing.spawn_blocking(move || drop(sender.send(work())));
        }
        result.await.map_err(|_| "it ended before its time".to_owned())
    }

    /// Ends everything and waits for it: `FINISH_WITHIN` for what is to come to its end, and as long for the rest.
    pub async fn stop(&self) {
        let (mut endless, mut finishing) = self.take();
        endless.abort_all();
        if tokio::time::timeout(FINISH_WITHIN, drain(&mut finishing)).await.is_err() {
            tracing::warn!(
                tasks = finishing.len(),
                "the agent ends before what it was doing; the next one goes on with it"
            );
            finishing.abort_all();
        }
        // What blocks cannot be aborted; its thread outlives this wait.
        let _ = tokio::time::timeout(FINISH_WITHIN, drain(&mut endless)).await;
        finishing.detach_all();
    }

    /// Ends everything without waiting.
    pub fn abort(&self) {
        let (mut endless, mut finishing) = self.take();
        endless.abort_all();
        finishing.abort_all();
    }

    fn take(&self) -> (JoinSet<()>, JoinSet<()>) {
        let mut running = self.lock();
        running.stopped = true;
        (std::mem::take(&mut running.endless), std::mem::take(&mut running.finishing))
    }
}

async fn drain(set: &mut JoinSet<()>) {
    while set.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stopping_ends_what_is_endless_and_waits_for_what_ends() {
        let tasks = Tasks::default();
        let flag = || Arc::new(AtomicBool::new(false));
        let (finished, blocked, dropped) = (flag(), flag(), flag());
        struct OnDrop(Arc<AtomicBool>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let guard = OnDrop(Arc::clone(&dropped));
        tasks
            .spawn(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            })
            .unwrap();
        let done = Arc::clone(&finished);
        tasks.spawn_to_end(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.store(true, Ordering::SeqCst);
        });
        let done = Arc::clone(&blocked);
        let forgotten = tasks.blocking(move || {
            std::thread::sleep(Duration::from_millis(80));
            done.store(true, Ordering::SeqCst);
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), forgotten).await.is_err());
        let begun = Instant::now();
        tasks.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        for (flag, what) in [(finished, "finished"), (blocked, "blocked"), (dropped, "dropped")] {
            assert!(flag.load(Ordering::SeqCst), "{what}");
        }
        assert!(tasks.spawn(async {}).is_none());
        assert_eq!(tasks.blocking(|| 1).await, Err("the agent is being stopped".to_owned()));
    }
}
