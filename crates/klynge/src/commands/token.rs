//! `klynge token`: what lets another machine join.

use super::cluster::{Cluster, target};
use super::kubeconfig;
use crate::agent::Token;
use crate::cli::{Failure, Global, Output, TokenCommand};
use crate::server::{CLUSTER_FACTS, ClusterFacts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{DeleteOptions, Endpoint, Query, Verb};
use jiff::{SignedDuration, Timestamp};
use object::{Map, Value, meta};

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";

pub(crate) fn run(global: &Global, command: &TokenCommand, output: &Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { ttl, uses, server } => create(global, output, ttl, uses, server.as_deref()),
        TokenCommand::List => list(global, output),
        TokenCommand::Delete { id } => delete(global, output, id),
    }
}

/// `24h`, `30m`, `7d`, `0` for never; how long a token lives.
fn parse_ttl(text: &str) -> Result<Option<SignedDuration>, String> {
    let shape = format!("--ttl {text}: expected a time such as 30m, 24h or 7d, or 0 for a token that does not expire");
    if text == "0" {
        return Ok(None);
    }
    let split = text.len() - text.chars().last().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(split);
    let number: i64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(|| shape.clone())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(shape),
    };
    // Ten years are for ever enough.
    number
        .checked_mul(seconds)
        .filter(|all| *all <= 10 * 366 * 24 * 3600)
        .map(SignedDuration::from_secs)
        .map(Some)
        .ok_or(shape)
}

/// `1`, any other number, or `unlimited`.
fn parse_uses(text: &str) -> Result<Option<u32>, String> {
    match text {
        "unlimited" => Ok(None),
        number => match number.parse() {
            Ok(0) | Err(_) => Err(format!("--uses {text}: expected a number from 1, or unlimited")),
            Ok(uses) => Ok(Some(uses)),
        },
    }
}

/// So many random characters of [a-z0-9].
fn random(length: usize) -> Result<String, Failure> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(|error| Failure::Failed(format!("no random numbers: {error}")))?;
        // Bytes beyond the last whole multiple of 36 would favour some letters.
        let fair = bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(LETTERS[usize::from(*byte) % 36]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

/// A token that was made.
pub(crate) struct Made {
    id: String,
    /// What the other machine gives.
    pub(crate) token: String,
    server: String,
}

/// Makes a token in the cluster of the kubeconfig in force.
pub(crate) fn make(global: &Global, ttl: &str, uses: &str, server: Option<&str>) -> Result<Made, Failure> {
    let ttl = parse_ttl(ttl).map_err(Failure::Usage)?;
    let uses = parse_uses(uses).map_err(Failure::Usage)?;
    let cluster = Cluster::connect(global)?;
    let (_, config) = kubeconfig::in_force(global)?;
    let authority = Endpoint::from_kubeconfig(&config)?.authorities;
    let authority = authority.first().ok_or_else(|| Failure::Failed("the kubeconfig names no authority".to_owned()))?;
    let pin = client::key_hash(authority).ok_or_else(|| Failure::Failed("the authority does not parse".to_owned()))?;
    let server = match server {
        Some(server) => server.to_owned(),
        None => {
            let facts = cluster.get(target("", "configmaps", NAMESPACE, CLUSTER_FACTS))?;
            let facts = facts.ok_or_else(|| {
                Failure::NotFound(format!(
                    "the ConfigMap {NAMESPACE}/{CLUSTER_FACTS} is missing; is this a Klynge cluster?"
                ))
            })?;
            ClusterFacts::read(&facts)?.server
        }
    };
    let (id, secret) = (random(6)?, random(16)?);
    let mut data = Map::new();
    let mut put = |key: &str, text: &str| data.insert(key, Value::from(STANDARD.encode(text)));
    put("token-id", &id);
    put("token-secret", &secret);
    put("usage-bootstrap-authentication", "true");
    put("description", "join token made by klynge token create");
    if let Some(ttl) = ttl {
        let expires = Timestamp::now().checked_add(ttl).map_err(|error| Failure::Failed(error.to_string()))?;
        put("expiration", &object::time::format_rfc3339(expires));
    }
    if let Some(uses) = uses {
        put("klynge-uses", &uses.to_string());
    }
    let mut secret_object = Value::default();
    secret_object.set(&["apiVersion"], "v1".into());
    secret_object.set(&["kind"], "Secret".into());
    secret_object.set(&["metadata", "name"], format!("{PREFIX}{id}").into());
    secret_object.set(&["type"], TYPE.into());
    secret_object.set(&["data"], Value::Object(data));
    cluster.create(target("", "secrets", NAMESPACE, ""), secret_object)?;
    let token = Token::text(&id, &secret, pin);
    Ok(Made { id, token, server })
}

fn create(global: &Global, output: &Output, ttl: &str, uses: &str, server: Option<&str>) -> Result<(), Failure> {
    let Made { id, token, server } = make(global, ttl, uses, server)?;
    let (ttl, uses) = (parse_ttl(ttl).map_err(Failure::Usage)?, parse_uses(uses).map_err(Failure::Usage)?);
    let command = format!("sudo klynge agent --background --server {server} --token {token}");
    let members = [("id", id.as_str()), ("token", &token), ("server", &server), ("command", &command)];
    if output.object(&Value::Object(members.into_iter().collect())) {
        return Ok(());
    }
    let life = ttl
        .map_or_else(|| "does not expire".to_owned(), |ttl| format!("holds for {}", object::time::duration_short(ttl)));
    let times = uses.map_or_else(
        || "any number of machines".to_owned(),
        |uses| match uses {
            1 => "one machine".to_owned(),
            uses => format!("{uses} machines"),
        },
    );
    output.progress(&format!("the token admits {times} and {life}; on the other machine run:"));
    output.line(&command);
    Ok(())
}

fn text(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret.str_at(&["data", key])?).ok()?;
    String::from_utf8(bytes).ok()
}

fn list(global: &Global, output: &Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(global)?;
    let query = Query { fields: format!("type={TYPE}"), ..Query::default() };
    let tokens = cluster.list(target("", "secrets", NAMESPACE, ""), query)?;
    let now = Timestamp::now();
    let rows: Vec<[String; 4]> = tokens
        .iter()
        .filter(|secret| meta::name(secret).starts_with(PREFIX))
        .map(|secret| {
            let used = text(secret, "klynge-used-by").unwrap_or_default();
            let used = used.lines().filter(|line| !line.is_empty()).count();
            let uses = text(secret, "klynge-uses");
            let expires = text(secret, "expiration").and_then(|at| at.parse::<Timestamp>().ok());
            let left = match expires {
                Some(at) if at <= now => "expired".to_owned(),
                Some(at) => object::time::duration_short(at.duration_since(now)),
                None => "never".to_owned(),
            };
            [
                meta::name(secret).trim_start_matches(PREFIX).to_owned(),
                uses.map_or_else(|| "unlimited".to_owned(), |uses| format!("{used} of {uses}")),
                left,
                text(secret, "description").unwrap_or_default(),
            ]
        })
        .collect();
    let objects = rows.iter().map(|[id, used, expires, description]| {
        let members = [("id", id.as_str()), ("used", used), ("expiresIn", expires), ("description", description)];
        Value::Object(members.into_iter().collect::<Map>())
    });
    if output.object(&Value::Array(objects.collect())) {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    output.table(&["ID", "USED", "EXPIRES IN", "DESCRIPTION"], &rows);
    Ok(())
}

fn delete(global: &Global, output: &Output, id: &str) -> Result<(), Failure> {
    // The whole token does as well: its id is what stands before the first point.
    let id = id.split('.').next().unwrap_or_default();
    let cluster = Cluster::connect(global)?;
    let place = target("", "secrets", NAMESPACE, &format!("{PREFIX}{id}"));
    match cluster.call(place, Verb::Delete(DeleteOptions::default())) {
        Ok(_) => {
            output.progress(&format!("token {id} deleted; machines that joined with it stay"));
            Ok(())
        }
        Err(status) if status.is_not_found() => {
            Err(Failure::NotFound(format!("there is no token {id}; `klynge token list` shows them")))
        }
        Err(status) => Err(status.into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn times_and_uses_read_as_documented() {
        let seconds = |text: &str| parse_ttl(text).map(|ttl| ttl.map(|ttl| ttl.as_secs()));
        assert_eq!(seconds("24h"), Ok(Some(86_400)));
        assert_eq!(seconds("30m"), Ok(Some(1_800)));
        assert_eq!(seconds("7d"), Ok(Some(604_800)));
        assert_eq!(seconds("0"), Ok(None));
        for bad in ["", "h", "-1h", "1", "1w", "1é", "99999999999999999h", "4000d"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_uses("1"), parse_uses("unlimited")), (Ok(Some(1)), Ok(None)));
        for bad in ["0", "-1", "many", ""] {
            assert!(parse_uses(bad).is_err(), "{bad}");
        }
        let id = random(16).unwrap();
        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{id}");
        assert_ne!(id, random(16).unwrap());
    }
}
