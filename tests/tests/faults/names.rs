//! Faults of names, on one node that lives through all of them, found by `explain --dns` and `dns check`.

use anyhow::{Result, ensure};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use tests::{
    Cluster, eventually,
    name_service::NameService,
    objects::{Condition, NAMESPACE},
    resolver::Resolver,
};

use super::asked::{command, is_absent, is_named, text};

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints: [{addresses: [10.244.1.4], hostname: db-0, conditions: {ready: READY}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: bank}
spec: {type: ExternalName, externalName: bank.example.org}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}
";

#[tokio::test]
async fn what_is_wrong_with_a_name_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-names").names().await;
    let node = cluster.node(0);
    let write = |ready: bool| {
        cluster
            .manifests()
            .write_text("shop.yaml", &OBJECTS.replace("READY", if ready { "true" } else { "false" }))
    };
    write(true)?;
    // A name that has an answer, and one that a user mistakes for it.
    for [fault, sound, mistaken] in [
        ["the Service of a name does not exist", "web.shop", "wbe.shop"],
        ["a name of another namespace", "kubernetes", "web"],
        [
            "the namespace of a name does not exist",
            "web.shop.svc.cluster.local.",
            "web.shpo.svc.cluster.local.",
        ],
        ["no endpoint has the name", "db-0.db.shop", "db-7.db.shop"],
        ["an alias of another domain", "web.shop", "bank.shop"],
        ["the name of a namespace, not of a Service", "web.shop", "shop.svc.cluster.local."],
    ] {
        is_absent(node, fault, &[sound]).await;
        is_named(node, fault, &[mistaken]).await;
    }
    // Too few dots for an absolute name, and each search domain appended before it is asked as it is.
    let astray = "a name that the search list leads astray";
    is_absent(node, astray, &["web.shop"]).await;
    is_named(node, astray, &["wbe.shop"]).await;

    let unready = "a headless Service without a ready endpoint";
    is_absent(node, unready, &["db.shop"]).await;
    write(false)?;
    is_named(node, unready, &["db.shop"]).await;

    let corefile = cluster.directory().join("Corefile");
    let path = corefile.display().to_string();
    std::fs::write(&corefile, ". {\n any\n}\n")?;
    is_absent(node, "a line of the Corefile is refused", &[&path]).await;
    std::fs::write(&corefile, ". {\n any\n route53 x\n bogus\n}\n")?;
    is_named(node, "a line of the Corefile is refused", &[&path]).await;
    Ok(())
}

#[tokio::test]
async fn a_name_without_an_answer_is_explained() -> Result<()> {
    let names = NameService::new()?;
    let cluster = names.configure(Cluster::start("fault-name")).await;
    let serving = names.start(&cluster).await?;
    let web = cluster.service("web").tcp(80).backends(["a"]).await;
    let peers = cluster.service("peers").tcp(80).headless().unawaited().backends(["b"]).await;
    let client = cluster.pod("client").start().await;
    let resolver = Resolver::new(&client, NAMESPACE, serving.vip.v4.into(), cluster.directory())?;
    let answers = async |name: &str, want: ResponseCode| {
        eventually(&format!("{name} is {want}"), async || {
            let answer = resolver.query(name, RecordType::A)?;
            ensure!(answer.metadata.response_code == want, "{answer:?}");
            Ok(())
        })
        .await;
    };
    let explain = |name: &str| -> Result<String> {
        Ok(text(&command(cluster.node(0), &["explain", "--dns", name])?.stdout))
    };
    let tells = |name: &str, words: &str| -> Result<()> {
        let explained = explain(name)?;
        ensure!(explained.contains(words), "`{words}` is not in:\n{explained}");
        Ok(())
    };
    answers("peers.default.svc.cluster.local.", ResponseCode::NoError).await;
    tells("peers", "RESULT     addresses")?;
    peers.set("b", Condition::Unready);
    answers("peers.default.svc.cluster.local.", ResponseCode::NXDomain).await;
    tells("peers", "Service default/peers is headless and none of its endpoints is ready")?;

    answers("wbe.default.svc.cluster.local.", ResponseCode::NXDomain).await;
    tells(
        "wbe.default.svc.cluster.local.",
        "namespace default has no Service wbe; it has names, peers, web",
    )?;
    tells("web", &web.vip().ip().to_string())?;
    Ok(())
}
