//! The token that continues a list: the revision it is consistent at and the key after which it goes on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use object::{Limits, Status, Value, json};
use store::Revision;

/// Upstream's version word inside the token.
const VERSION: &str = "meta.k8s.io/v1";
const LENGTH_MAX: usize = 4096;

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) revision: Revision,
    pub(crate) start_after: String,
}

impl Token {
    /// As sent to clients.
    pub(crate) fn encode(&self) -> String {
        let mut value = Value::default();
        value.set(&["v"], VERSION.into());
        value.set(&["rv"], i64::try_from(self.revision.0).unwrap_or(i64::MAX).into());
        value.set(&["start"], self.start_after.as_str().into());
        URL_SAFE_NO_PAD.encode(json::encode(&value))
    }

    /// As clients send it back; 400 for anything else.
    pub(crate) fn decode(text: &str) -> Result<Self, Status> {
        let refuse = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        if text.len() > LENGTH_MAX {
            return Err(refuse("too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| refuse(&error.to_string()))?;
        let value = json::decode(&bytes, &Limits::REQUEST).map_err(|error| refuse(&error.message))?.value;
        if value.str_at(&["v"]) != Some(VERSION) {
            return Err(refuse("server does not recognize this encoded version"));
        }
        let revision = value.i64_at(&["rv"]).and_then(|revision| u64::try_from(revision).ok()).filter(|r| *r > 0);
        let revision = revision.ok_or_else(|| refuse("incorrect encoded start resourceVersion"))?;
        let start_after = value.str_at(&["start"]).unwrap_or_default().to_owned();
        if start_after.is_empty() {
            return Err(refuse("empty start key"));
        }
        Ok(Token { revision: Revision(revision), start_after })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let token = Token { revision: Revision(42), start_after: "default/a".to_owned() };
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        for bad in ["", "x", "e30", &"a".repeat(5000)] {
            assert_eq!(Token::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
