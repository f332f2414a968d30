//! Image names: Docker's grammar and short names. `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;

use super::error::ImageError;

const NAME_BYTES_MAX: usize = 255;

/// A normalised image name: host, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, or a host with an optional port.
    pub host: String,
    /// The path below the host, `library/nginx`.
    pub repository: String,
    /// The tag; `latest` if neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:` and 64 digits.
    pub digest: Option<String>,
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

impl Reference {
    /// Reads a name as users write it.
    pub fn parse(name: &str) -> Result<Reference, ImageError> {
        let invalid = |reason| ImageError::InvalidReference { name: name.to_owned(), reason };
        if name.is_empty() {
            return Err(invalid("invalid reference format: it is empty"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => {
                return Err(invalid("invalid reference format: the digest must be sha256: and 64 hexadecimal digits"));
            }
            None => (name, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let cut = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
        let (path, tag) = match cut {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid(
                "invalid reference format: the tag may have letters, digits, '_', '.', '-', at most 128",
            ));
        }
        let (host, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => {
                (first, rest)
            }
            _ => ("docker.io", path),
        };
        let host = if host == "index.docker.io" || host == "registry-1.docker.io" { "docker.io" } else { host };
        if !is_host(host) {
            return Err(invalid("invalid reference format: the registry's host name is not valid"));
        }
        if has_upper(repository) {
            return Err(invalid("invalid reference format: repository name must be lowercase"));
        }
        if repository.is_empty() || !repository.split('/').all(is_component) {
            return Err(invalid("invalid reference format"));
        }
        if digest.is_none() && tag.is_none() && host == "docker.io" && is_hex(repository, 64) {
            return Err(invalid(
                "invalid repository name: it cannot be 64 hexadecimal digits; write sha256: before an id",
            ));
        }
        let repository = if host == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        // Measured as it is kept: what is taken under its short name must be taken under its full one, too.
        if repository.len() + host.len() + 1 > NAME_BYTES_MAX {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { host: host.to_owned(), repository, tag, digest })
    }

    /// The name without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub(crate) fn target(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The host that serves it.
    pub(crate) fn registry_host(&self) -> &str {
        if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host }
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|it| it.is_ascii_uppercase())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
}

/// True for `sha256:` and 64 lower-case hexadecimal digits, the one algorithm that is used.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| is_hex(hex, 64))
}

fn is_tag(tag: &str) -> bool {
    let word = |it: u8| it.is_ascii_alphanumeric() || it == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128 && bytes.next().is_some_and(word) && bytes.all(|it| word(it) || it == b'.' || it == b'-')
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => (&host[..colon], Some(&host[colon + 1..])),
        _ => (host, None),
    };
    let port =
        port.is_none_or(|port| !port.is_empty() && port.len() <= 5 && port.bytes().all(|it| it.is_ascii_digit()));
    if let Some(address) = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        return port && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
    };
    port && name.split('.').all(label)
}

/// Letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(plain) || !bytes.last().copied().is_some_and(plain) {
        return false;
    }
    let separators = component.split(|it: char| it.is_ascii_lowercase() || it.is_ascii_digit());
    separators.into_iter().all(|it| matches!(it, "" | "." | "_" | "__") || it.bytes().all(|it| it == b'-'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn normalises() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let with_digest = format!("docker.io/library/nginx@{digest}");
        for (name, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("ghcr.io/a_b/c__d/e---f.g", "ghcr.io/a_b/c__d/e---f.g:latest"),
            (&format!("nginx@{digest}"), &with_digest),
            (&format!("nginx:1@{digest}"), &format!("docker.io/library/nginx:1@{digest}")),
        ] {
            assert_eq!(Reference::parse(name).map(|it| it.to_string()).ok().as_deref(), Some(full), "{name}");
        }
    }

    #[test]
    fn refuses() {
        let long = "a".repeat(300);
        let hex = "a1".repeat(32);
        for name in [
            "",
            "Nginx",
            "nginx:",
            "nginx:-x",
            "nginx@sha256:12",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a b",
            "a:b:c",
            "http://x/y",
            "host:port/x",
            "a.b-/x/y",
            &long,
            &hex,
            "../../etc",
        ] {
            assert!(Reference::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_longest_name_reads_the_same_when_it_is_printed() {
        let longest = NAME_BYTES_MAX - "docker.io/library/".len();
        let reference = Reference::parse(&"a".repeat(longest)).unwrap();
        assert_eq!(Reference::parse(&reference.name()).unwrap(), reference);
        // Found by fuzzing: 241 characters, which are 259 with what is put before them.
        for length in [longest + 1, 241] {
            assert!(Reference::parse(&"a".repeat(length)).is_err(), "{length}");
        }
    }
}
