//! Selection of Services by namespace and name.

use std::collections::BTreeSet;

use clap::{Error, error::ErrorKind};
use dns::config::Selector;

use super::labels::Labels;
use crate::model::service::ServicePortKey;

#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// Only the Services of these names
    #[arg(value_name = "[svc/|NAMESPACE/]NAME")]
    names: Vec<String>,
    /// Only Services of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only Services with these labels: tier=web, tier!=web, 'tier in (web, api)', 'tier notin (web)', tier, '!tier'. The
    /// labels are the running agent's
    #[arg(short = 'l', long, conflicts_with = "names")]
    selector: Option<Selector>,
    /// Services of all namespaces (default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    namespace: Option<String>,
    /// The Services, `NAMESPACE/NAME`, with the labels that were asked for.
    labelled: Option<BTreeSet<String>>,
    /// Any of these; empty: any name.
    names: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    namespace: Option<String>,
    name: String,
}

/// The kind in front of a name, as kubectl accepts it.
const KINDS: [&str; 3] = ["svc", "service", "services"];

impl SelectionArgs {
    /// The selection. Exits with a usage error if the arguments contradict each other.
    pub fn selection(&self) -> Selection {
        Selection::new(self).unwrap_or_else(|error| error.exit())
    }

    pub fn selector(&self) -> Option<&Selector> {
        self.selector.as_ref()
    }
}

impl Selection {
    /// One Service: `NAME` in any namespace, or `NAMESPACE/NAME`.
    pub fn of(name: &str) -> Self {
        let (namespace, name) =
            name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
        let name = Name { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        Self { names: vec![name], ..Self::default() }
    }

    fn new(args: &SelectionArgs) -> Result<Self, Error> {
        let SelectionArgs { names, namespace, selector: _, all_namespaces: _ } = args;
        let names =
            names.iter().map(|name| Name::new(name, namespace.as_deref())).collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.clone(), labelled: None, names })
    }

    /// Of the selected Services only these.
    pub fn among(&self, labelled: Option<BTreeSet<String>>) -> Self {
        Self { labelled, ..self.clone() }
    }

    /// Whether every Service is selected.
    pub fn is_all(&self) -> bool {
        self.namespace.is_none() && self.names.is_empty() && self.labelled.is_none()
    }

    /// Whether a service port is selected. One without a name is selected only if all are.
    pub fn takes(&self, key: Option<&ServicePortKey>) -> bool {
        let Some(key) = key else { return self.is_all() };
        let namespace = &*key.service.namespace;
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.labelled.as_ref().is_none_or(|labelled| labelled.contains(&key.service.to_string()))
            && (self.names.is_empty() || self.names.iter().any(|name| name.is(key)))
    }

    /// Returns the first selected name that no Service has.
    pub fn unknown(&self, labels: &Labels) -> Option<String> {
        let is_known = |name: &Name| labels.keys().any(|key| name.is(key));
        let Name { namespace, name } = self.names.iter().find(|name| !is_known(name))?;
        Some(match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.clone(),
        })
    }
}

impl Name {
    fn new(text: &str, namespace: Option<&str>) -> Result<Self, Error> {
        let (stated, name) = match text.split_once('/') {
            Some((kind, name)) if KINDS.contains(&kind) => (None, name),
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        match (stated, namespace) {
            (Some(one), Some(other)) if one != other => Err(Error::raw(
                ErrorKind::ArgumentConflict,
                format!("the name has namespace `{one}`, --namespace is `{other}`\n"),
            )),
            _ => Ok(Self { namespace: stated.or(namespace).map(str::to_owned), name: name.to_owned() }),
        }
    }

    fn is(&self, key: &ServicePortKey) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == &*key.service.namespace)
            && self.name == *key.service.name
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::{address::Protocol, service::ServiceKey};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SelectionArgs,
    }

    fn selection(line: &str) -> Option<Selection> {
        let line = Line::try_parse_from(std::iter::once("get").chain(line.split_whitespace())).ok()?;
        Selection::new(&line.args).ok()
    }

    #[test]
    fn services_are_selected_by_namespace_and_name() {
        let keys = ["shop/web", "shop/db", "blog/web"].map(|name| {
            let (namespace, name) = name.split_once('/').unwrap();
            let service = ServiceKey::new(namespace, name);
            ServicePortKey { service, port_name: "http".into(), protocol: Protocol::Tcp }
        });
        for (line, want) in [
            ("", Some("shop/web shop/db blog/web ?")),
            ("-A", Some("shop/web shop/db blog/web ?")),
            ("-n shop", Some("shop/web shop/db")),
            ("-n none", Some("")),
            ("web", Some("shop/web blog/web")),
            ("-A web", Some("shop/web blog/web")),
            ("web -n blog", Some("blog/web")),
            ("blog/web", Some("blog/web")),
            ("svc/web", Some("shop/web blog/web")),
            ("service/web -n shop", Some("shop/web")),
            ("db blog/web", Some("shop/db blog/web")),
            ("web db -n shop", Some("shop/web shop/db")),
            ("blog/web -n blog", Some("blog/web")),
            ("blog/web -n shop", None),
            ("-A -n shop", None),
            ("-l app=web web", None),
            ("-l app=\"web\"", None),
        ] {
            let got = selection(line).map(|selection| {
                let keys = keys.iter().map(Some).chain([None]).filter(|key| selection.takes(*key));
                let names = keys.map(|key| key.map_or("?".to_owned(), |key| key.service.to_string()));
                names.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref(), want, "{line:?}");
        }
    }

    #[test]
    fn labelled_services_are_a_part_of_the_others() {
        let key = |name: &str| ServicePortKey {
            service: ServiceKey::new("shop", name),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        };
        let selection = selection("-n shop -l app").unwrap();
        let labelled = selection.among(Some(["shop/web".to_owned(), "blog/db".to_owned()].into()));
        assert!(labelled.takes(Some(&key("web"))) && !labelled.takes(Some(&key("db"))));
        assert!(!labelled.is_all() && !labelled.takes(None));
        assert!(!Selection::default().among(Some(BTreeSet::new())).is_all());
    }
}
