//! Parts that another branch is about to bring, in their simplest form.

pub(crate) mod apply {
    use jiff::Timestamp;
    use object::schema::{Schemas, TypeId};
    use object::{Cause, Value};
    pub(crate) struct Apply<'a> {
        pub(crate) schemas: &'a Schemas,
        pub(crate) type_id: TypeId,
        pub(crate) live: Option<&'a Value>,
        pub(crate) configuration: &'a Value,
        pub(crate) manager: &'a str,
        pub(crate) api_version: &'a str,
        pub(crate) subresource: &'a str,
        pub(crate) force: bool,
        pub(crate) now: Timestamp,
    }
    #[derive(Debug, thiserror::Error)]
    pub(crate) enum Error {
        #[error("conflicts")]
        Conflicts(Vec<Cause>),
        #[error("{0}")]
        Other(String),
    }
    pub(crate) fn apply(request: Apply<'_>) -> Result<Value, Error> {
        let mut value = request.live.cloned().unwrap_or_default();
        object::patch::strategic(request.schemas, request.type_id, &mut value, request.configuration)
            .map_err(|e| Error::Other(e.to_string()))?;
        Ok(value)
    }
    #[expect(clippy::too_many_arguments, reason = "temporary")]
    pub(crate) fn track_update(
        _: &Schemas,
        _: TypeId,
        _: Option<&Value>,
        _: &mut Value,
        _: &str,
        _: &str,
        _: &str,
        _: &str,
        _: Timestamp,
    ) {
    }
}
pub(crate) mod openapi {
    use object::Value;
    pub(crate) fn v2() -> Value {
        Value::default()
    }
    pub(crate) fn v2_protobuf() -> Vec<u8> {
        Vec::new()
    }
    pub(crate) fn v3(_: &str, _: &str) -> Option<Value> {
        None
    }
}
