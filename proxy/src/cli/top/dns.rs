//! Rates of DNS queries, from the agent's statistics.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use crate::observe::query_statistics::{Client, QueryStatistics, Upstream};

/// Rates between two statistics; `None` if there is one only, or if counting began anew in between.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DnsRates {
    /// By the kind of the names, most queries first.
    pub topics: Vec<TopicRow>,
    pub clients: Vec<ClientRow>,
    pub upstreams: Vec<UpstreamRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopicRow {
    pub topic: String,
    /// In the statistics, which cover the last 15 to 30 minutes.
    pub queries: u64,
    pub queries_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientRow {
    pub client: String,
    pub queries: u64,
    pub queries_per_second: Option<f64>,
    pub refused_per_second: Option<f64>,
    pub failed_per_second: Option<f64>,
    pub slow_per_second: Option<f64>,
    /// The topic of most of its queries.
    pub mostly: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamRow {
    pub upstream: String,
    pub answers_per_second: Option<f64>,
    pub failed_per_second: Option<f64>,
    pub slow_per_second: Option<f64>,
}

impl DnsRates {
    pub fn between(before: Option<&QueryStatistics>, now: &QueryStatistics, seconds: f64) -> Self {
        // Old counts leave the statistics when their start moves.
        let counted = before.filter(|before| before.since == now.since);
        let interval = Interval { seconds };
        let client = |now: &Client| {
            let same = |one: &&Client| one.kind == now.kind && one.client == now.client;
            interval.client(counted.map(|before| before.clients.iter().find(same)), now)
        };
        let upstream = |now: &Upstream| {
            let mut all = before.into_iter().flat_map(|before| &before.upstreams);
            interval.upstream(all.find(|one| one.address == now.address), now)
        };
        Self {
            topics: interval.topics(counted, now),
            clients: now.clients.iter().map(client).collect(),
            upstreams: now.upstreams.iter().map(upstream).collect(),
        }
    }
}

struct Interval {
    seconds: f64,
}

impl Interval {
    fn rate(&self, before: u64, now: u64) -> Option<f64> {
        let count = now.checked_sub(before)?;
        (self.seconds > 0.0).then(|| count as f64 / self.seconds)
    }

    fn topics(&self, before: Option<&QueryStatistics>, now: &QueryStatistics) -> Vec<TopicRow> {
        let (sums, earlier) = (sums(now), before.map(sums));
        let row = |(topic, queries): (&str, u64)| TopicRow {
            topic: topic.to_owned(),
            queries,
            queries_per_second: earlier
                .as_ref()
                .and_then(|earlier| self.rate(earlier.get(topic).copied().unwrap_or_default(), queries)),
        };
        let mut rows: Vec<_> = sums.into_iter().filter(|(_, queries)| *queries != 0).map(row).collect();
        rows.sort_by_key(|row| Reverse(row.queries));
        rows
    }

    /// `before`: the statistics before, and the client in them; one that is new there began at zero.
    fn client(&self, before: Option<Option<&Client>>, now: &Client) -> ClientRow {
        let trouble = |client: &Client, name: &str| client.troubles.get(name).copied().unwrap_or_default();
        let rate =
            |name: &str| self.rate(before?.map_or(0, |before| trouble(before, name)), trouble(now, name));
        let mostly = now.topics.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count != 0);
        ClientRow {
            client: now.client.clone(),
            queries: now.queries,
            queries_per_second: before
                .and_then(|before| self.rate(before.map_or(0, |before| before.queries), now.queries)),
            refused_per_second: rate("refused"),
            failed_per_second: rate("failed"),
            slow_per_second: rate("slow"),
            mostly: mostly.map(|(topic, _)| topic.clone()).unwrap_or_default(),
        }
    }

    fn upstream(&self, before: Option<&Upstream>, now: &Upstream) -> UpstreamRow {
        let rate = |of: fn(&Upstream) -> u64| before.and_then(|before| self.rate(of(before), of(now)));
        UpstreamRow {
            upstream: now.address.clone(),
            answers_per_second: rate(|upstream| upstream.answers),
            failed_per_second: rate(|upstream| upstream.failed),
            slow_per_second: rate(|upstream| upstream.slow),
        }
    }
}

/// The queries of all clients by topic.
fn sums(statistics: &QueryStatistics) -> BTreeMap<&str, u64> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (topic, count) in statistics.clients.iter().flat_map(|client| &client.topics) {
        *sums.entry(topic).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::query_statistics::ClientKind;

    fn statistics(since: i64, queries: u64, answers: u64) -> QueryStatistics {
        let client = Client {
            kind: ClientKind::Pod,
            client: "shop/web-0".to_owned(),
            addresses: Vec::new(),
            queries,
            topics: [("service".to_owned(), queries - 1), ("search".to_owned(), 1)].into(),
            troubles: [("slow".to_owned(), queries / 10)].into(),
        };
        let upstream = Upstream { address: "10.0.0.2:53".to_owned(), answers, failed: 0, slow: 0 };
        QueryStatistics {
            since: jiff::Timestamp::from_second(since).unwrap(),
            clients: vec![client],
            upstreams: vec![upstream],
        }
    }

    #[test]
    fn rates_of_names_are_known_while_counting_goes_on() {
        let before = statistics(0, 100, 50);
        let rates = DnsRates::between(Some(&before), &statistics(0, 140, 60), 2.0);
        let [client] = &rates.clients[..] else { panic!("{rates:?}") };
        assert_eq!((client.queries_per_second, client.slow_per_second), (Some(20.0), Some(2.0)));
        assert_eq!((client.refused_per_second, &*client.mostly), (Some(0.0), "service"));
        assert_eq!(rates.topics[0].queries_per_second, Some(20.0));
        assert_eq!(rates.upstreams[0].answers_per_second, Some(5.0));

        // Old counts left the statistics; the agent was started anew.
        let rates = DnsRates::between(Some(&before), &statistics(900, 120, 10), 2.0);
        assert_eq!(rates.clients[0].queries_per_second, None);
        assert_eq!(rates.topics[0].queries_per_second, None);
        assert_eq!(rates.upstreams[0].answers_per_second, None);
        assert_eq!(DnsRates::between(None, &before, 2.0).clients[0].queries_per_second, None);
    }
}
