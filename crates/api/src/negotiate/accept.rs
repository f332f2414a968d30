//! Which encoding and which shape an answer has: the Accept header by upstream's rules.

use object::Status;

/// The encodings that the server writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// application/json
    Json,
    /// application/yaml
    Yaml,
    /// application/vnd.kubernetes.protobuf
    Protobuf,
}

/// What is sent instead of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Object,
    /// meta.k8s.io Table in a version (`v1`, `v1beta1`).
    Table(&'static str),
    /// meta.k8s.io PartialObjectMetadata in a version.
    Metadata(&'static str),
    /// apidiscovery.k8s.io's aggregated list in a version (`v2`, `v2beta1`).
    Discovery(&'static str),
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// How it is encoded.
    pub(crate) encoding: Encoding,
    /// What is encoded.
    pub(crate) shape: Shape,
    /// Indented JSON.
    pub(crate) pretty: bool,
}

impl Accepted {
    /// Plain JSON: what errors before negotiation are sent in.
    pub(crate) const JSON: Accepted = Accepted { encoding: Encoding::Json, shape: Shape::Object, pretty: false };
}

impl Encoding {
    /// The media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Which shapes an endpoint can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offers {
    /// Objects, tables and metadata.
    Resources,
    /// Objects only (subresources, reviews, versions).
    Objects,
    /// Legacy and aggregated discovery.
    Discovery,
}

/// Clauses beyond this many are ignored.
const CLAUSES_MAX: usize = 32;

/// Chooses by the header; an empty one means JSON.
pub(crate) fn negotiate(
    header: &str,
    offers: Offers,
    pretty: Option<&str>,
    user_agent: &str,
) -> Result<Accepted, Status> {
    let mut clauses: Vec<(f32, &str)> = header
        .split(',')
        .map(str::trim)
        .filter(|clause| !clause.is_empty())
        .take(CLAUSES_MAX)
        .map(|clause| (quality(clause), clause))
        .collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let found = if clauses.is_empty() {
        Some((Encoding::Json, Shape::Object))
    } else {
        clauses.iter().find_map(|(_, clause)| accept_clause(clause, offers))
    };
    let Some((encoding, shape)) = found else {
        let message = "only the following media types are accepted: application/json, application/yaml, \
                       application/vnd.kubernetes.protobuf";
        return Err(Status::new(406, "NotAcceptable", message));
    };
    // As upstream: what looks like a person's tool gets indented JSON.
    let person = || ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| user_agent.starts_with(tool));
    let pretty = pretty.map_or_else(person, |flag| !matches!(flag, "false" | "0"));
    Ok(Accepted { encoding, shape, pretty })
}

fn quality(clause: &str) -> f32 {
    let parameter = clause.split(';').find_map(|part| part.trim().strip_prefix("q="));
    parameter.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

fn accept_clause(clause: &str, offers: Offers) -> Option<(Encoding, Shape)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
        _ => return None,
    };
    let (mut shape_name, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => shape_name = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            Some(("profile", "nominal")) => return None,
            _ => {}
        }
    }
    let meta_version = match version {
        "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    };
    let shape = match (shape_name, group, offers) {
        ("", ..) => Shape::Object,
        ("Table", "meta.k8s.io", Offers::Resources) if encoding != Encoding::Protobuf => Shape::Table(meta_version?),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", Offers::Resources) => {
            Shape::Metadata(meta_version?)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", Offers::Discovery) if encoding == Encoding::Json => {
            Shape::Discovery(match version {
                "v2" => "v2",
                "v2beta1" => "v2beta1",
                _ => return None,
            })
        }
        _ => return None,
    };
    Some((encoding, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_as_upstream() {
        let json = Encoding::Json;
        let table = Shape::Table("v1");
        type Case = (&'static str, Offers, Option<(Encoding, Shape)>);
        let cases: &[Case] = &[
            ("", Offers::Resources, Some((json, Shape::Object))),
            ("*/*", Offers::Objects, Some((json, Shape::Object))),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Offers::Resources,
                Some((Encoding::Protobuf, Shape::Object)),
            ),
            ("application/json;q=0.5, application/yaml", Offers::Resources, Some((Encoding::Yaml, Shape::Object))),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Offers::Resources, Some((json, table))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Offers::Objects,
                Some((json, Shape::Object)),
            ),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", Offers::Resources, None),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Offers::Discovery,
                Some((json, Shape::Discovery("v2"))),
            ),
            ("text/html", Offers::Resources, None),
        ];
        for (header, offers, expected) in cases {
            let got = negotiate(header, *offers, None, "").ok().map(|one| (one.encoding, one.shape));
            assert_eq!(got, *expected, "{header}");
        }
    }
}
