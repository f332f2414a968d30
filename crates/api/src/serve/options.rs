//! What a query asks for: the options of writes (dryRun, fieldManager, fieldValidation, force), and which options of
//! lists and watches go together; checked and worded as upstream does.

use super::dispatch::Context;
use super::query::Parameters;
use crate::core::{Options, Validation};
use crate::write::{cause, dry_run_cause, invalid_options, unsupported};
use object::Status;

/// A field manager's name is at most so long.
const MANAGER_MAX_BYTES: usize = 128;

/// The options of a write; 422 with every fault. Deletes bring DeleteOptions, of which only dryRun is read here.
pub(crate) fn of_write(context: &Context) -> Result<Options, Status> {
    let query = &context.query;
    let kind = match context.info.verb.as_str() {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => {
            let dry_run = query.all("dryRun").any(|one| one == "All");
            return Ok(Options { dry_run, field_manager: from_user_agent(context.user_agent()), ..Options::default() });
        }
    };
    let mut causes = Vec::new();
    let mut field_manager = query.text("fieldManager").to_owned();
    let is_apply = kind == "PatchOptions" && context.content_type().starts_with("application/apply-patch");
    if kind == "PatchOptions" && !is_apply && query.get("force").is_some() {
        causes.push(cause("FieldValueForbidden", "force", "Forbidden: may not be specified for non-apply patch"));
    }
    if is_apply && field_manager.is_empty() {
        causes.push(cause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch"));
    }
    if field_manager.len() > MANAGER_MAX_BYTES {
        let why = format!("Too long: may not be more than {MANAGER_MAX_BYTES} bytes");
        causes.push(cause("FieldValueTooLong", "fieldManager", why));
    }
    for (at, character) in field_manager.char_indices().filter(|one| !is_print(one.1)) {
        let code = u32::from(character);
        let why = format!("Invalid value: {field_manager:?}: invalid character U+{code:04X} (at position {at})");
        causes.push(cause("FieldValueInvalid", "fieldManager", why));
    }
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    causes.extend(dry_run_cause(&dry_run));
    let validation = match query.text("fieldValidation") {
        "Ignore" => Validation::Ignore,
        "Strict" => Validation::Strict,
        "" | "Warn" => Validation::Warn,
        other => {
            let supported = r#""", "Ignore", "Strict", "Warn""#;
            causes.push(unsupported("fieldValidation", &format!("{other:?}"), supported));
            Validation::Warn
        }
    };
    if !causes.is_empty() {
        return Err(invalid_options(kind, causes));
    }
    if field_manager.is_empty() {
        field_manager = from_user_agent(context.user_agent());
    }
    Ok(Options { dry_run: !dry_run.is_empty(), field_manager, force: query.flag("force"), validation })
}

/// Refuses ListOptions that contradict each other; the options of a watch are others than those of a list.
pub(crate) fn check_list(query: &Parameters, watch: bool) -> Result<(), Status> {
    let mut causes = Vec::new();
    let wanted = query.text("resourceVersionMatch");
    let forbid = |why: &str| cause("FieldValueForbidden", "resourceVersionMatch", format!("Forbidden: {why}"));
    let initial = query.get("sendInitialEvents").is_some();
    if watch && initial && wanted != "NotOlderThan" {
        causes.push(forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if !wanted.is_empty() {
        if watch && !initial {
            causes.push(forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        if !watch && query.text("resourceVersion").is_empty() {
            causes.push(forbid("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        let continued = !query.text("continue").is_empty();
        let why = "resourceVersionMatch is forbidden when continue is provided";
        if continued && !watch {
            causes.push(forbid(why));
        }
        if wanted != "NotOlderThan" && (watch || wanted != "Exact") {
            let supported = if watch { r#""NotOlderThan""# } else { r#""Exact", "NotOlderThan", """# };
            causes.push(unsupported("resourceVersionMatch", &format!("{wanted:?}"), supported));
        }
        if continued && watch {
            causes.push(forbid(why));
        }
        if !watch && wanted == "Exact" && query.text("resourceVersion") == "0" {
            causes.push(forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if initial && !watch {
        let why = "Forbidden: sendInitialEvents is forbidden for list";
        causes.push(cause("FieldValueForbidden", "sendInitialEvents", why));
    }
    if causes.is_empty() { Ok(()) } else { Err(invalid_options("ListOptions", causes)) }
}

/// Without a manager's name the client's own stands in.
fn from_user_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut manager = String::new();
    for character in name.chars().filter(|one| is_print(*one)) {
        if manager.len() + character.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        manager.push(character);
    }
    manager
}

/// Go's idea of a printable character: of white space only the plain blank.
fn is_print(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace())
}
