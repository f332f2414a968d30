//! Measures decoding, defaulting, encoding and transcoding of a Pod, beside the typed structs of k8s-openapi.
//!
//! Run: `cargo run --release -p klynge-kinds --example codec_figures`. Its figures stand in docs/decisions/0001-objects-and-schema.md.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use k8s_openapi::api::core::v1::Pod;
use klynge_kinds::{schemas, type_id};
use object::json::{Limits, decode, encode};
use object::{GroupVersionKind, Value, proto, schema, serde, yaml};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

struct Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system allocator; only counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps alloc's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from alloc above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held<T>(what: &str, make: impl FnOnce() -> T) {
    let (before, calls) = (HELD.load(Relaxed), CALLS.load(Relaxed));
    let value = make();
    println!("{what:44} {:8} bytes held, {} allocations", HELD.load(Relaxed) - before, CALLS.load(Relaxed) - calls);
    drop(value);
}

fn time(what: &str, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let started = Instant::now();
        for _ in 0..2000 {
            work();
        }
        best = best.min(started.elapsed().as_secs_f64() / 2000.0);
    }
    println!("{what:44} {:8.2} us", best * 1e6);
}

fn main() {
    let text = include_str!("pod.json").trim_end().as_bytes();
    let started = Instant::now();
    let before = HELD.load(Relaxed);
    let schemas = schemas();
    println!("schema data: loaded in {:?}, {} KiB held", started.elapsed(), (HELD.load(Relaxed) - before) / 1024);
    let id = type_id(&GroupVersionKind::parse("v1", "Pod")).unwrap();
    let limits = Limits::REQUEST;
    let tree = decode(text, &limits).unwrap().value;
    let typed: Pod = serde_json::from_slice(text).unwrap();
    let message = proto::encode(schemas, id, &tree).unwrap();
    let manifest = yaml::encode(&tree);
    println!("Pod: {} bytes JSON, {} protobuf, {} YAML", text.len(), message.len(), manifest.len());
    held("tree", || decode(text, &limits).unwrap().value);
    held("typed", || serde_json::from_slice::<Pod>(text).unwrap());
    time("decode JSON to tree", || drop(black_box(decode(text, &limits).unwrap())));
    time("decode JSON to typed (serde_json)", || drop(black_box(serde_json::from_slice::<Pod>(text).unwrap())));
    time("decode JSON to serde_json::Value", || {
        drop(black_box(serde_json::from_slice::<serde_json::Value>(text).unwrap()))
    });
    time("clone tree", || drop(black_box(tree.clone())));
    time("clone tree, prune, check, normalise, default", || {
        let mut tree = tree.clone();
        black_box(schema::prune(schemas, id, &mut tree));
        black_box(schema::check_types(schemas, id, &tree));
        schema::normalise(schemas, id, &mut tree);
        schema::apply_defaults(schemas, id, &mut tree);
        black_box(tree);
    });
    time("encode tree to JSON", || drop(black_box(encode(&tree))));
    time("encode typed to JSON (serde_json)", || drop(black_box(serde_json::to_vec(&typed).unwrap())));
    time("tree to protobuf", || drop(black_box(proto::encode(schemas, id, &tree).unwrap())));
    time("protobuf to tree", || drop(black_box(proto::decode(schemas, id, &message, &limits).unwrap())));
    time("JSON to protobuf to JSON", || {
        let tree = decode(text, &limits).unwrap().value;
        let message = proto::encode(schemas, id, &tree).unwrap();
        drop(black_box(encode(&proto::decode(schemas, id, &message, &limits).unwrap())));
    });
    time("tree to typed", || drop(black_box(serde::to_typed::<Pod>(&tree).unwrap())));
    time("typed to tree", || drop(black_box::<Value>(serde::from_typed(&typed))));
    time("decode YAML", || drop(black_box(yaml::decode(manifest.as_bytes(), &limits).unwrap())));
}
