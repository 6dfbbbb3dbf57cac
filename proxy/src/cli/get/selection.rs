//! Selection of Services by namespace and name.

use clap::{CommandFactory as _, Error, error::ErrorKind};

use super::labels::Labels;
use crate::{cli::Cli, model::service::ServicePortKey};

#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// Only the Services of this name
    #[arg(value_name = "[NAMESPACE/]NAME")]
    name: Option<String>,
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
    name: Option<String>,
}

impl SelectionArgs {
    /// The selection. Exits with a usage error if the arguments contradict each other.
    pub fn selection(self) -> Selection {
        Selection::new(self).unwrap_or_else(|error| error.exit())
    }
}

impl Selection {
    fn new(args: SelectionArgs) -> Result<Self, Error> {
        let SelectionArgs { name, namespace, all_namespaces: _ } = args;
        let (in_name, name) = match name {
            Some(name) => match name.split_once('/') {
                Some((namespace, name)) => (Some(namespace.to_owned()), Some(name.to_owned())),
                None => (None, Some(name)),
            },
            None => (None, None),
        };
        match (&in_name, &namespace) {
            (Some(one), Some(other)) if one != other => Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                format!("the name has namespace `{one}`, --namespace is `{other}`"),
            )),
            _ => Ok(Self { namespace: in_name.or(namespace), name }),
        }
    }

    /// Whether a service port is selected. One without a name is selected only if all are.
    pub fn takes(&self, key: Option<&ServicePortKey>) -> bool {
        let is = |wanted: &Option<String>, part: fn(&ServicePortKey) -> &str| {
            wanted.as_deref().is_none_or(|wanted| key.is_some_and(|key| part(key) == wanted))
        };
        is(&self.namespace, |key| &key.service.namespace) && is(&self.name, |key| &key.service.name)
    }

    /// Returns the selected name if no Service has it.
    pub fn unknown(&self, labels: &Labels) -> Option<String> {
        let name = self.name.as_ref().filter(|_| !labels.keys().any(|key| self.takes(Some(key))))?;
        Some(match &self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.clone(),
        })
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
