//! Faults of a node, found by `check`.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::{Cluster, firewall};

use super::asked::{command, is_absent, is_named, is_named_after};

/// What the node's administrator or other software set up.
#[tokio::test]
async fn what_is_wrong_with_a_node_is_stated_by_check() -> Result<()> {
    let cluster = Cluster::start("fault-node").await;
    let node = cluster.node(0);
    let findings = || -> Result<Vec<String>> {
        let output = command(node, &["check", "-o", "json"])?;
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let bad = findings.iter().filter(|finding| finding["verdict"] != "ok");
        Ok(bad.map(|finding| format!("{} {}", finding["name"], finding["what"])).collect())
    };
    let faults = [
        ("kube-proxy", "table ip kube-proxy of nftables mode"),
        ("sysctls", "strict rp_filter drops packets on asymmetric paths"),
        ("sysctls", "pods are not reachable from other nodes"),
        ("forward", "chain inet fault forward drops forwarded packets that no rule accepts"),
        ("other programs", "eth0: u32"),
    ];
    let is_stated = |findings: &[String], name: &str, words: &str| {
        findings.iter().any(|line| line.starts_with(&format!("\"{name}\"")) && line.contains(words))
    };
    let before = findings()?;
    for (name, words) in faults {
        ensure!(!is_stated(&before, name, words), "{name}: {before:#?}");
    }
    firewall::filter(
        node.netns(),
        "table ip kube-proxy { chain services { }\n }\n\
         table inet fault { chain forward { type filter hook forward priority 0; policy drop; }\n }",
    )?;
    node.netns().run(|| {
        for (name, value) in [("ip_forward", "0"), ("conf/all/rp_filter", "1")] {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value)?;
        }
        for words in [
            "qdisc replace dev eth0 clsact",
            "filter add dev eth0 ingress prio 7 protocol all u32 match u32 0 0 flowid 1:1",
        ] {
            let tc = Command::new("tc").args(words.split(' ')).output()?;
            ensure!(tc.status.success(), "{words}: {tc:?}");
        }
        Ok(())
    })?;
    let after = findings()?;
    for (name, words) in faults {
        ensure!(is_stated(&after, name, words), "{name}: `{words}` is not in {after:#?}");
    }
    Ok(())
}

/// The kernel, its mounts and the rights of the container, as a node has them that does not meet the requirements.
#[tokio::test]
async fn a_requirement_that_is_not_met_is_named() -> Result<()> {
    let cluster = Cluster::start("fault-kernel").await;
    let node = cluster.node(0);
    let files = cluster.directory();
    let place = files.display();
    fs::write(files.join("osrelease"), "5.15.0-71-generic\n")?;
    fs::create_dir(files.join("limited"))?;
    fs::write(files.join("limited/memory.max"), "268435456\n")?;
    for (fault, script, arguments) in [
        (
            "the kernel is too old",
            format!("mount --bind {place}/osrelease /proc/sys/kernel/osrelease && exec"),
            vec![],
        ),
        ("no cgroup2, or not the node's", "exec".to_owned(), vec!["--cgroup", "/proc"]),
        ("no bpffs", "mount -t tmpfs none /sys/fs/bpf && exec".to_owned(), vec![]),
        ("capabilities are missing", "exec setpriv --bounding-set -bpf,-sys_admin".to_owned(), vec![]),
        (
            "a memory limit without room for the tables",
            format!("mount --bind {place}/limited /sys/fs/cgroup && exec"),
            vec![],
        ),
    ] {
        is_named_after(&script, node, fault, &arguments)?;
    }

    let run = |words: &str| {
        node.netns().run(|| {
            let done = Command::new("ip").args(words.split(' ')).output()?;
            ensure!(done.status.success(), "ip {words}: {done:?}");
            Ok(())
        })
    };
    let policy = "src 10.1.0.0/16 dst 10.2.0.0/16 dir out";
    is_absent(node, "IPsec policies between nodes", &[]).await;
    run(&format!("xfrm policy add {policy} tmpl src 172.18.0.11 dst 172.18.0.12 proto esp mode tunnel"))?;
    is_named(node, "IPsec policies between nodes", &[]).await;
    run(&format!("xfrm policy delete {policy}"))?;
    is_absent(node, "IPsec policies between nodes", &[]).await;

    is_absent(node, "no room for masquerade ports", &[]).await;
    node.netns().run(|| Ok(fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?))?;
    is_named(node, "no room for masquerade ports", &[]).await;
    Ok(())
}
