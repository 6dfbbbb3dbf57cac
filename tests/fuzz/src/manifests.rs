//! Files of manifests: documents, lists, every kind.

use proxy::{index::Index, k8s::reader::Reader, manifests, model::policy::Policy};

use crate::text;

const NODE: &str = "node-1";

pub fn run(octets: &[u8]) {
    let Some(text) = text::read(octets) else { return };
    let reader = Reader { node_name: NODE.to_owned(), dns: None };
    let mut index = Index::new(Policy { node_name: NODE.to_owned(), ..Policy::default() });
    for object in manifests::parse("objects.yaml", text).objects {
        if let Ok(Some(parsed)) = reader.index_change(&object.object) {
            index.apply(parsed.value);
        }
    }
    index.frontends().for_each(drop);
}
