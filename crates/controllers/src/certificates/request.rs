//! What a certificate request asks for, read from its PKCS#10 form (RFC 2986).

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// Longer requests are not looked at.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Subject and names of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requested {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// Names of other sorts: mail addresses, URIs.
    pub(super) other_names: usize,
}

impl Requested {
    /// Reads the request.
    ///
    /// # Errors
    /// A sentence, where it does not parse.
    pub(super) fn read(request: &CertificateSigningRequest) -> Result<Self, String> {
        let bytes = &request.spec.request.0;
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(format!("the request has more than {REQUEST_BYTES_MAX} bytes"));
        }
        let (_, pem) = x509_parser::pem::parse_x509_pem(bytes).map_err(|error| format!("no PEM: {error}"))?;
        if !matches!(pem.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
            return Err(format!("PEM block type must be CERTIFICATE REQUEST, it is {}", pem.label));
        }
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents)
            .map_err(|error| format!("no PKCS#10 request: {error}"))?;
        let subject = &parsed.certification_request_info.subject;
        let text = |part: &x509_parser::x509::AttributeTypeAndValue<'_>| part.as_str().map(str::to_owned).ok();
        let mut requested = Self {
            common_name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
            ..Self::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => requested.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => match address(bytes) {
                        Some(address) => requested.addresses.push(address),
                        None => return Err("an address has neither 4 nor 16 bytes".into()),
                    },
                    _ => requested.other_names += 1,
                }
            }
        }
        Ok(requested)
    }

    /// Whether nothing but the subject is named.
    pub(super) fn has_no_names(&self) -> bool {
        self.dns_names.is_empty() && self.addresses.is_empty() && self.other_names == 0
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether the usages are these, where "key encipherment" may be there as well (RSA keys).
pub(super) fn usages_are(request: &CertificateSigningRequest, wanted: &[&str]) -> bool {
    let usages: BTreeSet<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
    let rest: BTreeSet<&str> = usages.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    rest == wanted
}
