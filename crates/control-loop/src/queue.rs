//! A work queue per controller: each key once, one plan at a time, with back-off after failures.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use controllers::Key;
use jiff::{SignedDuration, Timestamp};

/// The first wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The longest wait between two tries of a key.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a key waits for the mirrors to show its own last commit before it is planned all the same.
const COMMIT_WAIT_MAX: SignedDuration = SignedDuration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    queued: bool,
    running: bool,
    /// Something changed while the key was running or waiting.
    dirty: bool,
    failures: u32,
    /// Mirrors that must reach these revisions first: (index of the mirror, revision).
    awaited: Vec<(usize, u64)>,
    wait_ends: Option<Timestamp>,
    timer: Option<Timestamp>,
}

/// The keys of one controller.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<Key>,
    states: HashMap<Key, State>,
    waiting: BTreeSet<(usize, u64, Key)>,
    timers: BTreeSet<(Timestamp, Key)>,
}

impl Queue {
    /// Something about the key changed.
    pub(crate) fn add(&mut self, key: Key) {
        let state = self.states.entry(key.clone()).or_default();
        if state.running || !state.awaited.is_empty() || state.failures > 0 && state.timer.is_some() {
            state.dirty = true;
        } else if !state.queued {
            state.queued = true;
            self.ready.push_back(key);
        }
    }

    /// The next key to plan.
    pub(crate) fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        if let Some(state) = self.states.get_mut(&key) {
            state.queued = false;
            state.running = true;
            state.dirty = false;
            if let Some(at) = state.timer.take() {
                self.timers.remove(&(at, key.clone()));
            }
        }
        Some(key)
    }

    /// Looks at the key again at this time even if nothing changes.
    pub(crate) fn wake_at(&mut self, key: &Key, at: Timestamp) {
        let Some(state) = self.states.get_mut(key) else { return };
        if let Some(known) = state.timer {
            if known <= at {
                return;
            }
            self.timers.remove(&(known, key.clone()));
        }
        state.timer = Some(at);
        self.timers.insert((at, key.clone()));
    }

    /// The key's plan has been carried out; `commits` must be seen before it is planned again.
    pub(crate) fn done(&mut self, key: &Key, commits: Vec<(usize, u64)>, failed: bool, seen: &[u64], now: Timestamp) {
        let Some(state) = self.states.get_mut(key) else { return };
        state.running = false;
        state.awaited = commits
            .into_iter()
            .filter(|(mirror, revision)| seen.get(*mirror).is_some_and(|seen| seen < revision))
            .collect();
        for (mirror, revision) in &state.awaited {
            self.waiting.insert((*mirror, *revision, key.clone()));
        }
        let ends = now.checked_add(COMMIT_WAIT_MAX).unwrap_or(now);
        if !state.awaited.is_empty() {
            state.wait_ends = Some(ends);
            // A plan that committed something is looked at again once its result is seen.
            state.dirty = true;
            self.timers.insert((ends, key.clone()));
        }
        if failed {
            state.failures = state.failures.saturating_add(1);
            let wait = BACKOFF_MIN.saturating_mul(1_u32 << state.failures.min(16)).min(BACKOFF_MAX);
            let at = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(now);
            self.wake_at(key, at);
        } else {
            state.failures = 0;
            if !state.awaited.is_empty() {
                return;
            }
            if state.dirty {
                self.requeue(key);
            } else if state.timer.is_none() {
                self.states.remove(key);
            }
        }
    }

    fn requeue(&mut self, key: &Key) {
        if let Some(state) = self.states.get_mut(key)
            && !state.queued
            && !state.running
        {
            state.queued = true;
            state.dirty = false;
            self.ready.push_back(key.clone());
        }
    }

    /// A mirror has reached a revision: keys that waited for it may go on.
    pub(crate) fn seen(&mut self, mirror: usize, revision: u64) {
        while let Some((first_mirror, first_revision, key)) =
            self.waiting.range((mirror, 0, Key::default())..).next().cloned()
        {
            if first_mirror != mirror || first_revision > revision {
                return;
            }
            self.waiting.remove(&(first_mirror, first_revision, key.clone()));
            let Some(state) = self.states.get_mut(&key) else { continue };
            state.awaited.retain(|awaited| *awaited != (first_mirror, first_revision));
            if state.awaited.is_empty() {
                if let Some(ends) = state.wait_ends.take() {
                    self.timers.remove(&(ends, key.clone()));
                    if let Some(timer) = state.timer {
                        self.timers.insert((timer, key.clone()));
                    }
                }
                // After a failure the back-off decides, unless it has passed in the meantime.
                if state.dirty && (state.failures == 0 || state.timer.is_none()) {
                    self.requeue(&key);
                }
            }
        }
    }

    /// Keys whose time has come become ready.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, key.clone()));
            let Some(state) = self.states.get_mut(&key) else { continue };
            if state.timer == Some(at) {
                state.timer = None;
            }
            if state.wait_ends.is_some_and(|ends| ends <= now) {
                tracing::warn!(?key, "the mirrors do not show a commit of this key; planning without it");
                state.wait_ends = None;
                for (mirror, revision) in std::mem::take(&mut state.awaited) {
                    self.waiting.remove(&(mirror, revision, key.clone()));
                }
            }
            if state.running || !state.awaited.is_empty() {
                state.dirty = true;
            } else {
                self.requeue(&key);
            }
        }
    }

    /// When `tick` is next worth calling.
    pub(crate) fn next_tick(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[test]
    fn a_key_waits_for_its_own_commit() {
        let (mut queue, now) = (Queue::default(), Timestamp::UNIX_EPOCH);
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!((queue.take(), queue.take()), (Some(key("a")), None));
        queue.add(key("a"));
        assert_eq!(queue.take(), None, "a running key is not planned a second time");
        queue.done(&key("a"), vec![(0, 7), (1, 9)], false, &[6, 6], now);
        queue.seen(0, 7);
        assert_eq!(queue.take(), None);
        queue.seen(1, 12);
        assert_eq!(queue.take(), Some(key("a")));
        queue.done(&key("a"), vec![(0, 7)], false, &[7, 12], now);
        assert_eq!((queue.take(), queue.states.len(), queue.timers.len()), (None, 0, 0));
    }

    #[test]
    fn a_failure_beside_a_commit_waits_for_both() {
        let (mut queue, now) = (Queue::default(), Timestamp::UNIX_EPOCH);
        queue.add(key("a"));
        queue.take();
        queue.done(&key("a"), vec![(0, 7)], true, &[1], now);
        queue.tick(now + SignedDuration::from_secs(1));
        assert_eq!(queue.take(), None, "the commit is not seen yet");
        queue.seen(0, 7);
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[test]
    fn a_commit_that_never_shows_is_given_up() {
        let (mut queue, now) = (Queue::default(), Timestamp::UNIX_EPOCH);
        queue.add(key("a"));
        queue.take();
        queue.done(&key("a"), vec![(0, 7)], false, &[1], now);
        let ends = queue.next_tick();
        assert_eq!(ends, now.checked_add(COMMIT_WAIT_MAX).ok());
        queue.tick(ends.unwrap_or(now));
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[test]
    fn failures_back_off_up_to_a_limit_and_changes_do_not_shorten_it() {
        let (mut queue, mut now) = (Queue::default(), Timestamp::UNIX_EPOCH);
        queue.add(key("a"));
        let mut waits = Vec::new();
        for _ in 0..16 {
            assert_eq!(queue.take(), Some(key("a")));
            queue.done(&key("a"), vec![], true, &[], now);
            queue.add(key("a"));
            assert_eq!(queue.take(), None);
            let next = queue.next_tick().unwrap_or(now);
            waits.push(next.duration_since(now).as_millis());
            now = next;
            queue.tick(now);
        }
        assert_eq!((waits[0], waits[1], waits[2], waits[15]), (20, 40, 80, 60_000));
    }
}
