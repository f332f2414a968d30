//! Where Services' addresses come from: two families, further ServiceCIDRs, and what becomes of them with updates and deletes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{ClusterClient, DeleteOptions, PatchKind, Query, Request, Verb, WriteOptions};
use object::Value;
use std::sync::Arc;
use support::{parse, start_dual, target};

type Client = Arc<dyn ClusterClient>;

fn services(name: &str) -> client::Target {
    target("", "v1", "services", "default", name)
}

async fn call(client: &Client, place: client::Target, verb: Verb) -> Result<Value, String> {
    let answer = client.call(Request { target: place, verb }).await.map_err(|status| status.message)?;
    Ok(object::json::decode(&answer.json, &object::Limits::REQUEST).unwrap().value)
}

async fn create(client: &Client, name: &str, spec: &str) -> Result<Value, String> {
    let text = format!("{{metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}], {spec}}}}}");
    call(client, services(""), Verb::Create(parse(&text), WriteOptions::default())).await
}

async fn patch(client: &Client, name: &str, spec: &str) -> Result<Value, String> {
    let verb = Verb::Patch(PatchKind::Merge, parse(&format!("{{spec: {{{spec}}}}}")), WriteOptions::default());
    call(client, services(name), verb).await
}

fn list(service: &Value, member: &str) -> Vec<String> {
    let items = service.at(&["spec", member]).and_then(Value::as_array).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The claimed addresses, without those of the cluster's own Services.
async fn claimed(client: &Client) -> Vec<String> {
    let page = client.list(target("networking.k8s.io", "v1", "ipaddresses", "", ""), Query::default()).await.unwrap();
    let names = page.objects.iter().map(|object| {
        let value = object::json::decode(&object.json, &object::Limits::REQUEST).unwrap().value;
        value.str_at(&["metadata", "name"]).unwrap().to_owned()
    });
    names.filter(|name| !matches!(name.as_str(), "10.96.0.1" | "10.96.0.10")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_take_and_give_back_addresses_of_both_families() {
    let cluster = start_dual("fd00:10::/112").await;
    let admin = cluster.admin();
    let one = create(&admin, "one", "").await.unwrap();
    assert_eq!((list(&one, "ipFamilies"), list(&one, "clusterIPs").len()), (vec!["IPv4".to_owned()], 1));
    let two = create(&admin, "two", "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]").await.unwrap();
    assert_eq!(list(&two, "ipFamilies"), ["IPv6", "IPv4"]);
    let ips = list(&two, "clusterIPs");
    assert!(ips[0].starts_with("fd00:10::") && ips[1].starts_with("10.96."), "{ips:?}");
    assert_eq!(two.str_at(&["spec", "clusterIP"]), Some(ips[0].as_str()));
    assert_eq!(claimed(&admin).await.len(), 3);

    // Wider and narrower on demand; the first address stays.
    let before = list(&one, "clusterIPs");
    let wide = patch(&admin, "one", "ipFamilyPolicy: PreferDualStack").await.unwrap();
    let ips = list(&wide, "clusterIPs");
    assert_eq!((ips.len(), &ips[0]), (2, &before[0]), "{ips:?}");
    assert_eq!(claimed(&admin).await.len(), 4);
    let narrow = patch(&admin, "one", "ipFamilyPolicy: SingleStack").await.unwrap();
    assert_eq!((list(&narrow, "clusterIPs"), list(&narrow, "ipFamilies")), (before, vec!["IPv4".to_owned()]));
    assert_eq!(claimed(&admin).await.len(), 3);

    // A second Service cannot have an address of either family that is taken.
    let ips = list(&two, "clusterIPs");
    for taken in &ips {
        let refused = create(&admin, "thief", &format!("clusterIP: '{taken}'")).await.unwrap_err();
        assert!(refused.contains("provided IP is already allocated"), "{refused}");
    }
    let refused = create(&admin, "far", "clusterIP: 192.0.2.9").await.unwrap_err();
    assert!(refused.contains("the provided network does not match the current range"), "{refused}");

    // No address outlives its Service, nor the type that needs it.
    patch(&admin, "two", "type: ExternalName, externalName: example.org, clusterIP: null, clusterIPs: null")
        .await
        .unwrap();
    assert_eq!(claimed(&admin).await.len(), 1);
    call(&admin, services("one"), Verb::Delete(DeleteOptions::default())).await.unwrap();
    assert_eq!(claimed(&admin).await, Vec::<String>::new());
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_ranges_serve_where_the_first_is_full_or_not_meant() {
    let cluster = start_dual("fd00:10::/124").await;
    let admin = cluster.admin();
    // Fifteen addresses fit into the IPv6 range.
    for number in 0..15 {
        create(&admin, &format!("s{number}"), "ipFamilies: [IPv6]").await.unwrap();
    }
    let full = create(&admin, "late", "ipFamilies: [IPv6]").await.unwrap_err();
    assert!(full.contains("failed to allocate a serviceIP: range is full"), "{full}");
    let ranges = || target("networking.k8s.io", "v1", "servicecidrs", "", "");
    let more = parse("{metadata: {name: more}, spec: {cidrs: ['fd00:20::/120', 10.200.0.0/24]}}");
    call(&admin, ranges(), Verb::Create(more, WriteOptions::default())).await.unwrap();
    let late = create(&admin, "late", "ipFamilies: [IPv6]").await.unwrap();
    assert!(list(&late, "clusterIPs")[0].starts_with("fd00:20::"), "{late:?}");
    let chosen = create(&admin, "chosen", "clusterIP: 10.200.0.9").await.unwrap();
    assert_eq!(list(&chosen, "clusterIPs"), ["10.200.0.9"]);
    for bad in ["[]", "[10.0.0.0/24, 10.1.0.0/24]", "[nonsense]"] {
        let object = parse(&format!("{{metadata: {{name: bad}}, spec: {{cidrs: {bad}}}}}"));
        assert!(call(&admin, ranges(), Verb::Create(object, WriteOptions::default())).await.is_err(), "{bad}");
    }
    cluster.server.stop().await;
}
