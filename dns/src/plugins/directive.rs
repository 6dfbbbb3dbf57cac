//! The parts of a directive: its name and options in the Corefile, and its local plugin.

use std::{fmt, fs, marker::PhantomData, net::IpAddr, sync::Arc};

use hickory_server::proto::{
    op::Query,
    rr::{LowerName, RecordType},
};

use crate::{
    cluster::name::QueryName,
    config::Zones,
    corefile::{CorefileError, Statement, Word},
    observe::metrics::Metrics,
    resolve::reply::Reply,
    zone_data::Zone,
};

/// One directive of a server block.
pub(crate) trait Directive {
    /// The name in the Corefile.
    const NAME: &'static str;
    /// Its function, for the reference page.
    const SUMMARY: &'static str;
    /// Names of the options in its body, for the reference page.
    const OPTIONS: &'static [&'static str] = &[];
    /// Whether it may occur more than once in a block, each occurrence adding to the others.
    const IS_REPEATABLE: bool = false;
    /// Options that are accepted without effect, each with the reason.
    const INEFFECTIVE: &'static [(&'static str, &'static str)] = &[];
    /// Its part of the server block.
    type Setting: Default;

    /// The setting of a block without the directive.
    fn absent() -> Self::Setting {
        Self::Setting::default()
    }

    /// Reads one occurrence in a block that serves `zones`.
    fn read(setting: &mut Self::Setting, statement: &Statement, zones: &Zones) -> Result<(), CorefileError>;

    /// Whether the metric `plugin_enabled` lists the directive.
    fn is_enabled(_setting: &Self::Setting) -> bool {
        false
    }

    /// The plugin that answers queries, if the directive has one. Called within a runtime.
    fn start(_setting: &Self::Setting, _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        None
    }

    /// The options of an occurrence that have no effect.
    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        listed(Self::INEFFECTIVE, statement)
    }
}

/// A directive without words and options: it is there or not.
pub(super) trait Switch {
    const NAME: &'static str;
    /// Its function, for the reference page.
    const SUMMARY: &'static str;
    /// Whether it is on in a block without it.
    const IS_DEFAULT: bool = false;

    /// Its plugin, if it has one.
    fn plugin() -> Option<Box<dyn LocalPlugin>> {
        None
    }
}

impl<T: Switch> Directive for T {
    const NAME: &'static str = <T as Switch>::NAME;
    const SUMMARY: &'static str = <T as Switch>::SUMMARY;
    type Setting = bool;

    fn absent() -> bool {
        T::IS_DEFAULT
    }

    fn read(setting: &mut bool, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        *setting = statement.flag()?;
        Ok(())
    }

    fn is_enabled(setting: &bool) -> bool {
        *setting
    }

    fn start(setting: &bool, _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        if *setting { T::plugin() } else { None }
    }
}

/// A directive that may occur several times in a block.
pub(super) trait Repeated: Sized {
    const NAME: &'static str;
    /// Its function, for the reference page.
    const SUMMARY: &'static str;
    const OPTIONS: &'static [&'static str] = &[];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] = &[];

    /// Reads one occurrence in a block that serves `zones`.
    fn read(statement: &Statement, zones: &Zones) -> Result<Self, CorefileError>;

    /// The plugin that answers queries by all occurrences, of which there is one at least. Called within a runtime.
    fn start(_all: &[Self], _context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        None
    }

    /// The options of an occurrence that have no effect.
    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        listed(Self::INEFFECTIVE, statement)
    }
}

/// All occurrences of a directive.
pub(super) struct Each<T>(PhantomData<T>);

impl<T: Repeated> Directive for Each<T> {
    const NAME: &'static str = T::NAME;
    const SUMMARY: &'static str = T::SUMMARY;
    const OPTIONS: &'static [&'static str] = T::OPTIONS;
    const IS_REPEATABLE: bool = true;
    const INEFFECTIVE: &'static [(&'static str, &'static str)] = T::INEFFECTIVE;
    type Setting = Vec<T>;

    fn read(setting: &mut Vec<T>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        setting.push(T::read(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Vec<T>) -> bool {
        !setting.is_empty()
    }

    fn start(setting: &Vec<T>, context: &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>> {
        if setting.is_empty() { None } else { T::start(setting, context) }
    }

    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        T::ineffective(statement)
    }
}

/// The options of an occurrence that are in the list, each with its reason.
pub(super) fn listed(
    ineffective: &[(&'static str, &'static str)],
    statement: &Statement,
) -> Vec<IneffectiveOption> {
    let reason = |option: &Statement| {
        let known = ineffective.iter().find(|(name, _)| option.name.text == *name)?;
        Some(IneffectiveOption::new(&option.name, known.1))
    };
    statement.body.iter().filter_map(reason).collect()
}

/// The host name, as the kernel has it. Empty if it cannot be read.
pub(super) fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The metrics, and their labels, of the plugins of one block.
pub(crate) struct PluginContext<'a> {
    pub metrics: &'a Metrics,
    /// The label `server` of metrics, such as `dns://:53`.
    pub server: &'a str,
    /// The label `zone` of metrics.
    pub zone: &'a str,
}

/// A plugin that answers before the cluster's data and the upstreams are asked, without waiting.
pub(crate) trait LocalPlugin: fmt::Debug + Send + Sync {
    /// Returns `None` where the next plugin is to answer.
    fn answer(&self, question: &Query) -> Option<Reply>;

    /// As [`Self::answer`], for a client that wants DNSSEC records (DO).
    fn answer_with_dnssec(&self, question: &Query) -> Option<Reply> {
        self.answer(question)
    }

    /// Whether the plugin answers only what the cluster's data do not answer.
    fn follows_cluster(&self) -> bool {
        false
    }

    /// The zone with this origin, for transfers.
    fn zone(&self, _origin: &LowerName) -> Option<Arc<Zone>> {
        None
    }

    /// The serials of the zones that [`Self::zone`] knows.
    fn serials(&self) -> Vec<(LowerName, u32)> {
        Vec::new()
    }

    /// Notes that a zone may have changed, if the client is a primary of it. `None`: the zone is of no other server.
    fn notified(&self, _origin: &LowerName, _client: IpAddr) -> Option<bool> {
        None
    }

    /// Whether [`Self::answer`] could return a reply. A cheap test for the fast path; wrong only where it returns
    /// `true`.
    fn may_answer(&self, _name: &QueryName, _qtype: RecordType) -> bool {
        true
    }
}

/// An option of the Corefile without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IneffectiveOption {
    /// `FILE:LINE`.
    pub location: String,
    pub option: String,
    pub reason: &'static str,
}

impl IneffectiveOption {
    pub(super) fn new(option: &Word, reason: &'static str) -> Self {
        Self { location: format!("{}:{}", option.file, option.line), option: option.text.clone(), reason }
    }
}
