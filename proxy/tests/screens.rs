//! The screens of commands: the same at every width, in a pipe and without colour; and the exit codes of `plan`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use expect_test::{Expect, expect};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: shop-of-a-long-name, name: web-frontend-with-a-long-name}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop-of-a-long-name
  name: web-1
  labels: {kubernetes.io/service-name: web-frontend-with-a-long-name}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.4], nodeName: node-1, conditions: {ready: true}}
- {addresses: [10.244.2.4], nodeName: node-2, conditions: {ready: true}}
"#;

/// Exit code and output of `plan`; stderr is empty.
fn plan(objects: &str, args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), objects).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(["plan", "--node-name", "node-1", "--node-address", "192.0.2.11", "--manifests"])
        .arg(directory.path())
        .args(args)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "", "everything is said once, in the output");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn check(args: &[&str], want: &Expect) {
    for environment in
        [("COLUMNS", "80"), ("COLUMNS", "160"), ("NO_COLOR", "1"), ("LANG", "C"), ("TERM", "dumb")]
    {
        let (code, text) = plan(OBJECTS, args, &[environment]);
        assert_eq!(code, Some(0));
        want.assert_eq(&text);
    }
}

#[test]
fn a_plan_has_one_line_per_frontend_at_every_width() {
    check(
        &[],
        &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    INTERNAL     EXTERNAL
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     2 (1 local)  2 (1 local)
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30080/TCP  2 (1 local)  1 (1 local)

        2 frontends, 7 DNS records
    "#]],
    );
    check(
        &["-o", "wide"],
        &expect![[r#"
        SERVICE                                                 TYPE       ADDRESS     PORT(S)    INTERNAL                         EXTERNAL                         AFFINITY  SOURCE RANGES
        shop-of-a-long-name/web-frontend-with-a-long-name:http  ClusterIP  10.96.0.10  80/TCP     10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080,10.244.2.4:8080  10800s    -
        shop-of-a-long-name/web-frontend-with-a-long-name:http  NodePort   *           30080/TCP  10.244.1.4:8080,10.244.2.4:8080  10.244.1.4:8080                  10800s    -

        2 frontends, 7 DNS records
    "#]],
    );
}

#[test]
fn a_plan_with_skipped_parts_has_an_exit_code_of_its_own() {
    let misspelt = OBJECTS.replace("externalTrafficPolicy", "externalTraficPolicy");
    let (code, text) = plan(&misspelt, &[], &[]);
    assert_eq!(code, Some(3));
    let reason = "unknown field \"spec.externalTraficPolicy\"";
    assert_eq!(text.matches(reason).count(), 1, "{text}");
    let (code, text) = plan(&misspelt, &["-o", "json"], &[]);
    assert_eq!(code, Some(0), "JSON says it itself");
    assert!(text.contains("spec.externalTraficPolicy"), "{text}");
}
