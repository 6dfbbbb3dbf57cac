//! Answers from a report instead of the kernel.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::{
    footer::Footer,
    labels::Labels,
    listing::{Listing, Row},
    selection::Selection,
};
use crate::cli::report::archive::Report;

#[derive(Debug, clap::Args)]
pub struct OfflineArgs {
    /// Answer from the archive of `portreeve report`, with no data plane and no privileges
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bpffs", "run_dir", "watch"])]
    report: Option<PathBuf>,
}

impl OfflineArgs {
    /// The archive, if one is named.
    pub fn open(&self) -> Result<Option<Report>> {
        self.report.as_deref().map(Report::open).transpose()
    }
}

/// A listing of the report. Errors: the report has none, or one of another form.
pub fn listing<R: Row>(report: &Report, file: &str) -> Result<Listing<R>> {
    let text = report.file(file)?;
    Listing::parse(text).with_context(|| format!("{}: {file} is damaged", report.path()))
}

/// The selected rows of a listing. Errors: no Service has a selected name.
pub fn selected<R: Row>(report: &Report, file: &str, selection: &Selection) -> Result<Listing<R>> {
    let Listing { mut rows, mut footer } = listing::<R>(report, file)?;
    let labels = Labels::of(rows.iter().filter_map(|row| row.service()?.key()));
    if let Some(name) = selection.unknown(&labels) {
        bail!("no Service {name} in {file} of {}", report.path());
    }
    rows.retain(|row| selection.takes(row.service().and_then(|service| service.key()).as_ref()));
    if let Footer::Frontends { is_all, .. } = &mut footer {
        *is_all = selection.is_all();
    }
    Ok(Listing { rows, footer })
}
