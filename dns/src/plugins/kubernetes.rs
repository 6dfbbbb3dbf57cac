//! `kubernetes [ZONES...]`: names of Services, endpoints and pods. The answers are made in `cluster`.

use super::directive::{Directive, IneffectiveOption, listed};
use crate::{
    cluster::name::{Name, is_reverse},
    config::{Certificates, Kubernetes, PodsMode, Selector, SelectorError, Zones},
    corefile::{CorefileError, Statement, Word, zones, zones_or},
};

const NO_THROTTLE: &str = "one watch for each kind of object needs no limit";

impl Directive for Kubernetes {
    const NAME: &'static str = "kubernetes";
    const SUMMARY: &'static str =
        "names of Services, endpoints and pods, and of Services of several clusters";
    const OPTIONS: &'static [&'static str] = &[
        "endpoint",
        "kubeconfig",
        "tls",
        "namespaces",
        "namespace_labels",
        "labels",
        "pods",
        "endpoint_pod_names",
        "ttl",
        "noendpoints",
        "fallthrough",
        "ignore",
        "zonal",
        "multicluster",
    ];
    const INEFFECTIVE: &'static [(&'static str, &'static str)] = &[
        ("startup_timeout", "the server answers at once, SERVFAIL until the cluster is known"),
        ("apiserver_qps", NO_THROTTLE),
        ("apiserver_burst", NO_THROTTLE),
        ("apiserver_max_inflight", NO_THROTTLE),
    ];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        *setting = Some(parse(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }

    fn ineffective(statement: &Statement) -> Vec<IneffectiveOption> {
        let endpoints = statement.body.iter().filter(|option| option.name.text == "endpoint");
        let others = endpoints.flat_map(|option| option.words.iter().skip(1));
        let others = others.map(|url| IneffectiveOption::new(url, "only the first endpoint counts"));
        listed(Self::INEFFECTIVE, statement).into_iter().chain(others).collect()
    }
}

const MAX_TTL: u32 = 3600;

fn parse(statement: &Statement, block: &Zones) -> Result<Kubernetes, CorefileError> {
    let mut kubernetes = Kubernetes::new(zones_or(&statement.words, block.clone())?);
    if kubernetes.zones.0.iter().all(|zone| is_reverse(&Name::from(&**zone))) {
        return Err(statement
            .refuse("addresses lead to names of Services; add the zone of those, such as `cluster.local`"));
    }
    for option in &statement.body {
        option.no_body()?;
        let known = read_selection(&mut kubernetes, option)?
            || read_answers(&mut kubernetes, option)?
            || read_api_server(&mut kubernetes, option)?;
        if !known {
            return Err(statement.unknown_option(option));
        }
    }
    refuse_contradictions(&kubernetes, statement)?;
    Ok(kubernetes)
}

fn refuse_contradictions(kubernetes: &Kubernetes, statement: &Statement) -> Result<(), CorefileError> {
    let option =
        |name: &str| statement.body.iter().find(|option| option.name.text == name).unwrap_or(statement);
    if !kubernetes.namespaces.is_empty() && kubernetes.namespace_labels.is_some() {
        let problem = "`namespaces` and `namespace_labels` exclude each other; remove one of them";
        return Err(option("namespace_labels").refuse(problem));
    }
    if let Some(zone) = kubernetes.multicluster.0.iter().find(|zone| !kubernetes.zones.0.contains(zone)) {
        let problem = format!("`{zone}` is no zone of `kubernetes`; add it to those on its line");
        return Err(option("multicluster").refuse(problem));
    }
    if kubernetes.zonal && kubernetes.no_endpoints {
        let problem = "`zonal` names endpoints, and `noendpoints` removes them; remove one of them";
        return Err(option("zonal").refuse(problem));
    }
    Ok(())
}

/// Reads an option that selects objects. Returns `false` for another option.
fn read_selection(kubernetes: &mut Kubernetes, option: &Statement) -> Result<bool, CorefileError> {
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
            [condition] if condition.is("empty_service") => kubernetes.ignore_empty_service = true,
            _ => return Err(option.misused("ignore empty_service")),
        },
        "multicluster" => kubernetes.multicluster = zones(&option.words)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads an option of the answers. Returns `false` for another option.
fn read_answers(kubernetes: &mut Kubernetes, option: &Statement) -> Result<bool, CorefileError> {
    match option.name.text.as_str() {
        "pods" => kubernetes.pods = pods(option)?,
        "endpoint_pod_names" => kubernetes.endpoint_pod_names = switch(option)?,
        "zonal" => kubernetes.zonal = switch(option)?,
        "fallthrough" => kubernetes.fallthrough = option.fallthrough()?,
        "ttl" => {
            let [word] = option.exactly("ttl SECONDS")?;
            kubernetes.ttl = word.number()?;
            if kubernetes.ttl > MAX_TTL {
                return Err(word.refuse("write a TTL from 0 to 3600"));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn read_api_server(kubernetes: &mut Kubernetes, option: &Statement) -> Result<bool, CorefileError> {
    let api_server = &mut kubernetes.api_server;
    match option.name.text.as_str() {
        "endpoint" => {
            // As in CoreDNS, only the first counts.
            let word = option.words.first().ok_or_else(|| option.misused("endpoint URL"))?;
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
        // The server answers before the first sync: SERVFAIL for the cluster's names, all others as usual.
        "startup_timeout" => drop(option.exactly::<1>("startup_timeout DURATION")?[0].duration()?),
        // Each kind of object has one watch, which needs no throttle; the values are only validated.
        "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
            let [word] = option.exactly(&format!("{} NUMBER", option.name.text))?;
            if word.number::<f32>()?.is_sign_negative() {
                return Err(word.refuse("a limit is not negative"));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn pods(option: &Statement) -> Result<PodsMode, CorefileError> {
    let [word] = option.exactly("pods disabled|insecure|verified")?;
    match word.text.as_str() {
        "disabled" => Ok(PodsMode::Disabled),
        "insecure" => Ok(PodsMode::Insecure),
        "verified" => Ok(PodsMode::Verified),
        _ => Err(word.refuse("`pods` is `disabled`, `insecure` or `verified`")),
    }
}

fn switch(option: &Statement) -> Result<bool, CorefileError> {
    option.no_words().map(|()| true)
}

fn selector(option: &Statement) -> Result<Selector, CorefileError> {
    let words = some_words(option, &format!("{} SELECTOR", option.name.text))?;
    words.join(" ").parse().map_err(|error: SelectorError| option.refuse(error.to_string()))
}

fn some_words(option: &Statement, usage: &str) -> Result<Vec<String>, CorefileError> {
    match option.words.as_slice() {
        [] => Err(option.misused(usage)),
        words => Ok(words.iter().map(|word| word.text.clone()).collect()),
    }
}
