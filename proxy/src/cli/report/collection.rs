//! The files of a report, in memory until they are written.

use anyhow::Result;

use super::{
    anonymize::{Anonymizer, Form},
    archive::MAX_FILE,
    events, firewall, node, of_agent,
};
use crate::{
    cli::{
        agents::{FindArgs, Place},
        check, get, status,
    },
    error::chain,
};

#[derive(Debug, Default)]
pub struct Collection {
    files: Vec<File>,
    /// A file, and why it is not there or not whole.
    missing: Vec<(String, String)>,
    /// The name of the node.
    pub node: String,
}

#[derive(Debug)]
pub struct File {
    pub name: &'static str,
    pub text: String,
    form: Form,
}

impl Collection {
    /// Reads all that this node has to say, listening to events for so many seconds. Errors: several agents are on it.
    pub fn of_node(find: &FindArgs, seconds: u32) -> Result<Self> {
        let place = find.find()?;
        let mut collection = Self { node: node::host_name(), ..Self::default() };
        // First, so that the rest is of one moment, and shows what the events did.
        if seconds > 0 {
            events::collect(&place, seconds, &mut collection);
        }
        of_agent::collect(&place, &mut collection);
        collection.add("status.json", Form::Json, status::json(&place));
        collection.add_maps(&place);
        node::collect(&place, &mut collection);
        firewall::collect(&mut collection);
        collection.add("check.json", Form::Json, check::json(find));
        Ok(collection)
    }

    fn add_maps(&mut self, place: &Place) {
        for (name, resource) in get::resources(place) {
            if let Ok((_, surplus @ 1..)) = &resource {
                self.lack(name, format!("{surplus} rows are left out"));
            }
            self.add(name, Form::Rows, resource.map(|(text, _)| text));
        }
        self.add(get::dns::FILE, Form::Rows, get::dns::json(&place.socket));
    }

    /// Adds a file, or the reason why there is none.
    pub fn add(&mut self, name: &'static str, form: Form, text: Result<String>) {
        match text {
            Ok(text) if text.len() as u64 > MAX_FILE => {
                self.lack(name, format!("it would have more than {} MiB", MAX_FILE >> 20));
            }
            Ok(text) => self.files.push(File { name, text, form }),
            Err(error) => self.lack(name, chain(error.as_ref())),
        }
    }

    pub fn lack(&mut self, name: &str, reason: String) {
        self.missing.push((name.to_owned(), reason));
    }

    pub fn files(&self) -> &[File] {
        &self.files
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A line for each file that is not there or not whole.
    pub fn missing_text(&self) -> String {
        let line = |(name, reason): &(String, String)| format!("{name}: {}\n", reason.replace('\n', " "));
        self.missing.iter().map(line).collect()
    }

    /// Replaces names in all files. Returns the name of the node afterwards.
    pub fn anonymize(&mut self, mut anonymizer: Anonymizer) -> String {
        anonymizer.note_name(&self.node);
        self.files.iter().for_each(|file| anonymizer.note(file.form, &file.text));
        for file in &mut self.files {
            file.text = anonymizer.replace(file.form, &file.text);
        }
        for (_, reason) in &mut self.missing {
            *reason = anonymizer.replace(Form::Text, reason);
        }
        self.node = anonymizer.name(&self.node);
        self.node.clone()
    }
}
