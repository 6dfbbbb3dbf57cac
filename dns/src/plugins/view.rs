//! `view NAME`, with `expr EXPRESSION` in its body: the block serves only queries for which all expressions are true.

mod expression;
mod syntax;
#[cfg(test)]
mod tests;

pub(crate) use expression::Asked;
use expression::Expression;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The label `view` of metrics.
    pub name: String,
    expressions: Vec<Expression>,
}

impl View {
    /// Whether the query is served. An expression that fails is false, as in CoreDNS.
    pub(crate) fn serves(&self, asked: &Asked<'_>) -> bool {
        self.expressions.iter().all(|expression| expression.is_true(asked))
    }
}

impl Directive for View {
    const NAME: &'static str = "view";
    const SUMMARY: &'static str = "expressions that choose the queries of the block: `name()`, `type()`, `class()`, \
        `client_ip()`, `port()`, `proto()`, `id()`, `opcode()`, `do()`, `size()`, `bufsize()`, `server_ip()`, `server_port()`, \
        `incidr()`, `metadata()` (empty), literals, lists and operators";
    const OPTIONS: &'static [&'static str] = &["expr"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let [name] = statement.exactly("view NAME")?;
        let mut view = Self { name: name.text.clone(), expressions: Vec::new() };
        for option in &statement.body {
            option.no_body()?;
            if option.name.text != "expr" {
                return Err(statement.unknown_option(option));
            }
            let text = option.words.iter().map(text).collect::<Vec<_>>().join(" ");
            let expression = Expression::parse(&text);
            view.expressions.push(expression.map_err(|problem| option.refuse(problem))?);
        }
        *setting = Some(view);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

/// Double quotes around a whole word belong to the Corefile, as in CoreDNS.
fn text(word: &Word) -> &str {
    &word.text
}
