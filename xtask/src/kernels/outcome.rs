//! What the machine says on its second serial line, read strictly: a machine that dies says too little.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Of `init.sh`.
const FIRST: &str = "portreeve kernels 1";
const LAST: &str = "end";

#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Exit codes.
    stories: BTreeMap<String, i32>,
    /// The file of counts, where it was asked for.
    pub ledger: Option<String>,
}

impl Outcome {
    pub fn parse(text: &str) -> Result<Outcome> {
        let mut lines = text.lines().map(str::trim_end);
        ensure!(lines.next() == Some(FIRST), "the machine did not come to its first word");
        let mut outcome = Outcome::default();
        for line in lines.by_ref() {
            if line == LAST {
                ensure!(lines.next().is_none(), "the machine said more after its last word");
                return Ok(outcome);
            }
            outcome.add(line)?;
        }
        bail!("the machine stopped before its last word")
    }

    pub fn code(&self, story: &str) -> Result<i32> {
        self.stories.get(story).copied().with_context(|| format!("the machine did not run {story}"))
    }

    fn add(&mut self, line: &str) -> Result<()> {
        match line.split_once(' ') {
            Some(("story", rest)) => {
                let (name, code) =
                    rest.split_once(' ').with_context(|| format!("no exit code in `{line}`"))?;
                let code = code.parse().with_context(|| format!("no exit code in `{line}`"))?;
                self.stories.insert(name.to_owned(), code);
            }
            Some(("ledger", rest)) => {
                let ledger = self.ledger.get_or_insert_default();
                ledger.push_str(rest);
                ledger.push('\n');
            }
            Some(("module", file)) => bail!("the kernel does not take {file}"),
            Some(_) | None => bail!("the machine said `{line}`, which means nothing"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_outcome_is_one() {
        let begun = "portreeve kernels 1\r\n";
        let cases = [
            (String::new(), Err("did not come to its first word")),
            ("story programs 0\nend\n".to_owned(), Err("did not come to its first word")),
            (format!("{begun}story programs 0\n"), Err("stopped before its last word")),
            (format!("{begun}story programs\nend\n"), Err("no exit code")),
            (format!("{begun}story programs x\nend\n"), Err("no exit code")),
            (format!("{begun}module /modules/veth.ko\nend\n"), Err("does not take /modules/veth.ko")),
            (format!("{begun}oops\nend\n"), Err("means nothing")),
            (format!("{begun}end\nstory programs 0\n"), Err("after its last word")),
            (format!("{begun}story programs 0\r\nstory kernels 101\r\nend\r\n"), Ok((0, 101, None))),
            (
                format!("{begun}story programs 0\nstory kernels 0\nledger # a\nledger b  1\nend\n"),
                Ok((0, 0, Some("# a\nb  1\n"))),
            ),
        ];
        for (text, want) in cases {
            match (Outcome::parse(&text), want) {
                (Ok(outcome), Ok((programs, kernels, ledger))) => {
                    let got = (outcome.code("programs").unwrap(), outcome.code("kernels").unwrap());
                    assert_eq!((got, outcome.ledger.as_deref()), ((programs, kernels), ledger), "{text:?}");
                    assert!(outcome.code("another").is_err());
                }
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{text:?}: {error}"),
                (got, want) => panic!("{text:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
