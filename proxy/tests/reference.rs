//! `docs/configuration.md` lists every flag of `portreeve run`.
//!
//! `UPDATE_EXPECT=1 cargo test -p proxy --test reference` writes the page.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use clap::{Arg, CommandFactory as _};
use expect_test::expect_file;
use proxy::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

const INTRODUCTION: &str = "# Configuration

Every flag of `portreeve run`, which is the agent. kube-proxy's flags have kube-proxy's names, and `--config` takes its file
(`kubeproxy.config.k8s.io/v1alpha1`) unchanged: a field of the file counts like its flag. `--corefile` takes CoreDNS's file
unchanged, see [corefile.md](corefile.md). `portreeve run --help` prints the same.

This page is generated: `UPDATE_EXPECT=1 cargo test -p proxy --test reference`.

| flag | default | meaning |
| --- | --- | --- |
";

fn row(arg: &Arg) -> String {
    let mut flag = format!("`--{}", arg.get_long().unwrap());
    if arg.get_action().takes_values() {
        let names = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
        let _ = write!(flag, " {names}");
    }
    flag.push('`');
    for alias in arg.get_visible_aliases().unwrap_or_default() {
        let _ = write!(flag, ", `--{alias}`");
    }
    let defaults = arg.get_default_values().iter().filter(|_| arg.get_action().takes_values());
    let defaults: Vec<_> = defaults.map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set() && arg.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        let _ = write!(help, " (one of {})", values.join(", "));
    }
    let cell = |text: &str| text.replace('|', "\\|");
    format!("| {} | {} | {} |\n", cell(&flag), defaults.join(", "), cell(&help))
}

#[test]
fn the_page_lists_every_flag_of_the_agent() {
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let mut arguments: Vec<&Arg> =
        run.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_long().is_some()).collect();
    arguments.sort_by_key(|arg| arg.get_long());
    let page: String = arguments.into_iter().map(row).collect();
    expect_file![PAGE].assert_eq(&(INTRODUCTION.to_owned() + &page));
}
