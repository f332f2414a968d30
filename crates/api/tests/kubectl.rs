//! An unmodified kubectl against the server. Skipped, visibly, where there is none.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod support;

use klynge_api::pki::Kubeconfig;
use std::path::Path;
use std::process::{Command, Output};
use support::start;

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: a, image: 'x:1', ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

fn kubectl(directory: &Path, arguments: &str) -> Option<Output> {
    let mut command = Command::new("kubectl");
    command.current_dir(directory).env("KUBECONFIG", directory.join("kubeconfig")).env("HOME", directory);
    command.args(arguments.split_whitespace()).output().ok()
}

/// Arguments, whether it succeeds, and what its output holds.
const COMMANDS: &[(&str, bool, &str)] = &[
    ("get namespaces", true, "kube-system"),
    ("get service kubernetes", true, "443/TCP"),
    ("create serviceaccount default", true, "created"),
    ("apply -f manifest.yaml", true, "deployment.apps/web created"),
    ("apply -f manifest.yaml", true, "deployment.apps/web unchanged"),
    ("apply --server-side -f manifest.yaml", true, "service/web serverside-applied"),
    ("scale deployment web --replicas=3", true, "scaled"),
    ("get deployment web -o jsonpath={.spec.replicas}", true, "3"),
    ("set image deployment/web a=x:2", true, "image updated"),
    ("apply --server-side --field-manager=other -f manifest.yaml", false, "conflict"),
    ("label deployment web tier=front", true, "labeled"),
    ("get deployments -l tier=front -o name", true, "deployment.apps/web"),
    ("run p --image=x", true, "pod/p created"),
    ("get pods", true, "Pending"),
    ("explain deployment.spec.replicas", true, "<integer>"),
    ("describe service web", true, "app=web"),
    ("auth can-i delete nodes", true, "yes"),
    ("delete pod p --now", true, "deleted"),
    ("delete -f manifest.yaml", true, "deleted"),
    ("get deployment web", false, "deployments.apps \"web\" not found"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_unmodified() {
    let cluster = start().await;
    let directory = tempfile::tempdir().unwrap();
    let admin = cluster.issue("admin", "system:masters");
    let (server, authority) = (format!("https://{}", cluster.server.address()), cluster.pki.bundle());
    let kubeconfig = Kubeconfig { name: "test", server: &server, authority: &authority, user: &admin };
    std::fs::write(directory.path().join("kubeconfig"), object::json::encode(&kubeconfig.to_value())).unwrap();
    std::fs::write(directory.path().join("manifest.yaml"), MANIFEST).unwrap();
    for (arguments, succeeds, text) in COMMANDS {
        let path = directory.path().to_owned();
        let Some(output) = tokio::task::spawn_blocking(move || kubectl(&path, arguments)).await.unwrap() else {
            eprintln!("SKIPPED: no kubectl on PATH");
            break;
        };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.success(), *succeeds, "kubectl {arguments}: {said}");
        assert!(said.contains(text), "kubectl {arguments}: {said}");
    }
    cluster.server.stop().await;
}
