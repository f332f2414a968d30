//! Pages that pass through the proxy: however they are cut, the same comes out, and without links to rewrite they come out as they were.

#![no_main]

use api::html_links::{Links, Rewriter};
use libfuzzer_sys::fuzz_target;

fn rewritten(links: Links, pieces: &[&[u8]]) -> Vec<u8> {
    let mut rewriter = Rewriter::new(links);
    let mut out: Vec<u8> = pieces.iter().flat_map(|piece| rewriter.push(piece)).collect();
    out.extend(rewriter.finish());
    out
}

fuzz_target!(|input: (usize, &[u8])| {
    let (at, page) = input;
    let (head, tail) = page.split_at(at % (page.len() + 1));
    let links = || Links::new("/p/proxy", vec!["host:80".to_owned()]);
    assert_eq!(rewritten(links(), &[page]), rewritten(links(), &[head, tail]));
});
