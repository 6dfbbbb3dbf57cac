//! The source of objects of commands that ask the model: manifests, or the archive of a report.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};

use super::{
    policy_args::PolicyArgs,
    report::{OBJECTS, POLICY, archive::Report},
};
use crate::{
    kube_proxy_config::ConfigFile,
    manifests::{self, ManifestError, Manifests},
    model::{name_server::NameServer, policy::Policy},
    observe::policy_record::PolicyRecord,
};

#[derive(Debug, clap::Args)]
pub struct ObjectsArgs {
    /// A directory of YAML files, or one file
    #[arg(long, value_name = "DIR", required_unless_present = "report", conflicts_with = "report")]
    manifests: Option<PathBuf>,
    /// The archive of `portreeve report`, with its objects and the policy of its agent
    #[arg(long, value_name = "FILE", conflicts_with_all = ["PolicyArgs", "NameServerArgs"])]
    report: Option<PathBuf>,
}

/// Objects with the policy that they were read for.
pub struct Loaded {
    pub manifests: Manifests,
    of_report: Option<PolicyRecord>,
    /// The name of the archive, if it is one.
    report: String,
}

impl ObjectsArgs {
    /// Reads the objects; `load` reads manifests.
    pub fn load(&self, load: fn(&std::path::Path) -> Result<Manifests, ManifestError>) -> Result<Loaded> {
        let Some(path) = &self.report else {
            let path = self.manifests.as_deref().context("give --manifests or --report")?;
            return Ok(Loaded { manifests: load(path)?, of_report: None, report: String::new() });
        };
        let report = Report::open(path)?;
        let manifests = manifests::parse(OBJECTS, report.file_named(OBJECTS, "objects")?);
        let policy = serde_json::from_str(report.file(POLICY)?);
        let policy = policy.with_context(|| format!("{}: {POLICY} is damaged", report.path()))?;
        Ok(Loaded { manifests, of_report: Some(policy), report: report.path().to_owned() })
    }
}

impl Loaded {
    /// The policy of the report, else that of the flags with this name server.
    pub fn policy(
        &self,
        flags: &PolicyArgs,
        file: Option<&ConfigFile>,
        name_server: Option<NameServer>,
    ) -> Result<Policy> {
        match &self.of_report {
            Some(record) => {
                record.clone().policy().map_err(|error| anyhow!("{}: {POLICY}: {error}", self.report))
            }
            None => Ok(Policy { name_server, ..flags.policy(file.map(|file| &file.settings))? }),
        }
    }

    /// Errors: the objects that only DNS uses are not there.
    pub fn require_names(&self) -> Result<()> {
        let has_names = self.of_report.as_ref().is_none_or(|policy| policy.has_names);
        has_names.then_some(()).with_context(|| {
            format!(
                "{} has no names: the agent served no DNS, and does not know all that have a part in it",
                self.report
            )
        })
    }
}
