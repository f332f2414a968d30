//! Pod create to Running, one after another, seen by a client that watches: `pod_start_bench KUBECONFIG IMAGE [COUNT]`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use futures_util::StreamExt as _;
use klynge_client::{ClusterClient, DeleteOptions, Endpoint, Https, Query, Request, Target, Verb, WriteOptions};
use object::{GroupVersionResource, Limits, Value, json, meta, yaml};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn target(name: &str) -> Target {
    let resource = GroupVersionResource::new("", "v1", "pods");
    Target { resource, namespace: "default".into(), name: name.into(), subresource: "".into() }
}

fn pod(name: &str, image: &str) -> Result<Value, Failure> {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{bench: pod-start}}}}, spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: '{image}', imagePullPolicy: IfNotPresent, command: [sleep, '100000']}}]}}}}"
    );
    Ok(yaml::decode(text.as_bytes(), &Limits::default())?.value)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kubeconfig, image, rest @ ..] = arguments.as_slice() else {
        return Err("usage: pod_start_bench KUBECONFIG IMAGE [COUNT]".into());
    };
    let count: usize = rest.first().map_or(Ok(500), |text| text.parse())?;
    let config = yaml::decode(&std::fs::read(kubeconfig)?, &Limits::default())?.value;
    let cluster = Https::new(Endpoint::from_kubeconfig(&config)?)?;
    let query = Query { labels: "bench=pod-start".to_owned(), ..Query::default() };
    let page = cluster.list(target(""), query.clone()).await?;
    let mut events = cluster.watch(target(""), query, page.revision).await?;
    let mut samples = Vec::with_capacity(count);
    for at in 0..count {
        let name = format!("bench-{at}");
        let begun = Instant::now();
        let verb = Verb::Create(pod(&name, image)?, WriteOptions::default());
        cluster.call(Request { target: target(""), verb }).await?;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await?;
            let event = next.ok_or("the watch ended")??;
            let object = json::decode(&event.object.json, &Limits::default())?.value;
            if meta::name(&object) == name && object.str_at(&["status", "phase"]) == Some("Running") {
                break;
            }
        }
        samples.push(begun.elapsed().as_secs_f64() * 1000.0);
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        cluster.call(Request { target: target(&name), verb: Verb::Delete(options) }).await?;
    }
    samples.sort_by(f64::total_cmp);
    let quantile = |share: f64| samples.get(((samples.len() - 1) as f64 * share) as usize).copied().unwrap_or_default();
    println!("pods {count}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", quantile(0.5), quantile(0.9), quantile(0.99));
    println!(
        "{{\"bench\":\"pod-start\",\"pods\":{count},\"p50_ms\":{:.2},\"p90_ms\":{:.2},\"p99_ms\":{:.2}}}",
        quantile(0.5),
        quantile(0.9),
        quantile(0.99)
    );
    Ok(())
}
