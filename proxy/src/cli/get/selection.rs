//! Selection of Services by namespace and name.

use clap::{Error, error::ErrorKind};

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
    /// Services of all namespaces (default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    namespace: Option<String>,
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
    pub fn selection(self) -> Selection {
        Selection::new(self).unwrap_or_else(|error| error.exit())
    }
}

impl Selection {
    /// One Service: `NAME` in any namespace, or `NAMESPACE/NAME`.
    pub fn of(name: &str) -> Self {
        let (namespace, name) =
            name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
        let name = Name { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        Self { namespace: None, names: vec![name] }
    }

    fn new(args: SelectionArgs) -> Result<Self, Error> {
        let SelectionArgs { names, namespace, all_namespaces: _ } = args;
        let names =
            names.iter().map(|name| Name::new(name, namespace.as_deref())).collect::<Result<_, _>>()?;
        Ok(Self { namespace, names })
    }

    /// Whether every Service is selected.
    pub fn is_all(&self) -> bool {
        self.namespace.is_none() && self.names.is_empty()
    }

    /// Whether a service port is selected. One without a name is selected only if all are.
    pub fn takes(&self, key: Option<&ServicePortKey>) -> bool {
        let Some(key) = key else { return self.is_all() };
        let namespace = &*key.service.namespace;
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
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
        Selection::new(line.args).ok()
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
        ] {
            let got = selection(line).map(|selection| {
                let keys = keys.iter().map(Some).chain([None]).filter(|key| selection.takes(*key));
                let names = keys.map(|key| key.map_or("?".to_owned(), |key| key.service.to_string()));
                names.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref(), want, "{line:?}");
        }
    }
}
