//! The examples as whole applications, addressed by name only, while each of their pods is replaced: no request fails.
//!
//! The guarantee depends on the workload's update strategy and on the client's retries:
//!
//! - **New pod first** (a Deployment's rolling update), or one of several pods behind a ClusterIP: clients try once. No try
//!   fails, and open connections continue to their end.
//! - **Old pod first** (`Recreate`, a StatefulSet): until the new pod is up, its name has no server, with any proxy. Clients
//!   retry, or try another member; each request is answered in the end. Tries fail only at the name of a pod under
//!   replacement, and only during it.
//!
//! All clients resolve names with the C library and a resolv.conf like the kubelet's: at the cluster's DNS address, which
//! is answered on the node.

use std::{collections::BTreeMap, time::Duration};

use tests::{
    Cluster,
    name_service::NameService,
    rollout::{AllowedOutage, ClientRequest, RunningExample, Strategy},
    traffic::{FailedTry, Report},
};

/// Longer than any pod's replacement.
const TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST: ClientRequest = ClientRequest::OF_VISITORS;

/// The pods to replace, by the prefix of their names, and the names that resolve to them; with the old pod first, to it
/// alone.
struct Replacement {
    pods: &'static str,
    strategy: Strategy,
    names: &'static [&'static str],
}

struct Scenario {
    example: &'static str,
    requests_of_clients: &'static [ClientRequest],
    replacements: &'static [Replacement],
}

/// Voting pages, their queue, a worker, a database, and the results page.
const VOTING: Scenario = Scenario {
    example: "voting",
    requests_of_clients: &[
        ClientRequest { names: &["vote:80"], ..REQUEST },
        ClientRequest { names: &["vote:80"], linger: Duration::from_millis(100), ..REQUEST },
        ClientRequest { names: &["result:80"], ..REQUEST },
        ClientRequest { by: "vote", names: &["redis:6379"], timeout: TIMEOUT, ..REQUEST },
        ClientRequest { by: "results-", names: &["redis:6379"], timeout: TIMEOUT, ..REQUEST },
        ClientRequest { by: "result", names: &["db:5432"], timeout: TIMEOUT, ..REQUEST },
    ],
    replacements: &[
        Replacement { pods: "vote-", strategy: Strategy::RollingUpdate, names: &["vote:80"] },
        Replacement { pods: "result-", strategy: Strategy::RollingUpdate, names: &["result:80"] },
        Replacement { pods: "voter-", strategy: Strategy::Recreate, names: &["redis:6379"] },
        Replacement { pods: "results-", strategy: Strategy::Recreate, names: &["db:5432"] },
    ],
};

const MONGO: [&str; 3] = ["mongo-0.mongo:27017", "mongo-1.mongo:27017", "mongo-2.mongo:27017"];

/// Members resolve each other, and clients any member; some clients need a certain one.
const MONGODB: Scenario = Scenario {
    example: "mongodb",
    requests_of_clients: &[
        ClientRequest { by: "mongo", names: &MONGO, timeout: TIMEOUT, ..REQUEST },
        ClientRequest { names: &MONGO, timeout: TIMEOUT, ..REQUEST },
        ClientRequest { names: &[MONGO[0]], timeout: TIMEOUT, ..REQUEST },
        ClientRequest { names: &[MONGO[1]], timeout: TIMEOUT, ..REQUEST },
        ClientRequest { names: &[MONGO[2]], timeout: TIMEOUT, ..REQUEST },
    ],
    replacements: &[
        Replacement { pods: "mongo-2", strategy: Strategy::StatefulSet, names: &[MONGO[2]] },
        Replacement { pods: "mongo-1", strategy: Strategy::StatefulSet, names: &[MONGO[1]] },
        Replacement { pods: "mongo-0", strategy: Strategy::StatefulSet, names: &[MONGO[0]] },
    ],
};

/// Clients query any sentinel behind one ClusterIP, then the server it refers them to, by the server's own name.
const REDIS: Scenario = Scenario {
    example: "redis-sentinel",
    requests_of_clients: &[
        ClientRequest { names: &["sentinel:26379"], ..REQUEST },
        ClientRequest { names: &["sentinel:26379"], linger: Duration::from_millis(100), ..REQUEST },
        ClientRequest {
            names: &["sentinel:26379"],
            referred: Some("{}.redis:6379"),
            timeout: TIMEOUT,
            ..REQUEST
        },
        ClientRequest { by: "redis", names: &["sentinel:26379"], ..REQUEST },
        ClientRequest { by: "redis", names: &["redis-0.redis:6379"], timeout: TIMEOUT, ..REQUEST },
    ],
    replacements: &[
        Replacement { pods: "redis-2", strategy: Strategy::StatefulSet, names: &["redis-2.redis:6379"] },
        Replacement { pods: "redis-1", strategy: Strategy::StatefulSet, names: &["redis-1.redis:6379"] },
        Replacement { pods: "redis-0", strategy: Strategy::StatefulSet, names: &["redis-0.redis:6379"] },
    ],
};

#[tokio::test]
async fn the_voting_application_answers_while_every_pod_is_replaced() {
    println!("{}", run(&VOTING).await);
}

#[tokio::test]
async fn the_members_of_mongodb_are_found_while_every_one_is_replaced() {
    println!("{}", run(&MONGODB).await);
}

#[tokio::test]
async fn redis_is_found_through_its_sentinels_while_every_one_is_replaced() {
    println!("{}", run(&REDIS).await);
}

/// Runs an example and returns its summary.
async fn run(scenario: &Scenario) -> String {
    let names = NameService::new().expect("Corefiles are written");
    let cluster = names.configure(Cluster::start(scenario.example).nodes(2)).await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    let running = RunningExample::start(
        &cluster,
        scenario.example,
        serving.vip.v4.into(),
        scenario.requests_of_clients,
    )
    .await;
    let running = running.expect("the example starts");
    running.start_requests().await.expect("pods send requests");
    let mut outages = Vec::new();
    for replacement in scenario.replacements {
        let pods = running.pods().into_iter().filter(|pod| pod.starts_with(replacement.pods));
        for pod in pods.collect::<Vec<_>>() {
            let outage = running.roll(&pod, replacement.strategy, replacement.names).await;
            outages.push(outage.unwrap_or_else(|error| panic!("{}: {pod}: {error:#}", scenario.example)));
        }
    }
    assert!(outages.len() >= 3, "{}: not every pod was replaced: {outages:?}", scenario.example);
    check(scenario, &running.end().await.expect("requests end"), &outages)
}

fn check(scenario: &Scenario, reports: &[(ClientRequest, Report)], outages: &[AllowedOutage]) -> String {
    let (mut requests, mut in_vain, mut longest_us) = (0, BTreeMap::<_, u64>::new(), 0);
    for (client, report) in reports {
        assert!(report.failures.is_empty(), "{}: {client:?}: {report:?}", scenario.example);
        for failed_try in &report.failed_tries {
            assert!(
                outages.iter().any(|outage| is_in(failed_try, outage)),
                "{}: {failed_try:?} is in none of {outages:?}",
                scenario.example
            );
            *in_vain.entry(&failed_try.name).or_default() += 1;
        }
        // A client that dials a member by name reaches that member.
        if let [name] = client.names
            && name.contains('.')
        {
            let member = name.split('.').next().unwrap_or_default();
            assert!(
                report.answers.keys().all(|name| name == member),
                "{}: {client:?}: {report:?}",
                scenario.example
            );
        }
        requests += report.attempts;
        longest_us = longest_us.max(report.latency.max_us);
    }
    format!(
        "{}: {} pods replaced, {requests} requests, none failed, the longest took {} ms; failed tries during replacements: \
         {in_vain:?}",
        scenario.example,
        outages.len(),
        longest_us / 1000,
    )
}

fn is_in(failed_try: &FailedTry, outage: &AllowedOutage) -> bool {
    outage.names.contains(&failed_try.name.as_str())
        && failed_try.ended_us >= outage.from_us
        && failed_try.began_us <= outage.to_us
}
