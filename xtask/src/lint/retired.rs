//! Retired words: each has a successor, and no file may use it again.

use super::{
    finding::Finding,
    text::{Text, Word},
};

/// Retired word or phrase, and the words to use. Words match as a whole; those in lower case match in any case.
const RETIRED: &[(&str, &str)] = &[];

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
    fn each_word_has_a_successor_that_is_not_retired() {
        for (word, successor) in RETIRED {
            assert!(!successor.is_empty(), "{word}");
            assert!(RETIRED.iter().all(|(other, _)| other != successor), "{word}: {successor} is retired");
        }
    }
}
