//! YAML documents of a file: splitting, parsing, and the objects in them.

use super::objects::{ManifestObject, Manifests};
use crate::k8s::{
    lenient::{self, Lenient},
    object::Kind,
    tree::Tree,
};

mod plain;

/// Limit for lists nested in lists.
const MAX_DEPTH: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    pub text: &'a str,
    /// Line number of its first line in the file.
    pub line: usize,
}

/// Splits a file into documents before parsing, so that an invalid document does not affect the others. The split is
/// exact: YAML allows `---` at the start of a line only between documents.
pub fn split(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some(Document { text, line: 1 });
    std::iter::from_fn(move || {
        let current = rest?;
        let (document, following) = split_once(current);
        rest = following;
        Some(document)
    })
    .filter(|document| !is_blank(document.text))
}

/// Splits at the next marker. The rest of the marker's line belongs to the following document.
fn split_once(from: Document<'_>) -> (Document<'_>, Option<Document<'_>>) {
    let mut start = 0;
    for (line, text) in (from.line..).zip(from.text.split_inclusive('\n')) {
        let end = start + text.len();
        if let Some(rest) = len_after_marker(text) {
            let following = &from.text[end - rest..];
            let document = Document { text: &from.text[..start], ..from };
            return (document, Some(Document { text: following, line }));
        }
        start = end;
    }
    (from, None)
}

/// Returns the number of bytes after `---` or `...`, or `None` if the line is not a marker.
fn len_after_marker(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    let is_marker = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    is_marker.then_some(rest.len())
}

/// Whether a text holds only comments and directives.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let trimmed = line.trim();
        trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%')
    })
}

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
    let message = error.without_snippet().to_string();
    let message = message.lines().next().unwrap_or_default();
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
    if api_version != kind.api_version() {
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
            let location = location.to_owned();
            manifests.objects.extend(object.map(|object| ManifestObject { location, object }));
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

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

    #[test]
    fn files_are_split_into_documents() {
        for (text, want) in [
            ("", vec![]),
            ("a: b", vec![(1, "a: b")]),
            ("---\na: b\n---\nc: d\n", vec![(1, "\na: b\n"), (3, "\nc: d\n")]),
            ("# one\n---\n---\n\n--- # two\na: b", vec![(5, " # two\na: b")]),
            ("%YAML 1.2\n---\r\na: b\r\n...\r\n", vec![(2, "\r\na: b\r\n")]),
            ("a: ---\nb: |\n  ---\n---c: d\n", vec![(1, "a: ---\nb: |\n  ---\n---c: d\n")]),
            ("\u{feff}a: b\n---", vec![(1, "a: b\n")]),
        ] {
            let got: Vec<_> = split(text).map(|document| (document.line, document.text)).collect();
            assert_eq!(got, want, "{text:?}");
        }
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
