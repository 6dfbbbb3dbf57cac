//! Corefiles that are accepted, and options that are refused.

use std::{fs, time::Duration};

use hickory_server::proto::{
    op::ResponseCode,
    rr::{LowerName, Name},
};

use super::*;
use crate::{
    config::{
        Cache, Certificates, DohMethod, Forward, Kubernetes, PodsMode, Policy, Prefetch, ServeStale,
        Upstream, UpstreamProtocol, Verify, any,
    },
    plugins::{
        health::Health,
        log::{Class, Log},
        reload::Reload,
        rewrite::{Pattern, Rule},
        tls::{ClientAuth, ServerTls},
    },
};

fn parsed(text: &str) -> Result<Config, CorefileError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, text).unwrap();
    read(&path, &|name| (name == "DOMAIN").then(|| "cluster.local".to_owned()))
}

/// The only block.
fn block(text: &str) -> ServerBlock {
    let Config { mut servers } = parsed(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(servers.len(), 1, "{text}");
    servers.remove(0)
}

fn zone(text: &str) -> LowerName {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name.into()
}

fn zones(text: &str) -> Zones {
    Zones(text.split_whitespace().map(zone).collect())
}

const SHIPPED: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes {$DOMAIN} in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
";

#[test]
fn the_file_of_a_stock_cluster_is_the_default() {
    assert_eq!(parsed(SHIPPED).unwrap(), Config::shipped(&zone("cluster.local")));
}

#[test]
fn the_files_of_a_node_cache_are_read() {
    let config = parsed(
        "cluster.local:53 {\n errors\n cache {\n  success 9984 30\n  denial 9984 5\n }\n reload\n loop\n \
         bind 169.254.20.10 10.96.0.10\n forward . 10.96.0.11 {\n  force_tcp\n }\n prometheus :9253\n \
         health 169.254.20.10:8080\n }\nin-addr.arpa:53, ip6.arpa:53 {\n forward . 10.96.0.11\n}\n",
    )
    .unwrap();
    let [first, second] = config.servers.as_slice() else { panic!("{config:?}") };
    let mut cache = Cache { zones: zones("cluster.local"), ..Cache::default() };
    cache.success.max_ttl = Duration::from_secs(30);
    cache.denial.max_ttl = Duration::from_secs(5);
    assert_eq!(first.cache, Some(cache));
    assert!(first.forwards[0].force_tcp && first.detect_loops);
    let address = |text: &str| BindAddress::Address(text.parse().unwrap());
    assert_eq!(first.bind, [address("169.254.20.10"), address("10.96.0.10")]);
    assert_eq!(first.metrics, Some(any(9253)));
    let health = Health { address: "169.254.20.10:8080".parse().unwrap(), lameduck: Duration::ZERO };
    assert_eq!(first.health, Some(health));
    let served: Vec<String> = second.listens.iter().map(|listen| listen.zone.to_string()).collect();
    assert_eq!(served, ["in-addr.arpa.", "ip6.arpa."]);
}

#[test]
fn kubernetes_options_are_read() {
    let block = block(
        ". {\n kubernetes cluster.local 10.0.0.0/16 {\n  endpoint https://10.0.0.1:6443\n  kubeconfig /k other\n  tls c k a\n  labels a in (b, c),d\n  \
         namespaces one two\n  pods verified\n  endpoint_pod_names\n  ttl 7\n  \
         noendpoints\n  fallthrough\n  ignore empty_service\n  startup_timeout 9s\n  \
         apiserver_qps 5\n }\n}",
    );
    let mut want = Kubernetes {
        pods: PodsMode::Verified,
        endpoint_pod_names: true,
        ttl: 7,
        fallthrough: Zones::all(),
        namespaces: vec!["one".to_owned(), "two".to_owned()],
        no_endpoints: true,
        ignore_empty_service: true,
        ..Kubernetes::new(zones("cluster.local 0.10.in-addr.arpa"))
    };
    want.api_server.endpoint = Some("https://10.0.0.1:6443".to_owned());
    want.api_server.kubeconfig = Some("/k".into());
    want.api_server.context = Some("other".to_owned());
    want.api_server.tls =
        Some(Certificates { certificate: "c".into(), key: "k".into(), authority: "a".into() });
    want.labels = Some("a in (b,c),d".parse().unwrap());
    assert_eq!(block.kubernetes, Some(want));
    let other = self::block("cluster.local {\n kubernetes {\n  namespace_labels e!=f\n  zonal\n }\n}");
    let mut want = Kubernetes { zonal: true, ..Kubernetes::new(zones("cluster.local")) };
    want.namespace_labels = Some("e!=f".parse().unwrap());
    assert_eq!(other.kubernetes, Some(want));
}

#[test]
fn forward_and_cache_options_are_read() {
    let block = block(
        "example.org {\n forward acme.local 10.0.0.1 [fd00::1]:54 tls://9.9.9.9%dns.quad9.net dns://10.0.0.2:55 /etc/resolv.conf {\n  \
         except a.acme.local b.acme.local\n  prefer_udp\n  expire 20s\n  max_fails 3\n  tls\n  \
         tls_servername dns.example\n  policy sequential\n  health_check 1s no_rec domain example.org\n  \
         failover SERVFAIL REFUSED\n  next NXDOMAIN\n  next_on_nodata\n  failfast_all_unhealthy_upstreams\n }\n \
         cache 60 example.org {\n  prefetch 10 1m 20%\n  serve_stale 2h verify 500ms 30s 20s\n  servfail 0s\n  \
         disable denial sub.example.org\n  keepttl\n }\n}",
    );
    let server = |address: &str, protocol, name: Option<&str>| Upstream::Server {
        address: address.parse().unwrap(),
        protocol,
        server_name: name.map(str::to_owned),
    };
    let mut want = Forward {
        from: zone("acme.local"),
        except: zones("a.acme.local b.acme.local"),
        expire: Duration::from_secs(20),
        max_fails: 3,
        policy: Policy::Sequential,
        failover: vec![ResponseCode::ServFail, ResponseCode::Refused],
        next: vec![ResponseCode::NXDomain],
        next_on_nodata: true,
        fail_fast: true,
        ..Forward::to(vec![
            server("10.0.0.1:53", UpstreamProtocol::Dns, None),
            server("[fd00::1]:54", UpstreamProtocol::Dns, None),
            server("9.9.9.9:853", UpstreamProtocol::Tls, Some("dns.quad9.net")),
            server("10.0.0.2:55", UpstreamProtocol::Dns, None),
            Upstream::ResolvConf("/etc/resolv.conf".into()),
        ])
    };
    want.tls.server_name = Some("dns.example".to_owned());
    want.health_check.interval = Duration::from_secs(1);
    want.health_check.recursion_desired = false;
    want.health_check.domain = zone("example.org");
    assert_eq!(block.forwards, [want]);

    let mut cache = Cache::capped_at(Duration::from_secs(60));
    cache.zones = zones("example.org");
    cache.prefetch = Some(Prefetch { amount: 10, duration: Duration::from_secs(60), percentage: 20 });
    let verify = Verify::First(Some(Duration::from_millis(500)));
    let (duration, ttl, recheck) = (Duration::from_secs(7200), 30, Duration::from_secs(20));
    cache.serve_stale = Some(ServeStale { duration, verify, ttl, recheck });
    cache.servfail = Duration::ZERO;
    cache.denial.except = zones("sub.example.org");
    cache.keep_ttl = true;
    assert_eq!(block.cache, Some(cache));
}

#[test]
fn the_options_of_serve_stale_follow_its_mode() {
    let stale = |seconds, verify, ttl, recheck| ServeStale {
        duration: Duration::from_secs(seconds),
        verify,
        ttl,
        recheck: Duration::from_secs(recheck),
    };
    let millis = |millis| Some(Duration::from_millis(millis));
    for (text, want) in [
        ("", stale(3600, Verify::Immediate, 0, 0)),
        ("30m", stale(1800, Verify::Immediate, 0, 0)),
        ("1h immediate 30s", stale(3600, Verify::Immediate, 30, 0)),
        ("1h IMMEDIATE 30s 1m", stale(3600, Verify::Immediate, 30, 60)),
        ("1h verify", stale(3600, Verify::First(None), 0, 0)),
        ("1h verify 0 30s", stale(3600, Verify::First(None), 30, 0)),
        ("1h verify 100ms", stale(3600, Verify::First(millis(100)), 0, 0)),
        ("1h verify 100ms 30s 30s", stale(3600, Verify::First(millis(100)), 30, 30)),
    ] {
        let block = block(&format!(". {{\n cache {{\n  serve_stale {text}\n }}\n}}"));
        assert_eq!(block.cache.unwrap().serve_stale, Some(want), "{text}");
    }
    for (text, want) in [
        ("1h\n  serve_stale_policy any", "the only policy is `prefer_positive`"),
        ("1h later", "served `immediate` or after `verify`"),
        ("1h immediate 1500ms", "whole seconds"),
        ("1h immediate 30s 10m", "5m at the most"),
        ("1h immediate 30s 30s 30s", "to be written"),
        ("1h verify 1s 30s 30s 30s", "to be written"),
    ] {
        let error =
            parsed(&format!(". {{\n cache {{\n  serve_stale {text}\n }}\n}}")).unwrap_err().to_string();
        let line = if text.contains('\n') { ":4: " } else { ":3: " };
        assert!(error.contains(line) && error.contains(want), "{text}: {error}");
    }
    let preferring = block(". {\n cache {\n  serve_stale\n  serve_stale_policy prefer_positive\n }\n}");
    assert!(preferring.cache.unwrap().prefer_positive);
    let error = parsed(". {\n cache {\n  serve_stale_policy prefer_positive\n }\n}").unwrap_err().to_string();
    assert!(error.contains(":2: `serve_stale_policy` needs `serve_stale`"), "{error}");
}

#[test]
fn a_prefetch_of_nothing_is_none() {
    for (amount, want) in [(0, false), (1, true)] {
        let block = block(&format!(". {{\n cache {{\n  prefetch {amount}\n }}\n}}"));
        assert_eq!(block.cache.unwrap().prefetch.is_some(), want, "{amount}");
    }
}

#[test]
fn hosts_rewrite_and_template_are_read() {
    let block = block(
        "example {\n hosts /h example {\n  10.0.0.1 a.example b.example\n  ttl 60\n  no_reverse\n  reload 0\n  \
         fallthrough\n }\n rewrite name a.example b.example\n rewrite continue name suffix .x .y answer auto\n \
         rewrite stop {\n  name regex (.*)\\.old\\.example {1}.new.example\n  \
         answer name (.*)\\.new\\.example {1}.old.example value a b\n }\n template IN AAAA {\n  rcode NXDOMAIN\n }\n \
         template ANY ANY sub.example {\n  match ^a \"^b b\"\n  answer \"{{ .Name }} 60 IN A 10.0.0.1\"\n  fallthrough\n }\n}",
    );
    let hosts = block.hosts.unwrap();
    assert_eq!((hosts.ttl, hosts.reverse, hosts.reload), (60, false, None));
    assert_eq!(hosts.entries.len(), 2);
    let [exact, suffix, regex] = block.rewrites.as_slice() else { panic!("{:?}", block.rewrites) };
    assert!(suffix.continues && !regex.continues);
    let [exact, suffix, regex] = [exact, suffix, regex].map(|rewrite| {
        let Rule::Name(rule) = &rewrite.rule else { panic!("{rewrite:?}") };
        rule
    });
    assert_eq!((&exact.from, exact.to.as_str()), (&Pattern::Exact("a.example.".to_owned()), "b.example."));
    assert_eq!((&suffix.from, suffix.to.as_str()), (&Pattern::Suffix(".x.".to_owned()), ".y."));
    assert_eq!([exact, suffix, regex].map(|rule| rule.restores), [true, true, false]);
    assert_eq!(regex.answers.iter().map(|answer| answer.in_value).collect::<Vec<_>>(), [false, true]);
    let [v6, all] = block.templates.as_slice() else { panic!("{:?}", block.templates) };
    assert_eq!((v6.rcode, v6.matches.len(), v6.zones.clone()), (ResponseCode::NXDomain, 1, zones("example")));
    assert_eq!((all.qtype, all.matches.len(), all.answers.len()), (None, 2, 1));
}

#[test]
fn small_directives_are_read() {
    let mut block = block(
        "dns://a.example:1053 b.example {\n bufsize 1400\n log . {combined}\n ready :8282\n prometheus\n \
         log a.example \"{name} {rcode}\" {\n  class denial error\n }\n \
         reload 10s 2s\n local\n any\n minimal\n bind eth0\n errors {\n  consolidate 5m \".* timeout$\"\n }\n}",
    );
    let listens: Vec<_> = block.listens.iter().map(|listen| (listen.zone.to_string(), listen.port)).collect();
    assert_eq!(listens, [("a.example.".to_owned(), 1053), ("b.example.".to_owned(), 53)]);
    assert_eq!(block.bind, [BindAddress::Interface("eth0".to_owned())]);
    assert_eq!(block.metrics, Some("127.0.0.1:9153".parse().unwrap()));
    let reload = Reload { interval: Duration::from_secs(10), jitter: Duration::from_secs(2) };
    assert_eq!(block.reload, Some(reload));
    assert_eq!(block.ready, Some(any(8282)));
    let mut want = ServerBlock::new(std::mem::take(&mut block.listens));
    want.listens.clear();
    (want.bind, want.metrics, want.reload) = (block.bind.clone(), block.metrics, block.reload.clone());
    (want.ready, want.max_udp_payload) = (block.ready, 1400);
    (want.local, want.minimal_any, want.minimal) = (true, true, true);
    want.logs = vec![
        Log::all(),
        Log { zones: zones("a.example"), classes: vec![Class::Denial, Class::Error], format: None },
    ];
    assert!(block.logs.iter().all(|log| log.format.is_some()), "{:?}", block.logs);
    block.logs.iter_mut().for_each(|log| log.format = None);
    assert_eq!(block, want);
}

#[test]
fn ineffective_options_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    let text = ". {\n errors {\n  stacktrace\n }\n kubernetes {\n  ttl 5\n  apiserver_qps 5\n }\n forward . 10.0.0.1 {\n  \
                prefer_udp\n }\n log . \"{type} {name}\"\n}";
    fs::write(&path, text).unwrap();
    let named = ineffective_options(&path, &|_| None);
    let locations: Vec<_> =
        named.iter().map(|ineffective| (ineffective.location.as_str(), &*ineffective.option)).collect();
    let location = |line: u32| format!("{}:{line}", path.display());
    let want = [(location(3), "stacktrace"), (location(7), "apiserver_qps"), (location(10), "prefer_udp")];
    assert_eq!(locations, want.each_ref().map(|(location, option)| (location.as_str(), *option)));
}

#[test]
fn blocks_may_be_written_in_many_ways() {
    for text in [
        "forwarded.example",
        "(never) {\n bogus\n}\n. {\n any\n}",
        "a.example,\nb.example {\n any\n}",
        ".\nany\nlog",
        "# a comment\n\n. { # another\n any # a third\n}",
    ] {
        block(text);
    }
    let snippet =
        block("(one) {\n any\n forward . 10.0.0.1 {\n  force_tcp\n }\n}\n. {\n import one\n log\n}");
    assert!(snippet.minimal_any && !snippet.logs.is_empty() && snippet.forwards[0].force_tcp);
}

#[test]
fn files_are_imported() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    fs::create_dir(directory.path().join("custom")).unwrap();
    write("Corefile", ". {\n log\n import custom/*.override\n}\nimport custom/*.server\nimport missing/*\n");
    write("custom/a.override", "any\n");
    write("custom/b.override", "forward . 10.0.0.1\n");
    write("custom/c.server", "acme.local {\n forward . 10.0.0.2\n}\n");
    write("custom/ignored", "bogus\n");
    let path = directory.path().join("Corefile");
    let config = read(&path, &|_| None).unwrap();
    assert_eq!(config.servers.len(), 2);
    assert!(config.servers[0].minimal_any && config.servers[0].forwards.len() == 1);
    write("custom/a.override", "any\nbogus\n");
    let error = read(&path, &|_| None).unwrap_err().to_string();
    assert!(error.contains("custom/a.override:2: there is no directive `bogus`"), "{error}");
    write("custom/a.override", "import *.override\n");
    let error = read(&path, &|_| None).unwrap_err().to_string();
    assert!(error.contains("import each other"), "{error}");
}

#[test]
fn unsupported_options_are_refused_with_their_location() {
    for (text, want) in [
        ("", "has no server block"),
        (". {\n forwrd . 10.0.0.1\n}", ":2: there is no directive `forwrd`; is `forward` meant?"),
        (". {\n frobnicate\n}", ":2: there is no directive `frobnicate`; remove the line or correct it"),
        (". {\n log\n route53 x\n}", ":3: the directive `route53` is not supported; forward the zone"),
        (". {\n any", ":1: the { of this line is never closed"),
        (". {\n any\n}\n}", "this } closes nothing"),
        (". {\n any\n} {", "nothing may follow a }"),
        (". {\n any\n}\nother\n", ":4: a server block needs a {"),
        (". {\n any\n}\n.:53 {\n}", ":4: the zone . on port 53 has a block at"),
        (". {\n any\n any\n}", ":3: `any` stands in line 2 already"),
        (". {\n any more\n}", ":2: `any` takes nothing more; remove `more`"),
        ("quic://. {\n}", ":1: serving over `quic://` is not supported"),
        ("tls://. {\n}", ":1: `tls://` needs a certificate; add `tls CERT KEY`"),
        ("https://. {\n tls a.pem\n}", ":2: `tls` is to be written `tls CERT KEY [CA]`"),
        (". {\n tls a.pem a.key {\n  client_auth require\n }\n}", ":3: a certificate that nobody verifies"),
        ("a..b {\n}", "`a..b` is neither a zone nor a network"),
        (". {\n cache zero..\n}", ":2: `zero..` is neither a zone nor a network"),
        (". {\n cache {\n  prefetch 1 1m 5%\n }\n}", ":3: write a percentage from 10% to 90%"),
        (". {\n cache {\n  servfail 10m\n }\n}", ":3: failures are kept for 5m at the most"),
        (". {\n forward .\n}", ":2: `forward` is to be written `forward FROM TO...`"),
        (". {\n forward . 10.0.0.256\n}", "neither an address, nor a name, nor a file"),
        (". {\n forward . dns..google\n}", "neither an address, nor a name, nor a file"),
        (". {\n forward . quic://9.9.9.9\n}", "upstreams over `quic://` are not supported"),
        (". {\n forward . https://9.9.9.9/query\n}", "`/dns-query`; remove it"),
        (". {\n forward . 10.0.0.1 {\n  max_age 5s\n }\n}", ":2: `max_age` is less than `expire`"),
        (". {\n forward . 10.0.0.1 {\n  read_timeout 0s\n }\n}", ":3: no upstream answers in no time"),
        (". {\n forward . 10.0.0.1 {\n  doh_method PUT\n }\n}", ":3: a method is `GET` or `POST`"),
        (". {\n forward . 10.0.0.1 {\n  source_address lo\n }\n}", ":3: `lo` is no address"),
        (". {\n forward . 10.0.0.1 {\n  resolver dns.example\n }\n}", ":3: `dns.example` is no address"),
        (
            ". {\n forward . 10.0.0.1 {\n  max_cocurrent 5\n }\n}",
            ":3: `max_cocurrent` is no option of `forward`",
        ),
        (". {\n kubernetes {\n  pods all\n }\n}", ":3: `pods` is `disabled`, `insecure` or `verified`"),
        (". {\n kubernetes {\n  ttl 4000\n }\n}", ":3: write a TTL from 0 to 3600"),
        (". {\n kubernetes {\n  labels a>b\n }\n}", ":3: `a>b` is no requirement of labels"),
        (
            ". {\n kubernetes {\n  tls a b\n }\n}",
            ":3: `tls` is to be written `tls CERTIFICATE KEY AUTHORITY`",
        ),
        (
            "a {\n kubernetes a {\n  labels x\n }\n}\nb {\n kubernetes b {\n }\n}",
            ":7: `labels` and `namespace_labels` must be the same in all blocks",
        ),
        (". {\n rewrite size 1 2\n}", "`size` cannot be rewritten"),
        (". {\n rewrite name regex ( a\n}", "`(` is no regular expression"),
        (". {\n rewrite name suffix a b auto\n}", ":2: after the names comes `answer auto`"),
        (". {\n rewrite name suffix a b answer name c\n}", ":2: after the names comes `answer auto`"),
        (". {\n template IN A {\n  answer \"{{ .Remote }}\"\n }\n}", ":3: `.Remote` cannot be filled in"),
        (". {\n hosts {\n  10.0.0.300 a\n }\n}", ":3: `10.0.0.300` is no option of `hosts`"),
        (". {\n import nothing\n}", ":2: there is no such snippet"),
        (". {\n loadbalance weighted\n}", ":2: write `weighted FILE`"),
        (". {\n loadbalance {\n  reload 5s\n }\n}", ":3: only the policy `weighted` has a file"),
        (". {\n loadbalance {\n  prefer 10.0.0.1\n }\n}", ":3: `10.0.0.1` is no network"),
        (". {\n dns64 10.0.0.0/8\n}", ":2: `10.0.0.0/8` is no prefix"),
        (". {\n dns64 {\n  prefix 64:ff9b::/97\n }\n}", ":3: `64:ff9b::/97` is no prefix"),
        (". {\n view a {\n  expr type()\n }\n}", ":3: `type()` is neither true nor false"),
        (". {\n loadbalance fair\n}", "the policies are `round_robin` and `weighted FILE`"),
        (". {\n prometheus 9153\n}", "`9153` is no address to listen at"),
        (". {\n bufsize 100\n}", "a size from 512 to 4096"),
        (". {\n reload soon\n}", "`soon` is no duration"),
        (". {\n reload 0s\n}", ":2: without a pause nothing else would be done"),
        (". {\n forward . 10.0.0.1 {\n  health_check 0s\n }\n}", ":3: without a pause"),
        (". {\n template CH TXT {\n }\n}", ":2: the class comes first, and only `IN` and `ANY` are answered"),
        ("in-addr.arpa ip6.arpa {\n kubernetes\n}", ":2: addresses lead to names of Services; add the zone"),
    ] {
        let error = parsed(text).map(|config| format!("{config:?}")).unwrap_err().to_string();
        assert!(error.contains(want), "{text:?}\nwants {want}\ngot {error}");
    }
}

/// The directives of CoreDNS 1.14.7 (its plugin.cfg), and well-known external ones.
const COREDNS: &str = "acl any auto autopath azure bind bufsize cache cancel chaos clouddns debug dns64 dnssec dnstap \
    erratic errors etcd file forward geoip grpc grpc_server header health hosts https https3 import k8s_external \
    kubernetes loadbalance local log loop metadata minimal multisocket nomad nsid on pprof prometheus proxyproto quic \
    ready reload rewrite root route53 secondary shed sign template timeouts tls trace transfer tsig view whoami";
const EXTERNAL: &str = "ads alias alternate bigcache blocklist demo dump dynamicupdate ebpf external fallback fanout \
    finalize git github gslb ipin k8s_crd k8s_event k8s_gateway kubenodes meshname mdns meship metrics multicluster \
    mysql netbox pdsql proxy records recursor redis redisc rrl split tailscale unbound warnlist wgsd";

#[test]
fn every_directive_of_coredns_is_supported_or_refused_by_name() {
    let is_supported = |name: &str| DIRECTIVES.iter().any(|directive| directive.name == name);
    for name in COREDNS.split_whitespace().chain(EXTERNAL.split_whitespace()) {
        if is_supported(name) || name == "import" {
            continue;
        }
        let error = parsed(&format!(". {{\n {name} x\n}}")).unwrap_err().to_string();
        let want = format!(":2: the directive `{name}` is not supported; ");
        assert!(error.contains(&want), "{name}: {error}");
    }
}

#[test]
fn alternates_are_read() {
    let read = block(
        ". {\n forward . 10.0.0.1\n alternate nxdomain . 10.0.0.2\n \
         alternate original SERVFAIL,REFUSED . 10.0.0.3:54 tls://9.9.9.9%dns.quad9.net\n}",
    );
    let [first, second] = read.alternates.as_slice() else { panic!("{:?}", read.alternates) };
    assert_eq!((first.original, &first.rcodes[..]), (false, &[ResponseCode::NXDomain][..]));
    assert_eq!(first.forward, Forward::to(vec![Upstream::plain("10.0.0.2:53".parse().unwrap())]));
    assert_eq!((second.original, second.rcodes.len(), second.forward.to.len()), (true, 2, 2));
    for (lines, line, want) in [
        ("alternate", 2, "is to be written `alternate [original] RCODE"),
        ("alternate original NXDOMAIN", 2, "is to be written `alternate [original] RCODE"),
        ("alternate NXDOMAIN .", 2, "is to be written `alternate [original] RCODE"),
        ("alternate NXDOMAIN example.org 10.0.0.2", 2, "the zone is `.`"),
        ("alternate NXDOMAIN,BOGUS . 10.0.0.2", 2, "`BOGUS` is no response code"),
        ("alternate NXDOMAIN, . 10.0.0.2", 2, "`` is no response code"),
        ("alternate NXDOMAIN . grpc://10.0.0.2", 2, "are not supported"),
        (
            "alternate NXDOMAIN . 10.0.0.2 {\n policy sequential\n }",
            3,
            "`policy` is no option of `alternate`",
        ),
        ("alternate NXDOMAIN . 10.0.0.2\n alternate REFUSED,NXDOMAIN . 10.0.0.3", 3, "has upstreams already"),
        (
            "rewrite name a b\n alternate original NXDOMAIN . 10.0.0.2",
            3,
            "`original` undoes only `rewrite edns0`",
        ),
    ] {
        let error = parsed(&format!(". {{\n {lines}\n}}")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!(":{line}: ")) && error.contains(want), "{lines}: {error}");
    }
}

#[test]
fn options_of_upstreams_are_read() {
    let block = block(
        ". {\n forward . https://9.9.9.9%dns.quad9.net https://dns.example:8443 tls://dns.example \
         tls://dns.example%other.example:853 dns.example. my-dns.svc.cluster.local:54 https://[fd00::1] {\n  \
         max_age 60s\n  max_idle_conns 4\n  read_timeout 3s\n  max_connect_attempts 0\n  doh_method GET\n  \
         source_address 10.0.0.9\n  resolver 10.0.0.1 [fd00::1]:54 fd00::2\n }\n}",
    );
    let server = |address: &str, name: Option<&str>| Upstream::Server {
        address: address.parse().unwrap(),
        protocol: UpstreamProtocol::Https,
        server_name: name.map(str::to_owned),
    };
    let host = |name: &str, port, protocol, server_name: Option<&str>| Upstream::Host {
        name: zone(name),
        port,
        protocol,
        server_name: server_name.map(str::to_owned),
    };
    let want = Forward {
        max_age: Some(Duration::from_secs(60)),
        max_idle: 4,
        read_timeout: Duration::from_secs(3),
        max_attempts: Some(0),
        doh_method: DohMethod::Get,
        source: Some("10.0.0.9".parse().unwrap()),
        resolvers: ["10.0.0.1:53", "[fd00::1]:54", "[fd00::2]:53"].map(|text| text.parse().unwrap()).to_vec(),
        ..Forward::to(vec![
            server("9.9.9.9:443", Some("dns.quad9.net")),
            host("dns.example", 8443, UpstreamProtocol::Https, None),
            host("dns.example", 853, UpstreamProtocol::Tls, None),
            host("dns.example", 853, UpstreamProtocol::Tls, Some("other.example")),
            host("dns.example", 53, UpstreamProtocol::Dns, None),
            host("my-dns.svc.cluster.local", 54, UpstreamProtocol::Dns, None),
            server("[fd00::1]:443", None),
        ])
    };
    assert_eq!(block.forwards, [want]);
}

/// As in CoreDNS.
#[test]
fn idle_connections_may_be_unlimited() {
    for (number, want) in [("0", usize::MAX), ("1", 1)] {
        let block = block(&format!(". {{\n forward . 10.0.0.1 {{\n max_idle_conns {number}\n }}\n}}"));
        assert_eq!(block.forwards[0].max_idle, want, "{number}");
    }
}

#[test]
fn blocks_are_served_over_tls_and_https() {
    let block = block(
        "tls://example.org https://example.org tls://example.org:8853 example.org {\n tls a.pem a.key ca.pem {\n  \
         client_auth require_and_verify\n }\n https {\n  max_connections 0\n }\n}",
    );
    let listens: Vec<_> =
        block.listens.iter().map(|listen| format!("{}:{}", listen.protocol.name(), listen.port)).collect();
    assert_eq!(listens, ["tls:853", "https:443", "tls:8853", "dns:53"]);
    let want = ServerTls {
        certificate: "a.pem".into(),
        key: "a.key".into(),
        authority: Some("ca.pem".into()),
        client_auth: ClientAuth::RequireAndVerify,
    };
    assert_eq!(block.tls, Some(want));
}

#[test]
fn tls_upstreams_have_a_server_name_and_a_port() {
    for (text, want, want_name) in [
        ("tls://127.0.0.1%dns.example:10853", "127.0.0.1:10853", Some("dns.example")),
        ("tls://127.0.0.1%dns.example", "127.0.0.1:853", Some("dns.example")),
        ("tls://127.0.0.1:10853", "127.0.0.1:10853", None),
        ("tls://127.0.0.1:10853%dns.example", "127.0.0.1:10853", Some("dns.example")),
        ("tls://[2001:db8::1%dns.example]:10853", "[2001:db8::1]:10853", Some("dns.example")),
        ("tls://[2001:db8::1%dns.example]", "[2001:db8::1]:853", Some("dns.example")),
        ("tls://2001:db8::1%dns.example", "[2001:db8::1]:853", Some("dns.example")),
        ("tls://[2001:db8::1]:10853", "[2001:db8::1]:10853", None),
    ] {
        let block = block(&format!(". {{\n forward . {text}\n}}"));
        let want = Upstream::Server {
            address: want.parse().unwrap(),
            protocol: UpstreamProtocol::Tls,
            server_name: want_name.map(str::to_owned),
        };
        assert_eq!(block.forwards[0].to, [want], "{text}");
    }
    for text in [
        "tls://127.0.0.1%",
        "tls://127.0.0.1%:853",
        "tls://127.0.0.1%dns.example:0x",
        "tls://127.0.0.1%dns..example",
        "tls://127.0.0.1:853%dns.example:853",
        "tls://[127.0.0.1%a%b]:853",
        "10.0.0.1%eth0",
        "tls://127.0.0.1 {\n tls_servername a..b\n }",
    ] {
        let error = parsed(&format!(". {{\n forward . {text}\n}}")).unwrap_err().to_string();
        let line = if text.contains('\n') { 3 } else { 2 };
        assert!(error.contains(&format!("Corefile:{line}: ")), "{text}: {error}");
    }
}

#[test]
fn braces_may_share_a_line_with_options() {
    let forward = |max_fails, seconds| Forward {
        max_fails,
        expire: Duration::from_secs(seconds),
        ..Forward::to(vec![Upstream::plain("10.0.0.1:53".parse().unwrap())])
    };
    for (body, want) in [
        ("{ max_fails 1 }", forward(1, 10)),
        ("{ }", forward(2, 10)),
        ("{\n max_fails 1 }", forward(1, 10)),
        ("{ max_fails 1\n }", forward(1, 10)),
        ("{ max_fails 1\n expire 20s }", forward(1, 20)),
    ] {
        let block = block(&format!(". {{\n forward . 10.0.0.1 {body}\n any\n}}"));
        assert_eq!(block.forwards, [want], "{body}");
        assert!(block.minimal_any, "{body}");
    }
    for text in [". {\n errors { }\n any\n}", ".\n{\n any\n}", ". { any\n}"] {
        assert!(block(text).minimal_any, "{text}");
    }
    assert_eq!(block(". { }"), ServerBlock::new(vec![Listen::plain(Zones::all().0[0].clone())]));
    for (text, want) in [
        (". { any }", ":1: the } of a server block begins a line of its own"),
        (". {\n any }", ":2: the } of a server block begins a line of its own"),
        (". {\n errors { } }", ":2: nothing may follow a }"),
        (". {\n forward . 10.0.0.1\n {\n max_fails 1\n }\n}", "a { stands alone"),
        (". {\n forward . 10.0.0.1 { max_fails 1 expire 20s }\n}", ":2: `max_fails` is to be written"),
        (". {\n errors {", "the { of this line is never closed"),
    ] {
        let error = parsed(text).unwrap_err().to_string();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn contradictions_and_mistakes_are_refused_as_in_coredns() {
    for (text, want) in [
        ("kubernetes {\n namespaces a\n namespace_labels b=c\n }", ":4: `namespaces` and `namespace_labels`"),
        ("kubernetes {\n noendpoints\n zonal\n }", ":4: `zonal` names endpoints"),
        (
            "kubernetes {\n multicluster clusterset.local\n }",
            ":3: `clusterset.local.` is no zone of `kubernetes`",
        ),
        ("kubernetes {\n apiserver_qps -1\n }", ":3: a limit is not negative"),
        ("kubernetes {\n endpoint\n }", ":3: `endpoint` is to be written"),
        ("rewrite name regex (.*)\\.a {2}.b", ":2: `{2}` has no group: `(.*)\\.a` has 1"),
        ("rewrite name regex a {1}.b", ":2: `{1}` has no group"),
        ("rewrite name regex (a) {1}.b answer name (c) {3}.d", ":2: `{3}` has no group"),
        ("template IN A {\n answer\n }", ":3: `answer` is to be written"),
        ("template IN A {\n match\n }", ":3: `match` is to be written"),
        ("forward . /nonexistent", ":2: there is no file `/nonexistent`"),
        ("reload 1s", ":2: the shortest duration is 2s here"),
        ("reload 10s 500ms", ":2: the shortest duration is 1s here"),
        ("errors /var/log/dns", ":2: errors go to the log"),
        ("ready {\n monitor sometimes\n }", ":3: `monitor` is no option of `ready`"),
    ] {
        let error = parsed(&format!(". {{\n {text}\n}}")).unwrap_err().to_string();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn directives_are_accepted_as_in_coredns() {
    for text in [
        "ready {\n monitor continuously\n }",
        "errors stdout",
        "reload 2s",
        "rewrite name regex (a)(b) {2}.{1}",
        "kubernetes {\n apiserver_qps 0\n }",
    ] {
        block(&format!(". {{\n {text}\n}}"));
    }
    let two = block(". {\n kubernetes {\n endpoint https://10.0.0.1:6443 https://10.0.0.2:6443\n }\n}");
    let endpoint = two.kubernetes.unwrap().api_server.endpoint;
    assert_eq!(endpoint.as_deref(), Some("https://10.0.0.1:6443"), "the first one");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    fs::write(&path, ". {\n kubernetes {\n endpoint https://10.0.0.1 https://10.0.0.2\n }\n}").unwrap();
    let named: Vec<String> =
        ineffective_options(&path, &|_| None).into_iter().map(|ineffective| ineffective.option).collect();
    assert_eq!(named, ["https://10.0.0.2"]);
    let reload = block(". {\n reload 10s 9s\n}").reload.unwrap();
    assert_eq!(reload.jitter, Duration::from_secs(5), "half of the interval at the most");
}

#[test]
fn the_options_of_the_reference_are_options() {
    for directive in DIRECTIVES {
        let name = directive.name;
        let head = match name {
            "forward" => "forward . 10.0.0.1",
            "template" => "template IN A",
            other => other,
        };
        let ineffective = directive.ineffective_options.iter().map(|(option, _)| option);
        for option in directive.options.iter().chain(ineffective) {
            let error = parsed(&format!("example {{\n {head} {{\n  {option}\n }}\n}}")).err();
            let text = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!text.contains("is no option"), "{name} {option}: {text}");
        }
        let unknown = parsed(&format!("example {{\n {head} {{\n  frobnicate\n }}\n}}")).is_err();
        assert!(unknown, "{name}");
    }
}

#[test]
fn a_mounted_config_map_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let read = || read(directory.path(), &|_| None);
    let missing = read().unwrap_err();
    assert!(std::error::Error::source(&missing).unwrap().to_string().contains("neither `Corefile` nor"));
    let write = |key: &str, text: &str| fs::write(directory.path().join(key), text).unwrap();
    write("stubDomains", r#"{"acme.local": ["1.2.3.4"]}"#);
    write("upstreamNameservers", r#"["8.8.8.8"]"#);
    let Config { servers } = read().unwrap();
    let upstreams: Vec<_> = servers.iter().map(|server| server.forwards[0].to.clone()).collect();
    let plain = |address: &str| vec![Upstream::plain(address.parse().unwrap())];
    assert_eq!(upstreams, [plain("8.8.8.8:53"), plain("1.2.3.4:53")]);
    let mut want = Config::shipped(&zone("cluster.local")).servers.remove(0);
    want.forwards = vec![Forward::to(plain("8.8.8.8:53"))];
    assert_eq!(servers[0], want);
    write("stubDomains", "\n{");
    assert!(read().unwrap_err().to_string().contains("stubDomains:2: no valid JSON"));
    // A Corefile comes first, and imports are relative to it.
    fs::create_dir(directory.path().join("custom")).unwrap();
    write("custom/a.override", "any\n");
    write("Corefile", ". {\n import custom/*.override\n}");
    assert!(read().unwrap().servers[0].minimal_any);
}

#[test]
fn the_placeholders_of_a_node_cache_are_filled_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    let read = |text: &str, upstream: Option<&str>| {
        fs::write(&path, text).unwrap();
        let env =
            |name: &str| upstream.filter(|_| name == "KUBE_DNS_UPSTREAM_SERVICE_HOST").map(str::to_owned);
        read(&path, &env)
    };
    let forward = |to: &str| format!(".:53 {{\n forward . {to}\n}}\n");
    let filled = read(&forward("__PILLAR__UPSTREAM__SERVERS__"), None).unwrap();
    assert_eq!(filled.servers[0].forwards[0].to, [Upstream::ResolvConf("/etc/resolv.conf".into())]);
    let filled = read(&forward("__PILLAR__CLUSTER__DNS__"), Some("10.96.0.11")).unwrap();
    assert_eq!(filled.servers[0].forwards[0].to, [Upstream::plain("10.96.0.11:53".parse().unwrap())]);
    for (text, want) in [
        (forward("__PILLAR__CLUSTER__DNS__"), ":2: `__PILLAR__CLUSTER__DNS__` is the address of the Service"),
        (
            "__PILLAR__DNS__DOMAIN__:53 {\n bind __PILLAR__LOCAL__DNS__\n}\n".to_owned(),
            ":1: `__PILLAR__DNS__DOMAIN__` is to be replaced by the cluster domain",
        ),
        (
            ". {\n bind __PILLAR__LOCAL__DNS__ __PILLAR__DNS__SERVER__\n}\n".to_owned(),
            ":2: `__PILLAR__LOCAL__DNS__` is to be replaced by the address",
        ),
        (forward("__PILLAR__OTHER__"), ":2: `__PILLAR__OTHER__` is no placeholder"),
    ] {
        let error = read(&text, None).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}
