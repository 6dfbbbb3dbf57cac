//! `kubernetes [ZONES...]`

use super::{CorefileError, arguments::zones_or, lexer::Word, tree::Directive};
use crate::{
    cluster::name::{Name, is_reverse},
    config::{Certificates, Kubernetes, PodsMode, Selector, SelectorError, Zones},
};

const LONGEST_TTL: u32 = 3600;

pub(super) fn read(directive: &Directive, block: &Zones) -> Result<Kubernetes, CorefileError> {
    let mut kubernetes = Kubernetes::new(zones_or(&directive.words, block.clone())?);
    if kubernetes.zones.0.iter().all(|zone| is_reverse(&Name::from(&**zone))) {
        return Err(directive
            .refuse("addresses lead to names of Services; add the zone of those, such as `cluster.local`"));
    }
    for option in &directive.body {
        option.no_body()?;
        let known = read_selection(&mut kubernetes, option)?
            || read_answers(&mut kubernetes, option)?
            || read_api_server(&mut kubernetes, option)?;
        if !known {
            return Err(directive.unknown_option(option));
        }
    }
    Ok(kubernetes)
}

/// Which objects count. False: it is none of these.
fn read_selection(kubernetes: &mut Kubernetes, option: &Directive) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "namespaces" => {
            kubernetes.namespaces = some_words(option, "namespaces NAMESPACE...")?;
        }
        "labels" => {
            kubernetes.labels = Some(selector(option)?);
        }
        "namespace_labels" => {
            kubernetes.namespace_labels = Some(selector(option)?);
        }
        "noendpoints" => kubernetes.no_endpoints = switch(option)?,
        "ignore" => match option.words.as_slice() {
            [what] if what.is("empty_service") => kubernetes.ignore_empty_service = true,
            _ => return Err(option.misused("ignore empty_service")),
        },
        "multicluster" => {
            return Err(option.refuse("`multicluster` is not supported; remove it and its zone"));
        }
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
                (api_server.kubeconfig, api_server.context) = (Some(file.path()), Some(context.text.clone()));
            }
            _ => return Err(option.misused("kubeconfig FILE [CONTEXT]")),
        },
        "tls" => {
            let [certificate, key, authority] = option.exactly("tls CERTIFICATE KEY AUTHORITY")?;
            let [certificate, key, authority] = [certificate, key, authority].map(Word::path);
            api_server.tls = Some(Certificates { certificate, key, authority });
        }
        // Answers begin at once: SERVFAIL for the cluster until it is known, the rest as ever.
        "startup_timeout" => drop(option.exactly::<1>("startup_timeout DURATION")?[0].duration()?),
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

fn selector(option: &Directive) -> Result<Selector, CorefileError> {
    let words = some_words(option, &format!("{} SELECTOR", option.name.text))?;
    words.join(" ").parse().map_err(|error: SelectorError| option.refuse(error.to_string()))
}

fn some_words(option: &Directive, usage: &str) -> Result<Vec<String>, CorefileError> {
    match option.words.as_slice() {
        [] => Err(option.misused(usage)),
        words => Ok(words.iter().map(|word| word.text.clone()).collect()),
    }
}
