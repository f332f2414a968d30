//! Rewrites the links of pages that pass through the proxy, so that they lead through it as well (upstream's proxy.Transport). Pure.
//!
//! Works on pieces as they come and holds back one tag at most; everything but the links passes byte for byte.

/// A longer tag passes as it is.
const TAG_BYTES_MAX: usize = 64 * 1024;

/// Attributes that hold a link, by element: upstream's table (apimachinery, util/proxy/transport.go).
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content holds no tags.
const RAW: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// Which links are led through the proxy, and where to.
#[derive(Clone, Debug)]
pub struct Links {
    base: String,
    hosts: Vec<String>,
}

impl Links {
    /// `base`: the path of the proxy, such as "/api/v1/namespaces/a/services/web/proxy"; `hosts`: names by which the server behind it, and
    /// this one, are called in absolute links.
    #[must_use]
    pub fn new(base: &str, hosts: Vec<String>) -> Self {
        // What came with the request goes into a page: nothing in it may end an attribute.
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/%:".contains(byte);
        let escape = |byte: u8| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        Self { base: base.bytes().map(escape).collect(), hosts }
    }

    /// The link through the proxy; None where it stays as it is: relative ones, and those to other hosts.
    #[must_use]
    pub fn rewrite(&self, link: &str) -> Option<String> {
        let trimmed = link.trim();
        let absolute = ["http://", "https://", "//"].iter().find_map(|scheme| trimmed.strip_prefix(scheme));
        let path = match absolute {
            Some(rest) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                if !self.hosts.iter().any(|one| one == host) {
                    return None;
                }
                path
            }
            None if trimmed.starts_with('/') => trimmed,
            None => return None,
        };
        // Whoever knows its way has the prefix already.
        let is_there =
            path.strip_prefix(&self.base).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(if is_there { path.to_owned() } else { format!("{}{slash}{path}", self.base) })
    }
}

#[derive(Debug)]
enum State {
    Text,
    Comment,
    Raw(&'static str),
}

/// Rewrites a page.
#[derive(Debug)]
pub struct Rewriter {
    links: Links,
    state: State,
    held: Vec<u8>,
}

impl Rewriter {
    /// At the beginning of a page.
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links, state: State::Text, held: Vec::new() }
    }

    /// Takes the next piece; what can be sent of it and of what was held back.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len() + 64);
        let mut rest = held.as_slice();
        while let Some(taken) = self.step(rest, &mut out) {
            rest = rest.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        self.held = rest.to_vec();
        out
    }

    /// What was held back when the page ended.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.held
    }

    /// Sends the beginning of `rest`; how much that was, None where more is needed to tell.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut send = |count: usize| {
            out.extend_from_slice(rest.get(..count).unwrap_or(rest));
            Some(count)
        };
        if matches!(self.state, State::Comment) {
            return match find(rest, b"-->") {
                Some(at) => {
                    self.state = State::Text;
                    send(at + 3)
                }
                // The end may have begun.
                None if rest.len() > 2 => send(rest.len() - 2),
                None => None,
            };
        }
        let at = find(rest, b"<").unwrap_or(rest.len());
        if at > 0 {
            return send(at);
        }
        if let State::Raw(name) = self.state {
            let end = format!("</{name}");
            return match rest.get(..end.len()) {
                Some(head) if head.eq_ignore_ascii_case(end.as_bytes()) => {
                    self.state = State::Text;
                    send(end.len())
                }
                None if end.as_bytes().get(..rest.len()).is_some_and(|head| head.eq_ignore_ascii_case(rest)) => None,
                _ => send(1),
            };
        }
        match rest {
            [_, b'!', b'-', b'-', ..] => {
                self.state = State::Comment;
                send(4)
            }
            [_] | [_, b'!'] | [_, b'!', b'-'] => None,
            [_, first, ..] if first.is_ascii_alphabetic() => match tag(rest) {
                Some(tag) => {
                    let end = tag.end;
                    self.state = raw(&tag).map_or(State::Text, State::Raw);
                    self.write(rest, &tag, out);
                    Some(end)
                }
                None if rest.len() > TAG_BYTES_MAX => send(1),
                None => None,
            },
            _ => send(1),
        }
    }

    fn write(&self, rest: &[u8], tag: &Tag<'_>, out: &mut Vec<u8>) {
        let links = LINKS.iter().find(|(name, _)| tag.name.eq_ignore_ascii_case(name.as_bytes()));
        let mut sent = 0;
        for (name, value) in &tag.attributes {
            let holds_link =
                |(_, names): &(&str, &[&str])| names.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()));
            let text = rest.get(value.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok());
            if let Some(link) = text.filter(|_| links.is_some_and(holds_link)).and_then(|text| self.links.rewrite(text))
            {
                out.extend_from_slice(rest.get(sent..value.start).unwrap_or_default());
                out.extend_from_slice(link.as_bytes());
                sent = value.end;
            }
        }
        out.extend_from_slice(rest.get(sent..tag.end).unwrap_or_default());
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn raw(tag: &Tag<'_>) -> Option<&'static str> {
    RAW.iter().copied().find(|name| tag.name.eq_ignore_ascii_case(name.as_bytes()))
}

/// A start tag, whole.
struct Tag<'b> {
    name: &'b [u8],
    /// Names, and where their values are.
    attributes: Vec<(&'b [u8], std::ops::Range<usize>)>,
    /// After its `>`.
    end: usize,
}

/// Takes apart what begins with `<` and a letter; None where its end has not come.
fn tag(bytes: &[u8]) -> Option<Tag<'_>> {
    let until = |from: usize, stops: fn(u8) -> bool| {
        let rest = bytes.get(from..)?;
        rest.iter().position(|byte| stops(*byte)).map(|count| from + count)
    };
    let mut at = until(1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>'))?;
    let mut tag = Tag { name: bytes.get(1..at)?, attributes: Vec::new(), end: 0 };
    loop {
        at = until(at, |byte| !byte.is_ascii_whitespace() && byte != b'/')?;
        if bytes.get(at) == Some(&b'>') {
            tag.end = at + 1;
            return Some(tag);
        }
        // An attribute may begin with "=" (HTML, 13.2.5.32).
        let end = until(at + 1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'='))?;
        let name = bytes.get(at..end)?;
        at = until(end, |byte| !byte.is_ascii_whitespace())?;
        if bytes.get(at) != Some(&b'=') {
            continue;
        }
        at = until(at + 1, |byte| !byte.is_ascii_whitespace())?;
        let value = match bytes.get(at)? {
            b'"' => at + 1..until(at + 1, |byte| byte == b'"')?,
            b'\'' => at + 1..until(at + 1, |byte| byte == b'\'')?,
            _ => at..until(at, |byte| byte.is_ascii_whitespace() || byte == b'>')?,
        };
        let is_quoted = value.start > at;
        at = value.end + usize::from(is_quoted);
        tag.attributes.push((name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new("/p/web/proxy", vec!["10.0.0.1:80".to_owned(), "api:6443".to_owned()])
    }

    #[test]
    fn links_lead_through_the_proxy() {
        for (link, wanted) in [
            ("/x", Some("/p/web/proxy/x")),
            ("/", Some("/p/web/proxy/")),
            (" /x?a=b#c ", Some("/p/web/proxy/x?a=b#c")),
            ("x/y", None),
            ("#here", None),
            ("", None),
            ("mailto:a@example.org", None),
            ("http://10.0.0.1:80/x", Some("/p/web/proxy/x")),
            ("//10.0.0.1:80", Some("/p/web/proxy/")),
            ("https://api:6443/p/web/proxy/x", Some("/p/web/proxy/x")),
            ("http://example.org/x", None),
            ("/p/web/proxy/x", Some("/p/web/proxy/x")),
            ("/p/web/proxyx", Some("/p/web/proxy/p/web/proxyx")),
        ] {
            assert_eq!(links().rewrite(link).as_deref(), wanted, "{link}");
        }
        assert_eq!(Links::new("/p'\"<>& /", Vec::new()).rewrite("/x").as_deref(), Some("/p%27%22%3C%3E%26%20//x"));
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        for (page, wanted) in [
            ("<a href=\"/rewriteme\">test</a>", "<a href=\"/p/web/proxy/rewriteme\">test</a>"),
            ("<A class=x HREF='/a' title=\"/b\">/c</A>", "<A class=x HREF='/p/web/proxy/a' title=\"/b\">/c</A>"),
            ("<img src=/i.png><br/>", "<img src=/p/web/proxy/i.png><br/>"),
            ("<img\n src = \"/i\"\n/>", "<img\n src = \"/p/web/proxy/i\"\n/>"),
            ("<!-- <a href=\"/x\"> --><a href=/y>", "<!-- <a href=\"/x\"> --><a href=/p/web/proxy/y>"),
            (
                "<script src='/s'>'<a href=\"/x\">'</script><a href='/y'>",
                "<script src='/p/web/proxy/s'>'<a href=\"/x\">'</script><a href='/p/web/proxy/y'>",
            ),
            ("1 < 2 <> </a> <p>", "1 < 2 <> </a> <p>"),
            ("<input disabled formaction='/f' value=>", "<input disabled formaction='/p/web/proxy/f' value=>"),
            ("<a title='>' href='/x'>", "<a title='>' href='/p/web/proxy/x'>"),
            ("<a href='/never ends", "<a href='/never ends"),
            ("<a href=\"\">", "<a href=\"\">"),
        ] {
            // whole, and cut at every place
            for cut in 0..=page.len() {
                let mut rewriter = Rewriter::new(links());
                let mut out = rewriter.push(&page.as_bytes()[..cut]);
                out.extend(rewriter.push(&page.as_bytes()[cut..]));
                out.extend(rewriter.finish());
                assert_eq!(String::from_utf8_lossy(&out), wanted, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_tag_without_an_end_is_not_kept_for_ever() {
        let mut rewriter = Rewriter::new(links());
        let sent = rewriter.push(format!("<a {}", "x".repeat(TAG_BYTES_MAX)).as_bytes());
        assert_eq!(sent.len(), TAG_BYTES_MAX + 3);
    }
}
