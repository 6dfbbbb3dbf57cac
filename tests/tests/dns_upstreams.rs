//! Several pods look up names while the upstreams of their node are wrong, slow or dead: each answer must be the right
//! one, and names of the cluster must not be affected.

use std::{
    fs,
    net::SocketAddr,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{
    Cluster,
    cluster::outside_network,
    dns::{
        stub::Stub,
        upstream::{Behaviour, FORGED, Upstream, address_of, listens_at},
    },
    eventually,
};

const SERVICE: &str = "web.default.svc.cluster.local";
/// Names that every pod looks up.
const SHARED: [&str; 2] = ["api.example.org", "db.example.org"];
/// Names that only one pod looks up, in each phase.
const OWN: usize = 12;
const PODS: usize = 3;
/// The patience of a stub resolver: two tries of 5 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// The limit for a name of the cluster: much less than any timeout of an upstream.
const LOCAL: Duration = Duration::from_secs(1);
const SERVFAIL: u8 = 2;
const SLOW: Behaviour = Behaviour::Slow(Duration::from_millis(300));

struct Lab {
    stubs: [Mutex<Stub>; PODS],
    phases: usize,
    upstreams: [Upstream; 2],
    _cluster: Cluster,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let corefile = directory.path().join("Corefile");
        let at = [10, 11].map(|host| listens_at(outside_network().host(host).v4.into()));
        // Answers expire with their TTL of 1 s.
        let text = format!(
            ".:53 {{\n errors\n kubernetes cluster.local\n forward . {} {} {{\n  max_concurrent 1000\n }}\n \
             cache 30 {{\n  success 9984 30 0\n  denial 9984 30 0\n }}\n}}\n",
            at[0], at[1]
        );
        fs::write(&corefile, text).expect("the Corefile is written");
        let cluster =
            Cluster::start("dns-upstreams").flag(&format!("--corefile={}", corefile.display())).await;
        let mut upstreams = Vec::new();
        for (name, at) in ["first", "second"].into_iter().zip(at) {
            let upstream = Upstream::start(cluster.client(name).start().await).expect("it starts");
            assert_eq!(upstream.address, at, "agents forward elsewhere");
            upstreams.push(upstream);
        }
        let upstreams = upstreams.try_into().expect("there are two");
        let _web = cluster.service("web").tcp(80).backends(["pod-0"]).await;
        let server = SocketAddr::new(cluster.node(0).addresses.v4.into(), 53);
        let mut stubs = Vec::new();
        for number in 0..PODS {
            let pod = cluster.pod(&format!("pod-{number}")).start().await;
            stubs.push(Mutex::new(Stub::new(&pod, server, PATIENCE).expect("sockets")));
        }
        let stubs: [Mutex<Stub>; PODS] = stubs.try_into().expect("a resolver for each pod");
        eventually("the Service is answered", || {
            let answer = stubs[0].lock().expect("no panic").query(SERVICE);
            std::future::ready(answer.and_then(|answer| answer.address.context("no address")))
        })
        .await;
        Self { stubs, phases: 0, upstreams, _cluster: cluster }
    }

    fn behave(&self, first: Behaviour, second: Behaviour) {
        self.upstreams
            .iter()
            .zip([first, second])
            .for_each(|(upstream, behaviour)| upstream.behaves(behaviour));
    }

    /// All pods at once look up names with a function.
    fn all(&self, look_up: impl Fn(usize, &mut Stub) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let look_up = &look_up;
            let pods: Vec<_> = (self.stubs.iter().enumerate())
                .map(|(number, stub)| {
                    scope.spawn(move || look_up(number, &mut stub.lock().expect("no panic")))
                })
                .collect();
            pods.into_iter().try_for_each(|pod| pod.join().unwrap_or_else(|_| bail!("a pod panicked")))
        })
    }

    /// Every name is resolved, for all pods, once the upstreams that return were found to be back.
    async fn resolves_everything(&mut self, first: Behaviour, second: Behaviour) {
        self.behave(first, second);
        self.phases += 1;
        let phase = self.phases;
        eventually(&format!("{first:?} and {second:?}: a new name is resolved"), || {
            let mut stub = self.stubs[0].lock().expect("no panic");
            std::future::ready(resolves(&mut stub, &format!("first.x{phase}.example.org")))
        })
        .await;
        let looked_up = self.all(|pod, stub| {
            for number in 0..OWN {
                resolves(stub, &format!("n{number}.p{pod}.x{phase}.Example.org"))?;
                SHARED.into_iter().try_for_each(|name| resolves(stub, name))?;
                is_local(stub)?;
            }
            Ok(())
        });
        looked_up.unwrap_or_else(|error| panic!("{first:?} and {second:?}: {error:#}"));
    }

    /// Names that were resolved are resolved still, after they have expired.
    fn keeps_names(&self, first: Behaviour, second: Behaviour) {
        self.behave(first, second);
        let start = Instant::now();
        // Their TTL is 1 s.
        let is_over = || start.elapsed() > Duration::from_secs(3);
        let looked_up = self.all(|_, stub| {
            while !is_over() {
                SHARED.into_iter().try_for_each(|name| resolves(stub, name))?;
                is_local(stub)?;
            }
            Ok(())
        });
        looked_up.unwrap_or_else(|error| panic!("{first:?} and {second:?}: {error:#}"));
    }
}

/// Two tries, as the C library.
fn resolves(stub: &mut Stub, name: &str) -> Result<()> {
    let first = stub.query(name)?;
    let answer = if first.rcode == SERVFAIL { stub.query(name)? } else { first };
    ensure!(answer.address != Some(FORGED), "{name}: a forged answer");
    ensure!(answer.address == Some(address_of(name)), "{name}: {answer:?}");
    Ok(())
}

fn is_local(stub: &mut Stub) -> Result<()> {
    let answer = stub.query(SERVICE)?;
    ensure!(answer.address.is_some() && answer.took < LOCAL, "{SERVICE}: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn pods_get_the_right_answers_whatever_upstreams_do() {
    use Behaviour::{Dead, DropsEdns, Lies, LosesNames, LowersCase, Sound};
    let mut lab = Lab::new().await;
    for (first, second) in [
        (Sound, Sound),
        (Lies, Lies),
        (LowersCase, Sound),
        (LowersCase, Lies),
        (Sound, LowersCase),
        (SLOW, SLOW),
        (Dead, Lies),
        (Sound, Dead),
        (DropsEdns, Dead),
        (DropsEdns, DropsEdns),
        (Dead, SLOW),
        (Sound, Sound),
    ] {
        lab.resolves_everything(first, second).await;
    }
    // A denial that the other upstream contradicts is no answer for a name that several pods have just resolved.
    lab.keeps_names(LosesNames, Sound);
    lab.keeps_names(Dead, Dead);
    let unknown = lab.all(|pod, stub| {
        let answer = stub.query(&format!("unknown.p{pod}.example.org"))?;
        ensure!(answer.rcode == SERVFAIL && answer.address.is_none(), "{answer:?}");
        is_local(stub)
    });
    unknown.unwrap_or_else(|error| panic!("dead: {error:#}"));
    // They return.
    lab.resolves_everything(Sound, Sound).await;
}
