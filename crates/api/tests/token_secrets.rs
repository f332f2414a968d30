//! Secrets with tokens of ServiceAccounts: filled as they are written, good as long as they are there.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::Value;
use support::{Cluster, start};

async fn review(cluster: &Cluster, token: &str) -> Option<String> {
    let body =
        format!(r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{token}"}}}}"#);
    let (code, answer) = cluster.json("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &body).await;
    assert_eq!(code, 201);
    answer.str_at(&["status", "user", "username"]).map(str::to_owned)
}

fn data(secret: &Value, key: &str) -> String {
    let text = secret.str_at(&["data", key]).unwrap_or_default();
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_holds_a_token_of_its_account() {
    let cluster = start().await;
    let (code, _) =
        cluster.json("POST", "/api/v1/namespaces/default/serviceaccounts", r#"{"metadata":{"name":"robot"}}"#).await;
    assert_eq!(code, 201);
    let secret = |metadata: &str| {
        format!(
            r#"{{"type":"kubernetes.io/service-account-token","metadata":{{{metadata},"annotations":{{"kubernetes.io/service-account.name":"robot"}}}}}}"#
        )
    };
    let path = "/api/v1/namespaces/default/secrets";
    let (code, made) = cluster.json("POST", path, &secret(r#""generateName":"robot-""#)).await;
    assert_eq!(code, 201, "{made:?}");
    let name = made.str_at(&["metadata", "name"]).unwrap().to_owned();
    let uid = made.at(&["metadata", "annotations", "kubernetes.io/service-account.uid"]);
    assert!(uid.is_some_and(|uid| !uid.as_str().unwrap().is_empty()));
    assert_eq!(data(&made, "namespace"), "default");
    assert!(data(&made, "ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    let token = data(&made, "token");
    assert_eq!(review(&cluster, &token).await.as_deref(), Some("system:serviceaccount:default:robot"));
    // What it may do is decided by roles; who it is, the API knows.
    let mut forged = token.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'Q' } else { 'A' });
    assert_eq!(review(&cluster, &forged).await, None);

    // A token that is taken out is replaced, and good no more.
    let one = format!("{path}/{name}");
    let patch = [("content-type", "application/merge-patch+json")];
    let answer = cluster.send("PATCH", &one, &patch, r#"{"data":{"token":null,"extra":"eA=="}}"#).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    let again = data(&answer.json(), "token");
    assert_eq!(review(&cluster, &again).await.as_deref(), Some("system:serviceaccount:default:robot"));
    let answer = cluster.send("PATCH", &one, &patch, r#"{"data":{"token":"b3RoZXI="}}"#).await;
    assert_eq!(answer.code, 200);
    assert_eq!(review(&cluster, &again).await, None, "the Secret does not hold it any more");
    assert_eq!(review(&cluster, "other").await, None);

    let (_, made) = cluster.json("POST", path, &secret(r#""name":"second""#)).await;
    let token = data(&made, "token");
    assert!(review(&cluster, &token).await.is_some());
    cluster.json("DELETE", &format!("{path}/second"), "").await;
    assert_eq!(review(&cluster, &token).await, None, "the Secret is gone");
    // Without its account a Secret is written as it is.
    let (code, made) = cluster.json("POST", path, &secret(r#""name":"early""#).replace("robot", "nobody")).await;
    assert_eq!((code, made.at(&["data"]).is_none()), (201, true));
    cluster.server.stop().await;
}
