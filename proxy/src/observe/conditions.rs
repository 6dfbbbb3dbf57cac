//! The agent's conditions, as Kubernetes has them for its objects: each type is True or False, since a time, with a reason
//! and a message. `status`, `check`, the metrics and the log show the same ones.
//!
//! A part of the agent states its present faults of a type with [`Conditions::set`], as often as it likes. The log has one
//! line when a fault begins and one when it ends. A type that no part has stated does not apply to this agent.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// Limit of faults of one part and type: objects of users can cause any number. The others are counted in the last one.
const MAX_FAULTS: usize = 16;
/// The reason of a condition that is True.
const AS_EXPECTED: &str = "AsExpected";
/// The reason at each start, which is not worth a line in the log.
pub const INITIAL_SYNC: &str = "InitialSync";

/// True is the good state of each type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// All received changes are programmed.
    Synced,
    /// All kinds of objects are read from their source, without delay.
    SourceWatched,
    /// The Node object of this node exists.
    NodeFound,
    /// All programs are at their hooks.
    ProgramsAttached,
    /// The cgroup whose sockets are translated holds the pods of this node.
    SocketsTranslated,
    /// XDP is at each device where the configuration demands it.
    XdpAttached,
    /// All addresses of the agent's own servers are bound.
    AddressesBound,
    /// The name server answers queries.
    NameServerAlive,
    /// The upstreams of DNS answer, and know the names that they have just resolved.
    UpstreamsReliable,
    /// Services have the addresses that they claim.
    ClaimsHeld,
    /// All tables have room.
    TablesHaveRoom,
}

impl ConditionType {
    /// The watches of the source and the alarms of upstreams log themselves: they do so also without an agent.
    fn has_own_log(self) -> bool {
        matches!(self, Self::SourceWatched | Self::UpstreamsReliable)
    }
}

impl ConditionType {
    /// Whether a fault of this type is the node's. A tenant causes the others with objects of its own: they are shown, and
    /// must not make an agent unhealthy.
    pub fn is_of_node(self) -> bool {
        self != Self::ClaimsHeld
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A fault that exists now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// A device, a table, a kind of object; empty if there is only one such fault. Tells faults of one type apart.
    pub subject: String,
    /// One word in CamelCase, for machines.
    pub reason: Cow<'static, str>,
    /// A sentence that names the subject, and the remedy if it is not obvious.
    pub message: String,
}

impl Fault {
    pub fn new(
        subject: impl Into<String>,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { subject: subject.into(), reason: reason.into(), message: message.into() }
    }
}

/// A line of `status`: a type that is True, or one fault of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub r#type: ConditionType,
    pub status: ConditionStatus,
    pub since: Timestamp,
    pub reason: String,
    /// Empty if True.
    pub message: String,
}

/// As Kubernetes spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
}

impl ConditionStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

impl Condition {
    pub fn is_fault(&self) -> bool {
        self.status == ConditionStatus::False
    }
}

/// The conditions of one agent; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Arc<Mutex<BTreeMap<ConditionType, Stated>>>);

/// The faults of a type.
#[derive(Debug)]
struct Stated {
    /// The time of the last change between True and False.
    since: Timestamp,
    /// By part and subject.
    faults: BTreeMap<(&'static str, String), (Fault, Timestamp)>,
}

impl Conditions {
    /// States the faults of a part: those that it stated earlier and that are missing now have ended. No fault: the type is
    /// True as far as this part can tell.
    pub fn set(&self, r#type: ConditionType, part: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.set_at(r#type, part, faults, Timestamp::now());
    }

    fn set_at(
        &self,
        r#type: ConditionType,
        part: &'static str,
        faults: impl IntoIterator<Item = Fault>,
        now: Timestamp,
    ) {
        let faults = limited(faults);
        let mut map = self.map();
        let stated = map.entry(r#type).or_insert_with(|| Stated { since: now, faults: BTreeMap::new() });
        let change = stated.replace(part, faults, now);
        // A slow reader of the log must not block others.
        drop(map);
        if !r#type.has_own_log() {
            change.log(r#type, now);
        }
    }

    /// All conditions, by type: one that is True, or each fault of a type that is False, the oldest first.
    pub fn all(&self) -> Vec<Condition> {
        let map = self.map();
        map.iter().flat_map(|(r#type, stated)| stated.conditions(*r#type)).collect()
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<ConditionType, Stated>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first faults, and one for all others.
fn limited(faults: impl IntoIterator<Item = Fault>) -> Vec<Fault> {
    let mut faults = faults.into_iter();
    let mut first: Vec<_> = faults.by_ref().take(MAX_FAULTS).collect();
    let rest = faults.count();
    if rest > 0 {
        let reason = first.last().map_or("More".into(), |last| last.reason.clone());
        first.push(Fault::new("more", reason, format!("and {rest} more")));
    }
    first
}

/// What a statement changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    begun: Vec<Fault>,
    ended: Vec<(Fault, Timestamp)>,
}

impl Stated {
    /// A fault with another reason is another fault.
    fn replace(&mut self, part: &'static str, faults: Vec<Fault>, now: Timestamp) -> Change {
        let had_faults = !self.faults.is_empty();
        let mut change = Change::default();
        let mut earlier: BTreeMap<_, _> =
            self.faults.extract_if(.., |(of, _), _| *of == part).map(|((_, key), old)| (key, old)).collect();
        for fault in faults {
            let known = earlier.remove(&fault.subject);
            let since = match known {
                Some((old, since)) if old.reason == fault.reason => since,
                other => {
                    change.ended.extend(other);
                    change.begun.push(fault.clone());
                    now
                }
            };
            self.faults.insert((part, fault.subject.clone()), (fault, since));
        }
        change.ended.extend(earlier.into_values());
        if had_faults == self.faults.is_empty() {
            self.since = now;
        }
        change
    }

    fn conditions(&self, r#type: ConditionType) -> Vec<Condition> {
        let condition = |status, since, reason: &str, message: &str| Condition {
            r#type,
            status,
            since,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if self.faults.is_empty() {
            return vec![condition(ConditionStatus::True, self.since, AS_EXPECTED, "")];
        }
        let mut faults: Vec<_> = self.faults.values().collect();
        // Stable: faults of the same age stay in the order of their subjects, and `more` at the end.
        faults.sort_by_key(|(fault, since)| (fault.subject == "more", *since));
        let of = |(fault, since): &(Fault, Timestamp)| {
            condition(ConditionStatus::False, *since, &fault.reason, &fault.message)
        };
        faults.into_iter().map(of).collect()
    }
}

impl Change {
    fn log(&self, condition: ConditionType, now: Timestamp) {
        let is_logged = |fault: &Fault| fault.reason != INITIAL_SYNC;
        for (Fault { reason, message, .. }, since) in self.ended.iter().filter(|(fault, _)| is_logged(fault))
        {
            let seconds = now.duration_since(*since).as_secs();
            info!(%condition, reason = &**reason, detail = message, seconds, "fault has ended");
        }
        for Fault { reason, message, .. } in self.begun.iter().filter(|fault| is_logged(fault)) {
            warn!(%condition, reason = &**reason, detail = message, "fault");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lines(conditions: &Conditions) -> Vec<String> {
        let line = |one: Condition| {
            let since = one.since.as_second();
            format!("{} {} {since} {} {}", one.r#type, one.status.name(), one.reason, one.message)
        };
        conditions.all().into_iter().map(line).collect()
    }

    #[test]
    fn a_condition_has_a_since_and_changes_with_its_faults() {
        use ConditionType::{AddressesBound, Synced};
        let conditions = Conditions::default();
        let set = |r#type, part, faults: &[Fault], second| {
            conditions.set_at(r#type, part, faults.to_vec(), at(second));
        };
        assert!(lines(&conditions).is_empty(), "no part has stated anything");
        let taken = |server| Fault::new(server, "AddressInUse", format!("{server} cannot listen"));
        set(Synced, "agent", &[], 1);
        set(AddressesBound, "health", &[], 1);
        set(AddressesBound, "dns", &[], 2);
        assert_eq!(lines(&conditions), ["Synced True 1 AsExpected ", "AddressesBound True 1 AsExpected "]);

        set(AddressesBound, "health", &[taken("health")], 5);
        set(AddressesBound, "dns", &[taken("udp"), taken("tcp")], 6);
        set(AddressesBound, "dns", &[taken("tcp"), taken("udp")], 7);
        let faults = [
            "AddressesBound False 5 AddressInUse health cannot listen",
            "AddressesBound False 6 AddressInUse tcp cannot listen",
            "AddressesBound False 6 AddressInUse udp cannot listen",
        ];
        assert_eq!(lines(&conditions)[1..], faults, "a repeated statement keeps the since");

        set(AddressesBound, "health", &[], 8);
        assert_eq!(lines(&conditions)[1..], faults[1..], "only the faults of that part have ended");
        set(AddressesBound, "dns", &[Fault::new("udp", "Denied", "no")], 9);
        assert_eq!(lines(&conditions)[1..], ["AddressesBound False 9 Denied no"], "another reason");
        set(AddressesBound, "dns", &[], 10);
        assert_eq!(lines(&conditions)[1..], ["AddressesBound True 10 AsExpected "]);
    }

    #[test]
    fn many_faults_of_users_are_few_lines() {
        let conditions = Conditions::default();
        let faults = (0..1000).map(|n| Fault::new(format!("{n:04}"), "Lost", format!("{n}")));
        conditions.set_at(ConditionType::ClaimsHeld, "claims", faults, at(1));
        let lines = lines(&conditions);
        assert_eq!(lines.len(), MAX_FAULTS + 1);
        assert_eq!(lines[MAX_FAULTS], "ClaimsHeld False 1 Lost and 984 more");
    }

    #[test]
    fn a_change_is_what_the_log_shows() {
        let mut stated = Stated { since: at(0), faults: BTreeMap::new() };
        let fault = |message: &str| Fault::new("eth0", "NoXdp", message);
        assert_eq!(stated.replace("x", vec![fault("a")], at(1)).begun, [fault("a")]);
        assert_eq!(stated.replace("x", vec![fault("b")], at(2)), Change::default(), "only the message");
        let change = stated.replace("x", Vec::new(), at(3));
        assert_eq!((change.begun.len(), change.ended), (0, vec![(fault("b"), at(1))]));
    }
}
