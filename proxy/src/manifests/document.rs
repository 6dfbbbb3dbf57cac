//! YAML documents of a file: parsing, and the objects in them.

use super::objects::{ManifestObject, Manifests};
use crate::{
    k8s::{
        defaults,
        lenient::{self, Lenient},
        object::Kind,
        tree::Tree,
    },
    yaml::{self, Document},
};

mod plain;

/// Limit for lists nested in lists.
const MAX_DEPTH: u32 = 8;

/// Reads the objects of a document into `manifests`, with the reasons for skipped ones.
pub fn read(document: &Document<'_>, file: &str, manifests: &mut Manifests) {
    let location = format!("{file}:{}", first_line(document));
    match parse(document) {
        Ok(tree) => objects(tree, &location, None, 0, manifests),
        Err(SyntaxError { line, message }) => manifests.skip(format!("{file}:{line}"), message),
    }
}

struct SyntaxError {
    line: usize,
    message: String,
}

fn parse<'a>(document: &Document<'a>) -> Result<Tree<'a>, SyntaxError> {
    if document.text.trim_start().starts_with('{')
        && let Ok(tree) = serde_json::from_str(document.text)
    {
        return Ok(tree);
    }
    if let Some(tree) = plain::read(document.text) {
        return Ok(tree);
    }
    serde_saphyr::from_str(document.text).map_err(|error| syntax_error(document, &error))
}

fn syntax_error(document: &Document<'_>, error: &serde_saphyr::Error) -> SyntaxError {
    let within = error.location().map_or(1, |location| location.line());
    let line = document.line + usize::try_from(within).unwrap_or(1).saturating_sub(1);
    let message = yaml::message(error);
    // Without the parser's line number: it counts from the start of the document, not of the file.
    let message = message.split(" at line ").next().unwrap_or_default();
    SyntaxError { line, message: format!("invalid YAML: {message}") }
}

fn first_line(document: &Document<'_>) -> usize {
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    document.line + document.text.lines().take_while(|line| !is_content(line)).count()
}

/// Reads an object or a list of objects. `list_kind` is the kind and apiVersion of the elements of a typed list, which
/// may omit both.
fn objects(
    mut tree: Tree<'_>,
    location: &str,
    list_kind: Option<(&str, &str)>,
    depth: u32,
    manifests: &mut Manifests,
) {
    let stated = tree.text("kind").zip(tree.text("apiVersion")).or(list_kind);
    let Some((kind, api_version)) = stated.map(|(kind, version)| (kind.to_owned(), version.to_owned()))
    else {
        return manifests.skip(location, "not a Kubernetes object: kind or apiVersion is missing");
    };
    if let Some(of) = kind.strip_suffix("List").filter(|of| of.is_empty() || kind_of(of).is_some()) {
        let Some(items) = tree.take_list("items") else {
            return manifests.skip(location, format!("a {kind} without items"));
        };
        if depth == MAX_DEPTH {
            return manifests.skip(location, "lists are nested too deeply");
        }
        let list_kind = (!of.is_empty()).then_some((of, api_version.as_str()));
        for (n, item) in items.into_iter().enumerate() {
            objects(item, &format!("{location} items[{n}]"), list_kind, depth + 1, manifests);
        }
        return;
    }
    // Other kinds, such as Deployments and ConfigMaps, are ignored silently.
    if let Some(kind) = kind_of(&kind) {
        object(kind, &api_version, tree, location, manifests);
    }
}

fn kind_of(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name)
}

fn object(kind: Kind, api_version: &str, tree: Tree<'_>, location: &str, manifests: &mut Manifests) {
    if !kind.is_read_as(api_version) {
        // The same kind in another group is a different kind (Knative's Service) and is ignored silently.
        let is_old = kind.api_version().rsplit_once('/').is_some_and(|(group, _)| {
            api_version.strip_prefix(group).is_some_and(|version| version.starts_with('/'))
        });
        if is_old {
            let (name, wanted) = (kind.name(), kind.api_version());
            manifests.skip(
                describe(kind, &tree, location),
                format!("{name} is read as {wanted}, not as {api_version}"),
            );
        }
        return;
    }
    let name = describe(kind, &tree, location);
    match lenient::read(kind, tree) {
        Ok(Lenient { object, faults, .. }) => {
            faults.into_iter().for_each(|fault| manifests.skip(name.clone(), fault));
            let Some(mut object) = object else { return };
            for refusal in defaults::apply(&mut object) {
                manifests.skip(name.clone(), format!("an API server would refuse this: {refusal}"));
            }
            manifests.objects.push(ManifestObject { location: location.to_owned(), object });
        }
        Err(error) => manifests.skip(name, error),
    }
}

fn describe(kind: Kind, tree: &Tree<'_>, location: &str) -> String {
    let metadata = tree.get("metadata");
    let name = metadata.and_then(|metadata| metadata.text("name"));
    let namespace = metadata.and_then(|metadata| metadata.text("namespace")).unwrap_or("default");
    match name {
        Some(name) if kind.is_namespaced() => format!("{location}: {} {namespace}/{name}", kind.name()),
        Some(name) => format!("{location}: {} {name}", kind.name()),
        None => format!("{location}: {}", kind.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::split;

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

    #[test]
    fn an_unnamed_port_serves_as_behind_an_api_server() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
            spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, \"fd00::1\"], ports: [{port: 80}]}\n---\n\
            apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
            metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
            addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.0.1]}]\n";
        let mut manifests = Manifests::default();
        split(text).for_each(|document| read(&document, "f.yaml", &mut manifests));
        let (index, skipped) = manifests.to_index(crate::model::policy::Policy::default());
        assert_eq!(skipped, []);
        let backends: Vec<_> = index
            .frontends()
            .map(|frontend| {
                let backends = frontend.internal.backends.iter().map(|backend| backend.address.to_string());
                (frontend.key.to_string(), backends.collect::<Vec<_>>())
            })
            .collect();
        let want = [("10.96.0.1:80/TCP", vec!["10.1.0.1:8080"]), ("[fd00::1]:80/TCP", vec![])];
        assert_eq!(
            backends,
            want.map(|(key, backends)| (key.to_owned(), backends.iter().map(ToString::to_string).collect()))
        );
    }

    #[test]
    fn skipped_documents_have_a_location() {
        let list = "{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": [{\"kind\": \"Service\"}]}";
        for (text, want) in [
            (WEB.to_owned(), vec![]),
            (format!("{WEB}---\n\nkind: [\n"), vec!["f.yaml:6: invalid YAML: unclosed bracket '['"]),
            (
                format!("{WEB}spec: {{ports: [{{port: x}}]}}"),
                vec![
                    "f.yaml:1: Service default/web: spec.ports[0].port: expected a 32-bit integer, found text",
                ],
            ),
            (
                "\n# words\nhello".to_owned(),
                vec!["f.yaml:3: not a Kubernetes object: kind or apiVersion is missing"],
            ),
            ("apiVersion: apps/v1\nkind: Deployment\n".to_owned(), vec![]),
            ("apiVersion: serving.knative.dev/v1\nkind: Service\n".to_owned(), vec![]),
            (
                "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}".to_owned(),
                vec![
                    "f.yaml:1: EndpointSlice default/a: EndpointSlice is read as discovery.k8s.io/v1, not as \
                 discovery.k8s.io/v1beta1",
                ],
            ),
            (
                list.to_owned(),
                vec!["f.yaml:1 items[0]: not a Kubernetes object: kind or apiVersion is missing"],
            ),
        ] {
            let mut manifests = Manifests::default();
            split(&text).for_each(|document| read(&document, "f.yaml", &mut manifests));
            let got: Vec<_> =
                manifests.skipped.iter().map(|skip| format!("{}: {}", skip.object, skip.reason)).collect();
            assert_eq!(got, want, "{text:?}");
        }
    }
}
