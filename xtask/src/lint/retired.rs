//! Retired words: each has a successor in the field's own words, and no file may use it again.

use super::{
    finding::Finding,
    text::{Text, Word},
};

/// Retired word or phrase, and the words to use. Words match as a whole; those in lower case match in any case.
const RETIRED: &[(&str, &str)] = &[
    ("A_WHILE", "HEALTHY_SESSION"),
    ("as_we_spell_it", "normalize_flag"),
    ("Aside", "Footer"),
    ("asker", "client (type ClientInfo)"),
    ("askers", "clients"),
    ("asks_for_conntrack", "has_conntrack"),
    ("asks_for_credentials", "concerns_credentials"),
    ("asks_for_oom_score", "has_oom_score_adj"),
    ("BackendUnsettled", "BackendChurn"),
    ("be_frugal", "limit_allocator"),
    ("bring_in_line", "reconcile"),
    ("buried", "deleted"),
    ("bury", "delete entries"),
    ("carry_on", "established"),
    ("CgroupLink", "CgroupLinkInfo"),
    ("Chance", "Rng"),
    ("comes_to_equal_a_fresh_start", "wait_equals_fresh_start"),
    ("detach_early", "detach_xdp"),
    ("dialled_from_outside", "external_frontends"),
    ("dispensability", "eviction score"),
    ("dispensable", "evictable"),
    ("early plane", "XDP"),
    ("EarlyDevice", "XdpAttachment"),
    ("EarlyHooks", "XdpHooks"),
    ("EarlyOutcome", "XdpOutcome"),
    ("EarlyPass", "XdpPass"),
    ("EarlyPlane", "XdpDevices"),
    ("Flights", "InFlight"),
    ("follow_logs", "forward_logs"),
    ("follow_network", "watch_network"),
    ("FOR_PEOPLE", "WARNING"),
    ("frontends_fed_by", "frontends_of_slice"),
    ("FrontendUnsettled", "FrontendChurn"),
    ("giving_up_after", "timeout_after"),
    ("goes_on_in_pieces", "check_fragments"),
    ("Grievance", "LogOnce"),
    ("Habits", "Capabilities"),
    ("HealthPorts", "HealthCheckPorts"),
    ("hears_no_news_for", "stays_unchanged_for"),
    ("hush", "stop_requests"),
    ("in_letters_of", "with_case_of"),
    ("Inquiry", "ControlRequest"),
    ("is_dead_alias", "is_unresolvable_alias"),
    ("is_for_want_of_the_family", "is_family_missing"),
    ("is_from_the_future", "is_too_large_version"),
    ("is_kept_out", "excluded_by_source_ranges"),
    ("is_last_resort", "is_serving_terminating"),
    ("is_told", "sends_reject"),
    ("is_told_elsewhere", "has_other_endpoints"),
    ("is_touched_by", "is_affected_by"),
    ("keep_fresh", "refresh_neighbours"),
    ("keeps_case", "preserves_case"),
    ("LiveError", "SupervisorError"),
    ("make_way", "delete_conflicting_flow"),
    ("Manner", "QueryOptions"),
    ("MappedArray", "MmapArray"),
    ("may_complain", "is_within_rate_limit"),
    ("MOST_TRIGGERED", "MAX_TRIGGERS"),
    ("narrow_outside", "limit_outside_mtu"),
    ("network_cards", "nics"),
    ("nodeports_are_everywhere", "nodeports_are_unrestricted"),
    ("onward", "forward"),
    ("OtherCase", "CaseMismatch"),
    ("own_open_files", "unshare_fd_table"),
    ("pass_on", "forward"),
    ("PORTREEVE_PATIENCE", "PORTREEVE_TIMEOUT_FACTOR"),
    ("ports_for_others", "masquerade_ports"),
    ("PromisedPod", "ExamplePod"),
    ("pulse", "heartbeat"),
    ("put_in_place", "attach_or_replace"),
    ("ready_or_last_resort", "ready_or_terminating"),
    ("revive", "refresh"),
    ("send_on", "forward"),
    ("set_early", "set_xdp"),
    ("settled", "applied, synced"),
    ("show_the_way", "add_pod_routes"),
    ("speaks_edns", "supports_edns"),
    ("speaks_unknown_edns", "has_unsupported_edns_version"),
    ("spoilt", "corrupted"),
    ("standing_at", "programs_at"),
    ("STILL_THERE", "IDENTITY_CHECK_INTERVAL"),
    ("straits", "exhaustion"),
    ("tag_and_leg", "tag_and_kind"),
    ("take_strays", "remove_unowned"),
    ("TcpToo", "TcpFallback"),
    ("tell_needless", "log_ineffective"),
    ("tell_skipped", "log_skipped"),
    ("Told", "EffectiveConfiguration"),
    ("told_too_often", "icmp_rate_limit"),
    ("turn_to_router", "set_router_mac"),
    ("unsettled", "incomplete"),
    ("unsettled_frontends", "take_incomplete"),
    ("victim", "eviction candidate"),
    ("Vitals", "AgentState"),
    ("Wants", "QueryFlags"),
    ("what_next", "print_next_steps"),
    ("whoever", "the client, the caller, the owner"),
    ("whomever", "the client, the caller, the owner"),
    ("why_not_served", "Reason::NodePortNotServed"),
    ("Witness", "Telemetry"),
    ("would_rather_not", "avoids"),
    ("would_serve_nodeports", "nodeports_include"),
    ("XdpPlace", "XdpFlags"),
];

/// This table, whose words are no uses.
const TABLE: &str = "xtask/src/lint/retired.rs";

pub const ENDINGS: &[&str] = &[".rs", ".md", ".yaml"];

pub fn check(text: &Text) -> Vec<Finding> {
    if text.file == TABLE { Vec::new() } else { retired_words(text, RETIRED) }
}

fn retired_words(text: &Text, retired: &[(&str, &str)]) -> Vec<Finding> {
    let words = text.words();
    let mut findings = Vec::new();
    for at in 0..words.len() {
        let here = &words[at..];
        let broken = retired.iter().filter(|(word, _)| starts_with(here, word));
        findings.extend(broken.map(|(word, successor)| Finding {
            file: text.file.clone(),
            line: words[at].line,
            problem: format!("`{word}` is retired: use `{successor}`"),
        }));
    }
    findings
}

fn starts_with(words: &[Word<'_>], phrase: &str) -> bool {
    let mut words = words.iter();
    phrase.split(' ').enumerate().all(|(index, wanted)| {
        words.next().is_some_and(|word| (index == 0 || word.continues) && is_same(word.word, wanted))
    })
}

fn is_same(word: &str, wanted: &str) -> bool {
    if wanted.contains(char::is_uppercase) { word == wanted } else { word.eq_ignore_ascii_case(wanted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_words_are_found_as_whole_words() {
        let retired = [("Asker", "ClientInfo"), ("early plane", "XDP"), ("bury", "delete entries")];
        let asker = "`Asker` is retired: use `ClientInfo`";
        let plane = "`early plane` is retired: use `XDP`";
        let bury = "`bury` is retired: use `delete entries`";
        let cases: &[(&str, &[(usize, &str)])] = &[
            ("struct Asker;", &[(1, asker)]),
            ("// An\n// `Asker` asks.", &[(2, asker)]),
            ("struct AskerState; let asker = 1;", &[]),
            ("The early\n/// plane", &[(1, plane)]),
            ("an early, plane answer", &[]),
            ("fn bury() { self.bury() }", &[(1, bury), (1, bury)]),
            ("Bury the BURY table", &[(1, bury), (1, bury)]),
            ("Kingsbury", &[]),
        ];
        for (text, want) in cases {
            let text = Text { file: "x.md".to_owned(), text: (*text).to_owned() };
            let findings = retired_words(&text, &retired);
            let found: Vec<(usize, &str)> =
                findings.iter().map(|finding| (finding.line, finding.problem.as_str())).collect();
            assert_eq!(found, *want, "{}", text.text);
        }
    }

    #[test]
    fn each_word_has_one_entry_and_a_successor_that_is_not_retired() {
        for (word, successor) in RETIRED {
            assert!(!successor.is_empty(), "{word}");
            assert!(RETIRED.iter().all(|(other, _)| other != successor), "{word}: {successor} is retired");
            let matching = RETIRED.iter().filter(|(other, _)| is_same(word, other)).count();
            assert_eq!(matching, 1, "{word} matches {matching} entries");
        }
    }
}
