//! The examples run whole, by name only, while each of their pods is replaced: no request fails.
//!
//! What that promises depends on how a workload replaces its pods, and on what its clients know:
//!
//! - **The new one first** (a Deployment's rolling update), or one of several behind a ClusterIP: clients try once. Not one
//!   try is in vain, and connections that are open are used to their end.
//! - **The old one first** (`Recreate`, a StatefulSet): until the new one is there, its name leads nowhere, with any proxy.
//!   Such clients try again, or ask another member; each request has its answer in the end. Tries are in vain only at
//!   the name of a pod that is being replaced, and only meanwhile.
//!
//! Everybody looks names up with the C library, and a resolv.conf as the kubelet writes it: at the cluster's DNS address,
//! which is answered on the node.

use std::{collections::BTreeMap, time::Duration};

use tests::{
    Cluster,
    name_service::NameService,
    rollout::{Ask, Gap, Stage, Strategy},
    traffic::{Report, Vain},
};

/// Longer than any pod is away.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK: Ask = Ask::OF_VISITORS;

/// Which pods, by the beginning of their names, are replaced, and which names lead to them: if the old one goes first, to it
/// alone.
struct Roll {
    pods: &'static str,
    strategy: Strategy,
    names: &'static [&'static str],
}

struct Play {
    example: &'static str,
    asks: &'static [Ask],
    rolls: &'static [Roll],
}

/// Voters' pages, the queue behind them, a worker, a database, and the page with the result.
const VOTING: Play = Play {
    example: "voting",
    asks: &[
        Ask { names: &["vote:80"], ..ASK },
        Ask { names: &["vote:80"], linger: Duration::from_millis(100), ..ASK },
        Ask { names: &["result:80"], ..ASK },
        Ask { by: "vote", names: &["redis:6379"], patience: PATIENCE, ..ASK },
        Ask { by: "results-", names: &["redis:6379"], patience: PATIENCE, ..ASK },
        Ask { by: "result", names: &["db:5432"], patience: PATIENCE, ..ASK },
    ],
    rolls: &[
        Roll { pods: "vote-", strategy: Strategy::RollingUpdate, names: &["vote:80"] },
        Roll { pods: "result-", strategy: Strategy::RollingUpdate, names: &["result:80"] },
        Roll { pods: "voter-", strategy: Strategy::Recreate, names: &["redis:6379"] },
        Roll { pods: "results-", strategy: Strategy::Recreate, names: &["db:5432"] },
    ],
};

const MONGO: [&str; 3] = ["mongo-0.mongo:27017", "mongo-1.mongo:27017", "mongo-2.mongo:27017"];

/// Members find each other, and clients a member; some clients insist on one.
const MONGODB: Play = Play {
    example: "mongodb",
    asks: &[
        Ask { by: "mongo", names: &MONGO, patience: PATIENCE, ..ASK },
        Ask { names: &MONGO, patience: PATIENCE, ..ASK },
        Ask { names: &[MONGO[0]], patience: PATIENCE, ..ASK },
        Ask { names: &[MONGO[1]], patience: PATIENCE, ..ASK },
        Ask { names: &[MONGO[2]], patience: PATIENCE, ..ASK },
    ],
    rolls: &[
        Roll { pods: "mongo-2", strategy: Strategy::StatefulSet, names: &[MONGO[2]] },
        Roll { pods: "mongo-1", strategy: Strategy::StatefulSet, names: &[MONGO[1]] },
        Roll { pods: "mongo-0", strategy: Strategy::StatefulSet, names: &[MONGO[0]] },
    ],
};

/// Clients ask any sentinel, behind one ClusterIP, and then the server that it refers them to, by its own name.
const REDIS: Play = Play {
    example: "redis-sentinel",
    asks: &[
        Ask { names: &["sentinel:26379"], ..ASK },
        Ask { names: &["sentinel:26379"], linger: Duration::from_millis(100), ..ASK },
        Ask { names: &["sentinel:26379"], referred: Some("{}.redis:6379"), patience: PATIENCE, ..ASK },
        Ask { by: "redis", names: &["sentinel:26379"], ..ASK },
        Ask { by: "redis", names: &["redis-0.redis:6379"], patience: PATIENCE, ..ASK },
    ],
    rolls: &[
        Roll { pods: "redis-2", strategy: Strategy::StatefulSet, names: &["redis-2.redis:6379"] },
        Roll { pods: "redis-1", strategy: Strategy::StatefulSet, names: &["redis-1.redis:6379"] },
        Roll { pods: "redis-0", strategy: Strategy::StatefulSet, names: &["redis-0.redis:6379"] },
    ],
};

#[tokio::test]
async fn the_voting_application_answers_while_every_pod_is_replaced() {
    println!("{}", perform(&VOTING).await);
}

#[tokio::test]
async fn the_members_of_mongodb_are_found_while_every_one_is_replaced() {
    println!("{}", perform(&MONGODB).await);
}

#[tokio::test]
async fn redis_is_found_through_its_sentinels_while_every_one_is_replaced() {
    println!("{}", perform(&REDIS).await);
}

/// What there is to tell of it.
async fn perform(play: &Play) -> String {
    let names = NameService::new().expect("Corefiles are written");
    let cluster = names.told_to(Cluster::start(play.example).nodes(2)).await;
    let serving = names.start(&cluster).await.expect("the Service is written");
    let stage = Stage::set(&cluster, play.example, serving.vip.v4.into(), play.asks).await;
    let stage = stage.expect("the example is played");
    stage.begin().await.expect("pods ask");
    let mut gaps = Vec::new();
    for roll in play.rolls {
        let pods = stage.pods().into_iter().filter(|pod| pod.starts_with(roll.pods));
        for pod in pods.collect::<Vec<_>>() {
            let gap = stage.roll(&pod, roll.strategy, roll.names).await;
            gaps.push(gap.unwrap_or_else(|error| panic!("{}: {pod}: {error:#}", play.example)));
        }
    }
    assert!(gaps.len() >= 3, "{}: not every pod was replaced: {gaps:?}", play.example);
    judge(play, &stage.end().await.expect("requests end"), &gaps)
}

fn judge(play: &Play, reports: &[(Ask, Report)], gaps: &[Gap]) -> String {
    let (mut requests, mut in_vain, mut longest_us) = (0, BTreeMap::<_, u64>::new(), 0);
    for (ask, report) in reports {
        assert!(report.failures.is_empty(), "{}: {ask:?}: {report:?}", play.example);
        for vain in &report.vain {
            assert!(
                gaps.iter().any(|gap| is_in(vain, gap)),
                "{}: {vain:?} is in none of {gaps:?}",
                play.example
            );
            *in_vain.entry(&vain.name).or_default() += 1;
        }
        // Whoever dials a member by its name reaches that one.
        if let [name] = ask.names
            && name.contains('.')
        {
            let member = name.split('.').next().unwrap_or_default();
            assert!(
                report.answers.keys().all(|name| name == member),
                "{}: {ask:?}: {report:?}",
                play.example
            );
        }
        requests += report.attempts;
        longest_us = longest_us.max(report.latency.max_us);
    }
    format!(
        "{}: {} pods replaced, {requests} requests, none failed, the longest took {} ms; tries in vain at those away: \
         {in_vain:?}",
        play.example,
        gaps.len(),
        longest_us / 1000,
    )
}

fn is_in(vain: &Vain, gap: &Gap) -> bool {
    gap.names.contains(&vain.name.as_str()) && vain.ended_us >= gap.from_us && vain.began_us <= gap.to_us
}
