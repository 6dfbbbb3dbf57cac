//! `k8s_external [ZONES...]`: names of Services for clients outside the cluster, with the external IPs and the addresses
//! of load balancers.

mod lookup;
#[cfg(test)]
mod tests;

use hickory_server::proto::{
    op::{Query, ResponseCode},
    rr::LowerName,
};
use lookup::{Lookup, Naming};

use super::directive::Directive;
use crate::{
    cluster::{
        authority::Authority,
        name::{Name, QueryName, is_reverse},
        selection::Selection,
        snapshot::Snapshot,
    },
    config::Zones,
    corefile::{CorefileError, Statement, zones_or},
    observe::metrics::Plugin,
    resolve::reply::Reply,
};

#[derive(Debug, Clone, PartialEq)]
pub struct External {
    zones: Zones,
    /// The label of the names of the zone's servers.
    apex: String,
    /// The TTL of records, in seconds.
    ttl: u32,
    /// Endpoints have names, too, of headless Services and of those without external addresses.
    headless: bool,
    /// Zones in which a missing name falls through to the next plugin. Empty: none.
    fallthrough: Zones,
}

const TTL: u32 = 5;
const MAX_TTL: u32 = 3600;

impl Directive for External {
    const NAME: &'static str = "k8s_external";
    const SUMMARY: &'static str =
        "names of Services outside the cluster: external IPs, and addresses and names of load balancers";
    const OPTIONS: &'static [&'static str] = &["apex", "ttl", "headless", "fallthrough"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        *setting = Some(read(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

fn read(statement: &Statement, block: &Zones) -> Result<External, CorefileError> {
    let mut external = External {
        zones: zones_or(&statement.words, block.clone())?,
        apex: "dns".to_owned(),
        ttl: TTL,
        headless: false,
        fallthrough: Zones::default(),
    };
    for option in &statement.body {
        option.no_body()?;
        match option.name.text.as_str() {
            "apex" => {
                let [word] = option.exactly("apex LABEL")?;
                if word.text.contains('.') || Name::from_text(&word.text).is_none() {
                    return Err(word.refuse(format!("`{}` is no label of a name", word.text)));
                }
                external.apex = word.text.to_ascii_lowercase();
            }
            "ttl" => {
                let [word] = option.exactly("ttl SECONDS")?;
                external.ttl = word.number()?;
                if external.ttl > MAX_TTL {
                    return Err(word.refuse("write a TTL from 0 to 3600"));
                }
            }
            "headless" => {
                option.no_words()?;
                external.headless = true;
            }
            "fallthrough" => external.fallthrough = option.fallthrough()?,
            _ => return Err(statement.unknown_option(option)),
        }
    }
    if external.primary().is_none() {
        return Err(statement.refuse("addresses lead to names of Services; add the zone of those"));
    }
    Ok(external)
}

impl External {
    /// The zone of the names that addresses lead to.
    fn primary(&self) -> Option<&LowerName> {
        self.zones.0.iter().find(|zone| !is_reverse(&Name::from(&***zone)))
    }

    /// Whether [`Self::answer`] could return a reply.
    pub(crate) fn may_answer(&self, name: &QueryName) -> bool {
        self.zones.0.iter().any(|zone| name.is_in(&Name::from(&**zone)))
    }

    /// The answer, from the Services that `authority` exposes. `None`: the next plugin is to answer.
    pub(crate) fn answer(
        &self,
        question: &Query,
        authority: &Authority,
        snapshot: &Snapshot,
        selection: Selection,
    ) -> Option<Reply> {
        let lower = LowerName::new(&question.name);
        let zone = self.zones.longest(&lower)?;
        if !snapshot.is_synced {
            return Some(Reply::from_plugin(ResponseCode::ServFail, Plugin::K8sExternal));
        }
        let name = QueryName::from(&question.name);
        let naming =
            Naming { apex: &self.apex, ttl: self.ttl, headless: self.headless, primary: self.primary() };
        let lookup = Lookup { naming, zone, name: &name, question, authority, snapshot, selection };
        match lookup.records() {
            None if self.fallthrough.contains(&lower) => None,
            None => Some(Reply {
                authorities: vec![lookup.soa()],
                ..Reply::from_plugin(ResponseCode::NXDomain, Plugin::K8sExternal)
            }),
            Some(found) => {
                let is_denial = found.answers.is_empty();
                Some(Reply {
                    answers: found.answers,
                    additionals: found.additionals,
                    authorities: if is_denial { vec![lookup.soa()] } else { Vec::new() },
                    ..Reply::from_plugin(ResponseCode::NoError, Plugin::K8sExternal)
                })
            }
        }
    }
}
