//! The OpenAPI v2 document as gnostic's `openapi.v2.Document` message, which kubectl and client-go ask for.

use object::proto::{push_bytes, push_tag, push_varint};
use object::{Map, Value, yaml};

/// Encodes a document built by [`super::v2`].
#[must_use]
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        let mut message = Message::default();
        message.text(1, info.get("title"));
        message.text(2, info.get("version"));
        out.message(2, &message);
    }
    let mut paths = Message::default();
    for (name, item) in members(document.get("paths")) {
        paths.named(2, name, &path_item(item));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, item) in members(document.get("definitions")) {
        definitions.named(1, name, &schema(item));
    }
    out.message(9, &definitions);
    for requirement in items(document.get("security")) {
        let mut message = Message::default();
        for (name, _) in members(Some(requirement)) {
            message.named(1, name, &Message::default());
        }
        out.message(12, &message);
    }
    let mut security = Message::default();
    for (name, item) in members(document.get("securityDefinitions")) {
        let mut key = Message::default();
        for (number, member) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, item.get(member));
        }
        let mut choice = Message::default();
        choice.message(2, &key);
        security.named(1, name, &choice);
    }
    out.message(13, &security);
    out.0
}

fn members(value: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).unwrap_or_default()
}

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(&mut self, number: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) {
            push_bytes(number, text.as_bytes(), &mut self.0);
        }
    }

    fn texts(&mut self, number: u32, value: Option<&Value>) {
        for text in items(value).iter().filter_map(Value::as_str) {
            push_bytes(number, text.as_bytes(), &mut self.0);
        }
    }

    fn flag(&mut self, number: u32, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            push_tag(number, 0, &mut self.0);
            push_varint(1, &mut self.0);
        }
    }

    fn message(&mut self, number: u32, message: &Message) {
        push_bytes(number, &message.0, &mut self.0);
    }

    /// One of gnostic's Named messages: 1 name, 2 value.
    fn named(&mut self, number: u32, name: &str, value: &Message) {
        let mut named = Message::default();
        push_bytes(1, name.as_bytes(), &mut named.0);
        named.message(2, value);
        self.message(number, &named);
    }

    /// Extensions are carried as YAML text.
    fn extensions(&mut self, number: u32, value: &Value) {
        for (name, value) in members(Some(value)).filter(|member| member.0.starts_with("x-")) {
            let mut any = Message::default();
            push_bytes(2, yaml::encode(value).as_bytes(), &mut any.0);
            self.named(number, name, &any);
        }
    }
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            out.message(number, &operation(value));
        }
    }
    for value in items(item.get("parameters")) {
        out.message(9, &parameter(value));
    }
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, value.get("tags"));
    out.text(3, value.get("description"));
    out.text(5, value.get("operationId"));
    out.texts(6, value.get("produces"));
    out.texts(7, value.get("consumes"));
    for value in items(value.get("parameters")) {
        out.message(8, &parameter(value));
    }
    let mut responses = Message::default();
    for (code, response) in members(value.get("responses")) {
        let mut message = Message::default();
        message.text(1, response.get("description"));
        if let Some(value) = response.get("schema") {
            let mut choice = Message::default();
            choice.message(1, &schema(value));
            message.message(2, &choice);
        }
        let mut choice = Message::default();
        choice.message(1, &message);
        responses.named(1, code, &choice);
    }
    out.message(9, &responses);
    out.texts(10, value.get("schemes"));
    out.extensions(13, value);
    out
}

fn parameter(value: &Value) -> Message {
    let place = value.get("in").and_then(Value::as_str).unwrap_or_default();
    let mut one = Message::default();
    let mut choice = Message::default();
    if place == "body" {
        one.text(1, value.get("description"));
        one.text(2, value.get("name"));
        one.text(3, value.get("in"));
        one.flag(4, value.get("required"));
        if let Some(value) = value.get("schema") {
            one.message(5, &schema(value));
        }
        choice.message(1, &one);
    } else {
        one.flag(1, value.get("required"));
        one.text(2, value.get("in"));
        one.text(3, value.get("description"));
        one.text(4, value.get("name"));
        // Query parameters have one member more before their type than path parameters.
        let shift = u32::from(place == "query");
        one.text(5 + shift, value.get("type"));
        one.flag(19 + shift, value.get("uniqueItems"));
        let mut kind = Message::default();
        kind.message(if place == "query" { 3 } else { 4 }, &one);
        choice.message(2, &kind);
    }
    let mut item = Message::default();
    item.message(1, &choice);
    item
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    out.texts(19, value.get("required"));
    if let Some(inner) = value.get("additionalProperties") {
        let mut choice = Message::default();
        choice.message(1, &schema(inner));
        out.message(21, &choice);
    }
    if value.get("type").is_some() {
        let mut kind = Message::default();
        kind.text(1, value.get("type"));
        out.message(22, &kind);
    }
    if let Some(inner) = value.get("items") {
        let mut list = Message::default();
        list.message(1, &schema(inner));
        out.message(23, &list);
    }
    if value.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, inner) in members(value.get("properties")) {
            properties.named(1, name, &schema(inner));
        }
        out.message(25, &properties);
    }
    out.extensions(31, value);
    out
}
