//! The source of objects of commands that ask the model: manifests, or the archive of a report.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    control,
    policy_args::PolicyArgs,
    report::{
        OBJECTS, POLICY,
        archive::{MAX_FILE, Report},
    },
};
use crate::{
    kube_proxy_config::ConfigFile,
    manifests::{self, ManifestError, Manifests},
    model::{name_server::NameServer, policy::Policy},
    observe::{
        control::{ControlRequest, OBJECTS_END},
        policy_record::PolicyRecord,
    },
};

#[derive(Debug, clap::Args)]
pub struct ObjectsArgs {
    /// A directory of YAML files, or one file
    #[arg(long, value_name = "DIR", conflicts_with = "report")]
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
    /// Whether objects were named.
    pub fn are_given(&self) -> bool {
        self.manifests.is_some() || self.report.is_some()
    }

    /// Reads the objects; `load` reads manifests.
    pub fn load(&self, load: fn(&Path) -> Result<Manifests, ManifestError>) -> Result<Loaded> {
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
    /// The objects of a running agent, with its policy. Errors: none listens, or it has no time for the request.
    pub fn of_agent(socket: &Path) -> Result<Self> {
        let no_agent = || format!("no agent runs: nothing listens on {}", socket.display());
        let policy = control::request::<Option<PolicyRecord>>(socket, ControlRequest::Policy)?;
        let policy = policy.with_context(no_agent)?.context("the agent's loop is busy")?;
        let text = control::text(socket, ControlRequest::Objects, MAX_FILE)?.with_context(no_agent)?;
        ensure!(text.ends_with(OBJECTS_END), "the agent did not send all its objects");
        let manifests = manifests::parse("the objects of the agent", &text);
        Ok(Self { manifests, of_report: Some(policy), report: "the agent".to_owned() })
    }

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

    /// The policy of the agent or of the report.
    pub fn own_policy(&self) -> Result<Policy> {
        let record = self.of_report.clone().context("the objects have no policy")?;
        record.policy().map_err(|error| anyhow!("{}: {POLICY}: {error}", self.report))
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
