//! The annotations that limit a pod's bandwidth, read as upstream's runtimes read them.

use k8s_openapi::api::core::v1::Pod;
use network::pod_net::Bandwidth;
use object::quantity::Quantity;

/// What the pod receives.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// What the pod sends.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits per second that upstream takes for reasonable: 1k to 1P.
const REASONABLE: std::ops::RangeInclusive<i64> = 1_000..=1_000_000_000_000_000;

/// Whether a pod asks for limits.
pub(crate) fn is_asked_for(pod: &Pod) -> bool {
    pod.metadata.annotations.iter().flatten().any(|(name, _)| name == INGRESS || name == EGRESS)
}

/// The limits of a pod; the error is upstream's.
pub(crate) fn of_pod(pod: &Pod) -> Result<Bandwidth, String> {
    let read = |name: &str| -> Result<Option<u64>, String> {
        let annotations = pod.metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|annotations| annotations.get(name)) else { return Ok(None) };
        let wrong = |why: &dyn std::fmt::Display| format!("reading pod bandwidth annotations: {why}");
        let value = Quantity::parse(text).map_err(|error| wrong(&error))?.value();
        if value < *REASONABLE.start() {
            return Err(wrong(&"resource is unreasonably small (< 1kbit)"));
        }
        if value > *REASONABLE.end() {
            return Err(wrong(&"resource is unreasonably large (> 1Pbit)"));
        }
        Ok(u64::try_from(value).ok())
    };
    Ok(Bandwidth { ingress_bits_per_second: read(INGRESS)?, egress_bits_per_second: read(EGRESS)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn limits(annotations: &[(&str, &str)]) -> Result<Bandwidth, String> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        of_pod(&Pod { metadata, ..Pod::default() })
    }

    #[test]
    fn annotations_are_read_as_upstream_reads_them() {
        let both = |ingress_bits_per_second, egress_bits_per_second| {
            Ok(Bandwidth { ingress_bits_per_second, egress_bits_per_second })
        };
        let wrong = |why: &str| Err(format!("reading pod bandwidth annotations: {why}"));
        let form = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        for (ingress, egress, wanted) in [
            (None, None, both(None, None)),
            (Some("10M"), None, both(Some(10_000_000), None)),
            (Some("1Mi"), Some("1k"), both(Some(1_048_576), Some(1000))),
            (None, Some("1P"), both(None, Some(1_000_000_000_000_000))),
            (Some("999"), None, wrong("resource is unreasonably small (< 1kbit)")),
            (None, Some("-5M"), wrong("resource is unreasonably small (< 1kbit)")),
            (Some("1M"), Some("2P"), wrong("resource is unreasonably large (> 1Pbit)")),
            (Some("fast"), None, wrong(form)),
            (Some(""), None, wrong(form)),
        ] {
            let given: Vec<(&str, &str)> = [(INGRESS, ingress), (EGRESS, egress)]
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            let found = limits(&given);
            match (&found, &wanted) {
                // The form's sentence is the parser's own matter.
                (Err(found), Err(wanted)) if wanted.contains("regular expression") => {
                    assert!(found.starts_with("reading pod bandwidth annotations: "), "{given:?}: {found}");
                }
                _ => assert_eq!(found, wanted, "{given:?}"),
            }
        }
    }
}
