//! `$(NAME)` expansion with upstream's rules: `$$` is a dollar, an unknown name stays as it is written.

/// Expands `text` by `lookup`.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = tail.strip_prefix('(') {
            match inside.find(')') {
                Some(end) => {
                    match lookup(&inside[..end]) {
                        Some(value) => out.push_str(&value),
                        None => out.push_str(&rest[at..at + 3 + end]),
                    }
                    rest = &inside[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = inside;
                }
            }
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn the_rules_of_upstream() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "" => Some("empty".to_owned()),
            _ => None,
        };
        let cases = [
            ("$(A)-$(A)", "1-1"),
            ("$(B)", "$(A)"),
            ("$(NO)", "$(NO)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $ $", "$A $ $"),
            ("$(A", "$(A"),
            ("x$(A)y$", "x1y$"),
            ("$($(A))", "$($(A))"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
