//! Power loss: a disk in memory that forgets what was not synced, or keeps any part of it, in any order.

use crate::common::*;
use klynge_store::embedded::disk::{Disk, File};
use klynge_store::embedded::{Embedded, Options, open};
use klynge_store::{Expect, Revision, Store, Transaction, WatchError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes that reach the disk together or not at all.
const SECTOR_BYTES: usize = 64;

#[derive(Clone)]
enum Pending {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Default)]
struct World {
    files: Vec<Contents>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn write_into(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl World {
    /// What is found after the power comes back.
    fn after_power_loss(&self, random: &mut Random) -> Self {
        let mut after = self.clone();
        if random.below(2) == 0 {
            after.names = after.durable_names.clone();
        }
        after.durable_names = after.names.clone();
        // Nothing, everything, or about half of what was in flight.
        let kept_of_four = [0, 2, 4][random.below(3) as usize];
        for file in &mut after.files {
            let mut contents = std::mem::take(&mut file.durable);
            for pending in std::mem::take(&mut file.pending) {
                match pending {
                    Pending::Truncate(length) if random.below(4) < kept_of_four => contents.resize(length, 0),
                    Pending::Truncate(_) => {}
                    Pending::Write { offset, bytes } => {
                        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                            if random.below(4) < kept_of_four {
                                write_into(&mut contents, offset + index * SECTOR_BYTES, sector);
                            }
                        }
                    }
                }
            }
            file.now = contents.clone();
            file.durable = contents;
        }
        after
    }
}

struct MemoryDisk(Arc<Mutex<World>>);

struct MemoryFile {
    world: Arc<Mutex<World>>,
    index: usize,
}

impl MemoryDisk {
    fn file(&self, index: usize) -> Box<dyn File> {
        Box::new(MemoryFile { world: Arc::clone(&self.0), index })
    }
}

impl Disk for MemoryDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        // The lock is a real file.
        std::fs::create_dir_all(path)
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let world = self.0.lock().unwrap();
        Ok(world.names.keys().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut world = self.0.lock().unwrap();
        world.files.push(Contents::default());
        let index = world.files.len() - 1;
        world.names.insert(path.into(), index);
        Ok(self.file(index))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let world = self.0.lock().unwrap();
        let index = world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(*index))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        let index = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.into(), index);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.durable_names = world.names.clone();
        Ok(())
    }
}

impl File for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.world.lock().unwrap().files[self.index].now.len() as u64)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = self.world.lock().unwrap();
        let rest = world.files[self.index].now.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let file = &mut self.world.lock().unwrap().files[self.index];
        write_into(&mut file.now, offset as usize, bytes);
        file.pending.push(Pending::Write { offset: offset as usize, bytes: bytes.to_vec() });
        Ok(bytes.len())
    }
    fn sync(&self) -> io::Result<()> {
        let file = &mut self.world.lock().unwrap().files[self.index];
        file.durable = file.now.clone();
        file.pending.clear();
        Ok(())
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        let file = &mut self.world.lock().unwrap().files[self.index];
        file.now.resize(length as usize, 0);
        file.pending.push(Pending::Truncate(length as usize));
        Ok(())
    }
    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn open_world(directory: &Path, world: &Arc<Mutex<World>>) -> Arc<Embedded> {
    let disk = Arc::new(MemoryDisk(Arc::clone(world)));
    // Names in the memory disk are the same for every life of the store; the lock's directory is not.
    let options = Options {
        disk,
        segment_bytes: 2048,
        snapshot_threshold_bytes: 6000,
        reserve_bytes: 0,
        ..Options::new(directory.join("store"))
    };
    open(options).unwrap()
}

async fn run(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(seed);
    let mut world = Arc::new(Mutex::new(World::default()));
    let mut store = open_world(directory.path(), &world);
    let mut shown = Revision(1);
    for life in 0..5 {
        // What a reader could have seen since the start, and the first of it that must survive.
        let mut states = vec![contents(&store, &["pods"])];
        let mut acknowledged = 0;
        let mut relaxed_revisions = Vec::new();
        for step in 0..random.below(60) {
            let key = format!("pods/{}", random.below(8));
            let operation = match random.below(5) {
                0 => delete(&key, Expect::Any),
                _ => put(&key, &format!("{life}-{step}-{}", "v".repeat(random.below(300) as usize)), Expect::Any),
            };
            let relaxed = random.below(3) > 0;
            let before = store.revision();
            let done = store.commit(Transaction { operations: vec![operation], relaxed }).await.unwrap();
            if done.revision == before {
                continue;
            }
            states.push(contents(&store, &["pods"]));
            shown = done.revision;
            if relaxed {
                relaxed_revisions.push((states.len() - 1, shown));
            } else {
                acknowledged = states.len() - 1;
            }
        }
        let after = world.lock().unwrap().after_power_loss(&mut random);
        drop(store);
        world = Arc::new(Mutex::new(after));
        store = open_world(directory.path(), &world);
        let found = contents(&store, &["pods"]);
        let kept = states.iter().rposition(|state| *state == found);
        assert!(kept.is_some_and(|kept| kept >= acknowledged), "seed {seed}, life {life}: {found:?}");
        assert!(store.revision() >= shown, "seed {seed}, life {life}: {} after {shown}", store.revision());
        let held = |revision| store.list("pods", "", None, None, Some(revision));
        for (index, revision) in relaxed_revisions {
            // A revision that was shown is either still the same state, or refused.
            match held(revision) {
                Ok(list) => {
                    let then: BTreeMap<_, _> =
                        list.entries.iter().map(|entry| (entry.key.as_str().to_owned(), text(entry))).collect();
                    assert_eq!(then, states[index], "seed {seed}, life {life}, revision {revision}");
                }
                Err(compacted) => {
                    let watch = store.watch("pods", "", revision).unwrap_err();
                    assert_eq!(watch, WatchError::Compacted { oldest: compacted.oldest });
                }
            }
        }
    }
}

#[tokio::test]
async fn power_loss_keeps_what_was_acknowledged_and_never_repeats_a_revision() {
    for seed in 0..80 {
        run(seed).await;
    }
}
