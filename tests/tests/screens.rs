//! The tables of `get` from the maps: the same in terminals of every width, in a pipe and without colour.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../proxy/tests/screens/terminal.rs"]
mod terminal;

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::ensure;
use expect_test::{Expect, expect};
use jiff::{Timestamp, ToSpan as _};
use regex::Regex;
use terminal::screen;
use tests::{Cluster, agent::portreeve, eventually, node::Node};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A Service with endpoints on two nodes, one of them terminating; its age in hours does not change meanwhile.
fn shop() -> String {
    let created = Timestamp::now() - 26.hours() - 30.minutes();
    format!(
        r#"
apiVersion: v1
kind: Service
metadata:
  namespace: shop-of-a-long-name
  name: web-frontend-with-a-long-name
  creationTimestamp: "{created:.0}"
  labels: {{tier: web}}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  externalTrafficPolicy: Local
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30081}}]
---
apiVersion: v1
kind: Service
metadata: {{namespace: shop-of-a-long-name, name: empty, creationTimestamp: "{created:.0}", labels: {{tier: db}}}}
spec: {{clusterIP: 10.96.0.11, ports: [{{port: 5432}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop-of-a-long-name
  name: web-1
  labels: {{kubernetes.io/service-name: web-frontend-with-a-long-name}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
- addresses: [10.244.1.204]
  nodeName: node-1
  zone: zone-a
  targetRef: {{kind: Pod, name: web-0}}
- addresses: [10.244.2.204]
  nodeName: node-2
  zone: zone-b
  targetRef: {{kind: Pod, name: web-1}}
- addresses: [10.244.2.205]
  nodeName: node-2
  conditions: {{ready: false, serving: true, terminating: true}}
"#
    )
}

/// Ages below two minutes, and ports that the kernel or a program chose.
fn steady(text: &str) -> String {
    let replaced = |text: &str, pattern: &str, by: &str| {
        let found = Regex::new(pattern).unwrap();
        found
            .replace_all(text, |found: &regex::Captures<'_>| format!("{by:<width$}", width = found[0].len()))
            .into_owned()
    };
    let text = replaced(text, r"\b\d{1,3}s\b *", "Ns");
    let text = replaced(&text, r"198\.51\.100\.10:\d{5}", "198.51.100.10:PORT5");
    // From here on widths differ.
    let sent = Regex::new(r"\b\d+B +\d+B\b +").unwrap();
    let text = sent.replace(&text, "NB    NB        ").into_owned();
    let text = Regex::new("MASQUERADE +").unwrap().replace(&text, "MASQUERADE  ").into_owned();
    let masquerade = Regex::new(r"10\.244\.1\.1:\d+ +").unwrap();
    let text = masquerade.replace(&text, "10.244.1.1:PORT  ").into_owned();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

struct Screens<'a> {
    node: &'a Node,
}

impl Screens<'_> {
    fn check(&self, arguments: &[&str], has_colour: bool, want: &Expect) {
        let command = || {
            let mut command = Command::new(portreeve().unwrap());
            command.arg("get").args(arguments).arg("--bpffs").arg(self.node.bpffs());
            command.arg("--run-dir").arg(self.node.setting().run_dir()).stdin(Stdio::null());
            command
        };
        want.assert_eq(&screen(command, has_colour, steady));
    }
}

#[tokio::test]
async fn tables_of_the_maps_are_the_same_everywhere() {
    let cluster = Cluster::start("screens").await;
    cluster.manifests().write_text("shop.yaml", &shop()).unwrap();
    let node = cluster.node(0);
    eventually("the shop is served", async || {
        let mut command = Command::new(portreeve()?);
        command
            .args(["get", "services", "-n", "shop-of-a-long-name", "-o", "name", "--bpffs"])
            .arg(node.bpffs());
        let output = command.output()?;
        ensure!(output.stdout.ends_with(b"long-name\n"), "{output:?}");
        Ok(())
    })
    .await;
    let web = cluster.service("web").tcp(80).node_port(30080).affinity(DAY).backends(["web-0"]).await;
    let _db = cluster.service("db").tcp(5432).backends(["db-0"]).await;
    let [vip, _] = web.vips();
    cluster.pod("db-0").dials(vip).times(1).always_reaches_one_of(["web-0"]).await;
    let node_port = SocketAddr::new(node.addresses.v4.into(), 30080);
    let outside = cluster.client("client").start().await;
    outside.hold(vec![node_port], 1).await.unwrap();

    let screens = Screens { node };
    services(&screens);
    backends(&screens);
    clients(&screens);
    // Without an agent the maps are still read; what they do not hold is unknown, and labels cannot be asked for.
    node.kill_agent().await.unwrap();
    without_agent(&screens);
    let mut command = Command::new(portreeve().unwrap());
    command.args(["get", "services", "-l", "tier", "--bpffs"]).arg(node.bpffs());
    let output = command.arg("--run-dir").arg(node.setting().run_dir()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("labels are in the memory of a running agent"),
        "{error}"
    );
}

/// Of the other Services the cluster's own dials are counted.
fn services(screens: &Screens<'_>) {
    screens.check(&["services", "-n", "shop-of-a-long-name"], true, &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    BACKENDS                   POLICY      CONNECTIONS  REFUSED  AGE
        shop-of-a-long-name/empty                               ClusterIP  10.96.0.11  5432/TCP   reject                     -           0            0        26h
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)                -           0            0        26h
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30081/TCP  2 (1 local), out: 1 local  out: Local  -            -        26h

        NodePorts are served at 127.0.0.1, 172.18.0.11, fd00:172:18::b
    "#]]);
    screens.check(&["services", "-n", "shop-of-a-long-name", "-o", "wide"], true, &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    INTERNAL                             EXTERNAL                             POLICY      CONNECTIONS  REFUSED  OPENED  OPEN  FAILED  RTT  AGE
        shop-of-a-long-name/empty                               ClusterIP  10.96.0.11  5432/TCP   reject                               reject                               -           0            0        0       0     0       -    26h
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     10.244.1.204:8080,10.244.2.204:8080  10.244.1.204:8080,10.244.2.204:8080  -           0            0        0       0     0       -    26h
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30081/TCP  10.244.1.204:8080,10.244.2.204:8080  10.244.1.204:8080                    out: Local  -            -        -       -     -       -    26h

        NodePorts are served at 127.0.0.1, 172.18.0.11, fd00:172:18::b
    "#]]);
    screens.check(&["services", "-l", "tier in (web, api)", "--no-headers"], false, &expect![[r#"
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)                -           0  0  26h
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30081/TCP  2 (1 local), out: 1 local  out: Local  -  -  26h

        NodePorts are served at 127.0.0.1, 172.18.0.11, fd00:172:18::b
    "#]]);
    screens.check(
        &["services", "-l", "tier!=web", "-o", "name"],
        false,
        &expect![[r#"
        default/db
        default/web
        shop-of-a-long-name/empty
    "#]],
    );
    screens.check(
        &["services", "-l", "tier=none"],
        false,
        &expect![[r#"
        no frontends
    "#]],
    );
    let template = r#"jsonpath={.items[*].port}{"\n"}"#;
    screens.check(
        &["services", "-n", "shop-of-a-long-name", "-o", template],
        false,
        &expect![[r#"
        5432 80 30081
    "#]],
    );
}

fn backends(screens: &Screens<'_>) {
    screens.check(
        &["backends"],
        true, &expect![[r#"
            SERVICE                                                 ADDRESS                    PROTOCOL  READY  STATE        HEALTH  SETS           POD                        NODE    ZONE
            default/db:tcp-5432                                     10.244.1.101:13432         TCP       true   ready        -       cluster        default/db-0               node-1  -
            default/db:tcp-5432                                     [fd00:10:244:1::65]:13432  TCP       true   ready        -       cluster        default/db-0               node-1  -
            default/web:tcp-80                                      10.244.1.100:8080          TCP       true   ready        -       cluster        default/web-0              node-1  -
            default/web:tcp-80                                      [fd00:10:244:1::64]:8080   TCP       true   ready        -       cluster        default/web-0              node-1  -
            shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.1.204:8080          TCP       true   ready        -       cluster,local  shop-of-a-long-name/web-0  node-1  zone-a
            shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.204:8080          TCP       true   ready        -       cluster        -                          node-2  zone-b
            shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.205:8080          TCP       false  terminating  -       -              -                          node-2  -
        "#]]);
    screens.check(&["backends", "-o", "wide", "-l", "tier"], true, &expect![[r#"
        SERVICE                                                 ADDRESS            PROTOCOL  READY  STATE        HEALTH  SETS           POD                        NODE    ZONE    OPENED  OPEN  FAILED  RTT  INDEX  GENERATION
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.1.204:8080  TCP       true   ready        -       cluster,local  shop-of-a-long-name/web-0  node-1  zone-a  0       0     0       -    0      1
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.204:8080  TCP       true   ready        -       cluster        -                          node-2  zone-b  0       0     0       -    1      1
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.205:8080  TCP       false  terminating  -       -              -                          node-2  -       0       0     0       -    2      1
    "#]]);
}

/// Affinity entries and connections.
fn clients(screens: &Screens<'_>) {
    screens.check(
        &["affinity"],
        false,
        &expect![[r#"
            CLIENT            SERVICE             BACKEND                   AGE  EXPIRES IN
            10.244.1.1        default/web:tcp-80  10.244.1.100:8080         Ns   23h
            default/db-0      default/web:tcp-80  10.244.1.100:8080         Ns   23h
            198.51.100.10     default/web:tcp-80  10.244.1.100:8080         Ns   23h
            fd00:10:244:1::1  default/web:tcp-80  [fd00:10:244:1::64]:8080  Ns   23h
        "#]],
    );
    screens.check(&["affinity", "-o", "wide"], false, &expect![[r#"
        CLIENT            SERVICE             BACKEND                   AGE  EXPIRES IN  PROTOCOL  STATE     ADDRESS
        10.244.1.1        default/web:tcp-80  10.244.1.100:8080         Ns   23h         TCP       followed  10.244.1.1
        default/db-0      default/web:tcp-80  10.244.1.100:8080         Ns   23h         TCP       followed  10.244.1.101
        198.51.100.10     default/web:tcp-80  10.244.1.100:8080         Ns   23h         TCP       followed  198.51.100.10
        fd00:10:244:1::1  default/web:tcp-80  [fd00:10:244:1::64]:8080  Ns   23h         TCP       followed  fd00:10:244:1::1
    "#]]);
    screens.check(
        &["connections"],
        false,
        &expect![[r#"
            SERVICE             CLIENT               DIALLED            BACKEND            STATE
            default/web:tcp-80  198.51.100.10:PORT5  172.18.0.11:30080  10.244.1.100:8080  established
        "#]],
    );
    screens.check(&["connections", "-o", "wide"], false, &expect![[r#"
        SERVICE             CLIENT               DIALLED            BACKEND            STATE        PROTOCOL  MASQUERADE  IDLE  SENT  RECEIVED  POD
        default/web:tcp-80  198.51.100.10:PORT5  172.18.0.11:30080  10.244.1.100:8080  established  TCP       10.244.1.1:PORT  Ns    NB    NB        -
    "#]]);
}

fn without_agent(screens: &Screens<'_>) {
    screens.check(&["services", "-n", "shop-of-a-long-name"], true, &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    BACKENDS                   POLICY      CONNECTIONS  REFUSED  AGE
        shop-of-a-long-name/empty                               ClusterIP  10.96.0.11  5432/TCP   reject                     -           0            0        <unknown>
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)                -           0            0        <unknown>
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30081/TCP  2 (1 local), out: 1 local  out: Local  -            -        <unknown>

        NodePorts are served at 127.0.0.1, 172.18.0.11, fd00:172:18::b
    "#]]);
    screens.check(&["backends", "-n", "shop-of-a-long-name"], true, &expect![[r#"
        SERVICE                                                 ADDRESS            PROTOCOL  READY  STATE        HEALTH  SETS           POD  NODE  ZONE
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.1.204:8080  TCP       true   ready        -       cluster,local  -    -     -
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.204:8080  TCP       true   ready        -       cluster        -    -     -
        shop-of-a-long-name/web-frontend-with-a-long-name:http  10.244.2.205:8080  TCP       false  terminating  -       -              -    -     -
    "#]]);
}
