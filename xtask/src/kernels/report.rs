//! The machine's report on its second serial line. Parsed strictly: a machine that dies reports too little.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Written by `init.sh`.
const FIRST: &str = "portreeve kernels 1";
const LAST: &str = "end";

#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Exit codes.
    stories: BTreeMap<String, i32>,
    /// The ledger, if requested.
    pub ledger: Option<String>,
}

impl Report {
    pub fn parse(text: &str) -> Result<Report> {
        let mut lines = text.lines().map(str::trim_end);
        ensure!(lines.next() == Some(FIRST), "the machine did not start its report");
        let mut report = Report::default();
        for line in lines.by_ref() {
            if line == LAST {
                ensure!(lines.next().is_none(), "the machine reported more after its last line");
                return Ok(report);
            }
            report.add(line)?;
        }
        bail!("the machine stopped before its last line")
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
            Some(("module", file)) => bail!("the kernel does not load {file}"),
            Some(_) | None => bail!("the machine reported `{line}`, which is unknown"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_report_is_accepted() {
        let start = "portreeve kernels 1\r\n";
        let cases = [
            (String::new(), Err("did not start its report")),
            ("story programs 0\nend\n".to_owned(), Err("did not start its report")),
            (format!("{start}story programs 0\n"), Err("stopped before its last line")),
            (format!("{start}story programs\nend\n"), Err("no exit code")),
            (format!("{start}story programs x\nend\n"), Err("no exit code")),
            (format!("{start}module /modules/veth.ko\nend\n"), Err("does not load /modules/veth.ko")),
            (format!("{start}oops\nend\n"), Err("is unknown")),
            (format!("{start}end\nstory programs 0\n"), Err("after its last line")),
            (format!("{start}story programs 0\r\nstory kernels 101\r\nend\r\n"), Ok((0, 101, None))),
            (
                format!("{start}story programs 0\nstory kernels 0\nledger # a\nledger b  1\nend\n"),
                Ok((0, 0, Some("# a\nb  1\n"))),
            ),
        ];
        for (text, want) in cases {
            match (Report::parse(&text), want) {
                (Ok(report), Ok((programs, kernels, ledger))) => {
                    let got = (report.code("programs").unwrap(), report.code("kernels").unwrap());
                    assert_eq!((got, report.ledger.as_deref()), ((programs, kernels), ledger), "{text:?}");
                    assert!(report.code("another").is_err());
                }
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{text:?}: {error}"),
                (got, want) => panic!("{text:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
