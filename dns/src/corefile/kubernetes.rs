//! `kubernetes [ZONES...]`

use super::{
    CorefileError,
    arguments::{zones, zones_or},
    lex::Word,
    tree::Directive,
};
use crate::config::{Kubernetes, PodsMode, Zones};

const LONGEST_TTL: u32 = 3600;

pub(super) fn read(directive: &Directive, block: &Zones) -> Result<Kubernetes, CorefileError> {
    let mut kubernetes = Kubernetes::new(zones_or(&directive.words, block.clone())?);
    for option in &directive.body {
        option.no_body()?;
        let known = read_selection(&mut kubernetes, option)?
            || read_answers(&mut kubernetes, option)?
            || read_api_server(&mut kubernetes, option)?;
        if !known {
            return Err(directive.unknown_option(option));
        }
    }
    if let (false, Some(selector)) = (kubernetes.namespaces.is_empty(), &kubernetes.namespace_labels) {
        return Err(directive.refuse(format!(
            "`namespaces` and `namespace_labels {selector}` both choose namespaces; keep one of them"
        )));
    }
    Ok(kubernetes)
}

/// Which objects count. False: it is none of these.
fn read_selection(kubernetes: &mut Kubernetes, option: &Directive) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "namespaces" => {
            kubernetes.namespaces = some_words(option, "namespaces NAMESPACE...")?;
        }
        "labels" => kubernetes.labels = Some(some_words(option, "labels SELECTOR")?.join(" ")),
        "namespace_labels" => {
            kubernetes.namespace_labels = Some(some_words(option, "namespace_labels SELECTOR")?.join(" "));
        }
        "noendpoints" => kubernetes.no_endpoints = switch(option)?,
        "ignore" => match option.words.as_slice() {
            [what] if what.is("empty_service") => kubernetes.ignore_empty_service = true,
            _ => return Err(option.misused("ignore empty_service")),
        },
        "multicluster" => kubernetes.multicluster = zones(&option.words)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// What is answered about them.
fn read_answers(kubernetes: &mut Kubernetes, option: &Directive) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "pods" => kubernetes.pods = pods(option)?,
        "endpoint_pod_names" => kubernetes.endpoint_pod_names = switch(option)?,
        "zonal" => kubernetes.zonal = switch(option)?,
        "fallthrough" => kubernetes.fallthrough = option.fallthrough()?,
        "ttl" => {
            let [word] = option.exactly("ttl SECONDS")?;
            kubernetes.ttl = word.number()?;
            if kubernetes.ttl > LONGEST_TTL {
                return Err(word.refuse("write a TTL from 0 to 3600"));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn read_api_server(kubernetes: &mut Kubernetes, option: &Directive) -> Result<bool, CorefileError> {
    let api_server = &mut kubernetes.api_server;
    match option.name.text.as_str() {
        "endpoint" => {
            let [word] = option.exactly("endpoint URL")?;
            api_server.endpoint = Some(word.text.clone());
        }
        "kubeconfig" => match option.words.as_slice() {
            [file] => api_server.kubeconfig = Some(file.path()),
            [file, context] => {
                api_server.kubeconfig = Some(file.path());
                api_server.context = Some(context.text.clone());
            }
            _ => return Err(option.misused("kubeconfig FILE [CONTEXT]")),
        },
        "tls" => {
            let files = option.exactly::<3>("tls CERTIFICATE KEY AUTHORITY")?;
            api_server.tls = Some(files.each_ref().map(Word::path));
        }
        "startup_timeout" => {
            kubernetes.startup_timeout = option.exactly::<1>("startup_timeout DURATION")?[0].duration()?;
        }
        // One watch per kind needs no throttle; the numbers must be numbers all the same.
        "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
            let _: f32 = option.exactly::<1>(&format!("{} NUMBER", option.name.text))?[0].number()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn pods(option: &Directive) -> Result<PodsMode, CorefileError> {
    let [word] = option.exactly("pods disabled|insecure|verified")?;
    match word.text.as_str() {
        "disabled" => Ok(PodsMode::Disabled),
        "insecure" => Ok(PodsMode::Insecure),
        "verified" => Ok(PodsMode::Verified),
        _ => Err(word.refuse("`pods` is `disabled`, `insecure` or `verified`")),
    }
}

fn switch(option: &Directive) -> Result<bool, CorefileError> {
    option.no_words().map(|()| true)
}

fn some_words(option: &Directive, usage: &str) -> Result<Vec<String>, CorefileError> {
    match option.words.as_slice() {
        [] => Err(option.misused(usage)),
        words => Ok(words.iter().map(|word| word.text.clone()).collect()),
    }
}
