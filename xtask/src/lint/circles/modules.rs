//! The modules of a crate and the files whose items each file names.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{
    super::{
        paths::{Path, paths_in},
        source::{Source, is_group, is_ident, is_punct},
    },
    graph::Graph,
};

type ModulePath = Vec<String>;

/// The names of one file that another file uses, and the line of the first.
pub struct Names {
    pub line: usize,
    pub names: BTreeSet<String>,
}

pub struct Crate<'a> {
    /// The directory of its `lib.rs` or `main.rs`.
    pub source: &'a str,
    /// The name by which its own binaries name the library.
    library: String,
    files: BTreeMap<&'a str, ModulePath>,
    modules: BTreeMap<ModulePath, &'a str>,
    /// Per module, the paths behind the names that its `use` items declare.
    aliases: BTreeMap<ModulePath, BTreeMap<String, Path>>,
    /// Each path that a file names, with the module that names it: an inline module may differ from the file's.
    paths: Vec<(&'a str, ModulePath, Path)>,
}

impl<'a> Crate<'a> {
    /// All crates among `sources`: directories below a `src` with a `lib.rs` or a `main.rs`.
    pub fn all(sources: &'a [Source]) -> Vec<Crate<'a>> {
        let roots: BTreeSet<&str> = sources.iter().filter_map(|source| root(&source.file)).collect();
        roots.iter().map(|root| Crate::read(root, &roots, sources)).collect()
    }

    fn read(root: &'a str, roots: &BTreeSet<&str>, sources: &'a [Source]) -> Crate<'a> {
        let is_ours = |file: &str| {
            let above = roots.iter().filter(|root| is_below(file, root));
            above.max_by_key(|root| root.len()).is_some_and(|nearest| *nearest == root)
        };
        let library = root.strip_suffix("/src").unwrap_or_default().replace('-', "_");
        let mut all = Crate {
            source: root,
            library,
            files: BTreeMap::new(),
            modules: BTreeMap::new(),
            aliases: BTreeMap::new(),
            paths: Vec::new(),
        };
        let mut tests = BTreeSet::new();
        for source in sources.iter().filter(|source| is_ours(&source.file)) {
            let module = module_path(root, &source.file);
            all.read_items(&source.file, &module, source.tokens.clone(), &mut tests);
            if !(module.is_empty() && source.file.ends_with("/main.rs") && all.modules.contains_key(&module))
            {
                all.modules.insert(module.clone(), &source.file);
            }
            all.files.insert(&source.file, module);
        }
        all.leave_out(&tests);
        all
    }

    /// Collects paths and aliases, and in `tests` the modules that are declared for tests alone.
    fn read_items(
        &mut self,
        file: &'a str,
        module: &ModulePath,
        tokens: TokenStream,
        tests: &mut BTreeSet<ModulePath>,
    ) {
        let run = without_test_items(tokens.into_iter().collect(), module, tests);
        for path in paths_in(&run) {
            if let Some(alias) = &path.alias {
                self.aliases.entry(module.clone()).or_default().insert(alias.clone(), path.clone());
            }
            self.paths.push((file, module.clone(), path));
        }
        for (at, token) in run.iter().enumerate() {
            let TokenTree::Group(group) = token else { continue };
            let before = |distance: usize| at.checked_sub(distance).and_then(|at| run.get(at));
            let is_visibility = is_ident(before(1), "pub") && is_restriction(group);
            let is_use_tree = is_punct(before(1), ':') && is_punct(before(2), ':');
            let inside = before(1).filter(|_| is_ident(before(2), "mod"));
            match inside {
                _ if is_visibility || is_use_tree => {}
                Some(name) => self.read_items(file, &child(module, &name.to_string()), group.stream(), tests),
                None => self.read_items(file, module, group.stream(), tests),
            }
        }
    }

    fn leave_out(&mut self, tests: &BTreeSet<ModulePath>) {
        let is_test = |module: &ModulePath| (1..=module.len()).any(|end| tests.contains(&module[..end]));
        self.files.retain(|_, module| !is_test(module));
        self.modules.retain(|module, _| !is_test(module));
        self.paths.retain(|(_, module, _)| !is_test(module));
    }

    /// The module of each file; the root is empty.
    pub fn module_of(&self, file: &str) -> &[String] {
        self.files.get(file).map_or(&[], Vec::as_slice)
    }

    /// Edges between files.
    pub fn imports(&self) -> Graph<Names> {
        let mut graph = Graph::new();
        for (file, module, path) in &self.paths {
            let Some((target, name)) = self.resolve(module, path) else { continue };
            let target_module = self.module_of(target);
            let is_own_child = target_module.len() > module.len() && target_module.starts_with(module);
            if target == *file || (path.is_exported && is_own_child) {
                continue;
            }
            let names = graph.edge(file, target, || Names { line: path.line, names: BTreeSet::new() });
            names.names.insert(name);
        }
        graph
    }

    /// The file whose item a path names, and that item's name; `None` for another crate's.
    fn resolve(&self, module: &ModulePath, path: &Path) -> Option<(&'a str, String)> {
        let absolute = self.absolute(module, &path.words, path.alias.as_deref(), DEPTH)?;
        let (mut at, mut rest) = (Vec::new(), absolute.as_slice());
        while let Some((word, after)) = rest.split_first() {
            let below = child(&at, word);
            if !self.modules.contains_key(&below) {
                break;
            }
            (at, rest) = (below, after);
        }
        let name = rest.first().or(at.last()).cloned().unwrap_or_default();
        Some((self.modules.get(&at)?, name))
    }

    /// The path from the crate's root, through `use` items; `None` if it leads out of the crate. `declared` is the
    /// name that the path itself declares.
    fn absolute(
        &self,
        module: &ModulePath,
        words: &[String],
        declared: Option<&str>,
        depth: usize,
    ) -> Option<ModulePath> {
        let depth = depth.checked_sub(1)?;
        let (first, rest) = words.split_first()?;
        let start = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => {
                let up = words.iter().take_while(|word| *word == "super").count();
                let above = module[..module.len().checked_sub(up)?].to_vec();
                return self.descend(above, &words[up..], depth);
            }
            library if library == self.library => Vec::new(),
            _ if self.modules.contains_key(&child(module, first)) => child(module, first),
            name => {
                let alias = self.aliases.get(module)?.get(name).filter(|_| declared != Some(name))?;
                let target = self.absolute(module, &alias.words, Some(name), depth)?;
                return self.descend(target, rest, depth);
            }
        };
        self.descend(start, rest, depth)
    }

    /// Follows `words` down from a module: child modules first, then names that a `use` there declares.
    fn descend(&self, mut at: ModulePath, words: &[String], depth: usize) -> Option<ModulePath> {
        let Some((word, rest)) = words.split_first() else { return Some(at) };
        let below = child(&at, word);
        if self.modules.contains_key(&below) {
            return self.descend(below, rest, depth);
        }
        if let Some(alias) = self.aliases.get(&at).and_then(|aliases| aliases.get(word)) {
            let target = self.absolute(&at, &alias.words, Some(word), depth)?;
            return self.descend(target, rest, depth);
        }
        at.extend_from_slice(words);
        Some(at)
    }
}

/// Bound on `use` items that lead to one another.
const DEPTH: usize = 16;

fn root(file: &str) -> Option<&str> {
    let (directory, name) = file.rsplit_once('/')?;
    let is_root = name == "lib.rs" || name == "main.rs";
    (is_root && (directory.ends_with("/src") || directory.contains("/src/"))).then_some(directory)
}

fn is_below(file: &str, directory: &str) -> bool {
    file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; `lib.rs` and `main.rs` of the root are the crate itself.
fn module_path(root: &str, file: &str) -> ModulePath {
    let inside = file[root.len() + 1..].trim_end_matches(".rs");
    let mut words: ModulePath = inside.split('/').map(str::to_owned).collect();
    let is_named_by_directory = words.last().is_some_and(|last| last == "mod");
    let is_root = words.len() == 1 && (words[0] == "lib" || words[0] == "main");
    if is_named_by_directory || is_root {
        words.pop();
    }
    words
}

fn child(module: &[String], name: &str) -> ModulePath {
    let mut path = module.to_vec();
    path.push(name.to_owned());
    path
}

/// `(crate)`, `(super)`, `(in a::b)`: the inside of a visibility, as opposed to a tuple's fields.
fn is_restriction(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    let words = ["crate", "self", "super", "in"];
    let is_path_of_type = group.to_string().contains("::") && !is_ident(first.as_ref(), "in");
    words.iter().any(|word| is_ident(first.as_ref(), word)) && !is_path_of_type
}

/// Leaves out each item behind `#[cfg(test)]`, up to its body or semicolon; modules among them go into `tests`.
fn without_test_items(
    run: Vec<TokenTree>,
    module: &ModulePath,
    tests: &mut BTreeSet<ModulePath>,
) -> Vec<TokenTree> {
    let mut kept = Vec::with_capacity(run.len());
    let mut at = 0;
    while at < run.len() {
        let is_test = is_punct(run.get(at), '#')
            && run.get(at + 1).is_some_and(|group| group.to_string().replace(' ', "") == "[cfg(test)]");
        if !is_test {
            kept.push(run[at].clone());
            at += 1;
            continue;
        }
        let item = &run[at..];
        let ends = |token: &TokenTree| is_punct(Some(token), ';') || is_group(Some(token), Delimiter::Brace);
        let length = item.iter().position(ends).map_or(item.len(), |end| end + 1);
        let item = &item[..length];
        let declared = item.windows(2).find(|two| is_ident(two.first(), "mod"));
        tests.extend(declared.map(|two| child(module, &two[1].to_string())));
        at += length;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = sources
            .iter()
            .map(|(file, text)| Source::parse(&format!("a/src/{file}"), text).unwrap())
            .collect();
        let crates = Crate::all(&sources);
        let graph = crates[0].imports();
        let shown = |file: &str| file.trim_start_matches("a/src/").trim_end_matches(".rs").to_owned();
        graph
            .iter()
            .map(|(from, to, names)| {
                let names: Vec<&str> = names.names.iter().map(String::as_str).collect();
                format!("{}>{} {}", shown(from), shown(to), names.join(" "))
            })
            .collect()
    }

    #[test]
    fn paths_lead_to_the_file_that_has_the_item() {
        let b = ("b.rs", "pub mod d;\npub use d::E;\npub struct B;");
        let d = ("b/d.rs", "pub struct D;\npub struct E;");
        let cases: &[(&str, &str, &[&str])] = &[
            ("an item by its full path", "fn f(b: crate::b::B) {}", &["c>b B"]),
            ("a use tree", "use crate::{b::{B, d::D}};", &["c>b B", "c>b/d D"]),
            ("relative to the parent", "use super::b::B;", &["c>b B"]),
            ("an imported module", "use crate::b::d;\nfn f() { d::g() }", &["c>b/d d g"]),
            ("a renamed module", "use crate::b::d as x;\nfn f(d: x::D) {}", &["c>b/d D d"]),
            ("a re-export", "use crate::b::E;", &["c>b/d E"]),
            ("the library's own name", "use a::b::B;", &["c>b B"]),
            ("an inline module", "mod m { use super::super::b::B; }", &["c>b B"]),
            ("a macro's body", "macro_rules! m { () => { $crate::b::B }; }", &["c>b B"]),
            ("an item of the root", "use crate::Root;", &["c>lib Root"]),
            ("other crates", "use std::fs; use e::b::B; fn f() { fs::read(\"\") }", &[]),
            ("a visibility", "pub(in crate::b) struct C;", &[]),
            ("a module for tests", "#[cfg(test)] mod tests { use crate::b::B; }", &[]),
            ("an item for tests", "#[cfg(test)] use crate::b::B;", &[]),
            ("a file for tests", "#[cfg(test)] mod fake;", &[]),
            ("strings and comments", "// crate::b::B\nconst S: &str = \"crate::b::B\";", &[]),
        ];
        for (name, c, want) in cases {
            let root = ("lib.rs", "mod b; mod c; pub struct Root;");
            let fake = ("c/fake.rs", if name.contains("file") { "use crate::b::B;" } else { "" });
            assert_eq!(imports(&[b, d, ("c.rs", c), fake, root]), *want, "{name}");
        }
    }

    #[test]
    fn a_parent_is_named_by_its_child_and_the_reverse() {
        let child = ("b/d.rs", "use super::B; pub struct D;");
        let cases: &[(&str, &str, &[&str])] = &[
            ("declared only", "mod d; pub struct B;", &["b/d>b B"]),
            ("re-exported", "mod d; pub use d::D; pub struct B;", &["b/d>b B"]),
            ("used", "mod d; pub struct B { d: d::D }", &["b>b/d D", "b/d>b B"]),
        ];
        for (name, b, want) in cases {
            assert_eq!(imports(&[("b.rs", b), child, ("main.rs", "mod b;")]), *want, "{name}");
        }
    }

    #[test]
    fn each_root_is_a_crate_of_its_own() {
        let files =
            ["a/src/lib.rs", "a/src/main.rs", "a/src/x.rs", "a/src/bin/y/main.rs", "a/src/bin/y/z.rs"];
        let sources: Vec<Source> = files.iter().map(|file| Source::parse(file, "").unwrap()).collect();
        let crates = Crate::all(&sources);
        let found: Vec<(&str, Vec<&str>)> =
            crates.iter().map(|one| (one.source, one.files.keys().copied().collect())).collect();
        let want = [
            ("a/src", vec!["a/src/lib.rs", "a/src/main.rs", "a/src/x.rs"]),
            ("a/src/bin/y", vec!["a/src/bin/y/main.rs", "a/src/bin/y/z.rs"]),
        ];
        assert_eq!(found, want);
    }
}
