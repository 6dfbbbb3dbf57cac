//! The directives of a server block, one file each: name, options, configuration, behaviour, and the options that are
//! refused or have no effect.
//!
//! ```text
//! corefile (syntax) ─> read ─> directives! (below) ─> ServerBlock ─> serve
//! ```
//!
//! A directive is added by its file, the `mod` of it, and one line in `directives!`. A directive that is missing there
//! is unused code, which does not compile in this room. `kubernetes`, `forward` and `cache` only read their
//! configuration here; their behaviour lies in the rooms `cluster` and `resolve`, their values in `config`.

#![deny(dead_code)]

pub mod acl;
mod alternate;
mod any;
mod auto;
pub mod autopath;
mod bind;
mod bufsize;
mod cache;
pub mod chaos;
pub mod check;
mod config;
mod directive;
pub mod dns64;
pub mod dnstap;
mod errors;
mod file;
mod forward;
pub mod header;
pub mod health;
pub mod hosts;
mod https;
pub mod k8s_external;
mod kept_zones;
mod kubernetes;
pub mod loadbalance;
mod local;
pub mod log;
mod loop_detection;
mod minimal;
pub mod nsid;
mod prometheus;
mod read;
mod ready;
pub mod reference;
pub mod reload;
pub mod rewrite;
mod secondary;
pub mod template;
pub mod tls;
pub mod transfer;
mod unsupported;
pub mod view;
pub mod whoami;

use std::net::SocketAddr;

pub use config::Config;
pub(crate) use directive::{IneffectiveOption, LocalPlugin, PluginContext};
pub use read::{ineffective_options, read, read_source};

use crate::{
    config::{Alternate, BindAddress, Cache, Forward, Kubernetes, Listen, Zones},
    corefile::{CorefileError, Statement},
};
use acl::Acl;
use auto::Auto;
use autopath::Autopath;
use chaos::Chaos;
use directive::{Directive, Each};
use dns64::Dns64;
use dnstap::Dnstap;
use file::ZoneFile;
use header::Header;
use health::Health;
use hosts::Hosts;
use k8s_external::External;
use loadbalance::Loadbalance;
use log::Log;
use nsid::Nsid;
use reload::Reload;
use rewrite::Rewrite;
use secondary::Secondary;
use template::Template;
use tls::ServerTls;
use transfer::Transfer;
use view::View;

/// Generates [`ServerBlock`] and [`DIRECTIVES`] from one list, so that neither can lack a directive of the other.
macro_rules! directives {
    ($($field:ident: $setting:ty = $directive:ty,)*) => {
        /// One block of a Corefile: the zones it serves, and the setting of each directive. Of all blocks that listen
        /// at an address, the one with the longest matching zone answers.
        #[derive(Debug, Clone, PartialEq)]
        pub struct ServerBlock {
            pub listens: Vec<Listen>,
            $(pub $field: $setting,)*
        }

        impl ServerBlock {
            /// A block without directives.
            pub fn new(listens: Vec<Listen>) -> Self {
                Self { listens, $($field: <$directive as Directive>::absent(),)* }
            }
        }

        /// Every directive that is supported.
        pub(crate) const DIRECTIVES: &[Entry] = &[$(Entry {
            name: <$directive as Directive>::NAME,
            summary: <$directive as Directive>::SUMMARY,
            options: <$directive as Directive>::OPTIONS,
            ineffective_options: <$directive as Directive>::INEFFECTIVE,
            is_repeatable: <$directive as Directive>::IS_REPEATABLE,
            read: |block, statement, zones| {
                <$directive as Directive>::read(&mut block.$field, statement, zones)
            },
            is_enabled: |block| <$directive as Directive>::is_enabled(&block.$field),
            start: |block, context| <$directive as Directive>::start(&block.$field, context),
            ineffective: <$directive as Directive>::ineffective,
        },)*];
    };
}

// Field of the server block: its type = the directive. Local plugins answer in this order.
directives! {
    minimal_any: bool = any::Any,
    local: bool = local::Local,
    templates: Vec<Template> = Each<Template>,
    hosts: Option<Hosts> = Hosts,
    external: Option<External> = External,
    kubernetes: Option<Kubernetes> = Kubernetes,
    forwards: Vec<Forward> = Each<Forward>,
    alternates: Vec<Alternate> = Alternate,
    cache: Option<Cache> = Cache,
    rewrites: Vec<Rewrite> = Each<Rewrite>,
    bind: Vec<BindAddress> = bind::Bind,
    max_udp_payload: u16 = bufsize::Bufsize,
    logs: Vec<Log> = Each<Log>,
    errors: () = errors::Errors,
    health: Option<Health> = Health,
    ready: Option<SocketAddr> = ready::Ready,
    metrics: Option<SocketAddr> = prometheus::Prometheus,
    reload: Option<Reload> = Reload,
    loadbalance: Option<Loadbalance> = Loadbalance,
    detect_loops: bool = loop_detection::Loop,
    minimal: bool = minimal::Minimal,
    acls: Vec<Acl> = Each<Acl>,
    chaos: Option<Chaos> = Chaos,
    header: Header = Header,
    nsid: Option<Nsid> = Nsid,
    whoami: bool = whoami::Whoami,
    files: Vec<ZoneFile> = Each<ZoneFile>,
    auto: Option<Auto> = Auto,
    secondaries: Vec<Secondary> = Each<Secondary>,
    transfers: Vec<Transfer> = Each<Transfer>,
    taps: Vec<Dnstap> = Each<Dnstap>,
    autopath: Option<Autopath> = Autopath,
    view: Option<View> = View,
    dns64: Option<Dns64> = Dns64,
    tls: Option<ServerTls> = ServerTls,
    https: () = https::Https,
}

/// A directive as functions of the server block.
pub(crate) struct Entry {
    pub name: &'static str,
    pub summary: &'static str,
    pub options: &'static [&'static str],
    /// Options without effect, each with the reason.
    pub ineffective_options: &'static [(&'static str, &'static str)],
    pub is_repeatable: bool,
    pub read: fn(&mut ServerBlock, &Statement, &Zones) -> Result<(), CorefileError>,
    pub is_enabled: fn(&ServerBlock) -> bool,
    pub start: fn(&ServerBlock, &PluginContext<'_>) -> Option<Box<dyn LocalPlugin>>,
    pub ineffective: fn(&Statement) -> Vec<IneffectiveOption>,
}

impl ServerBlock {
    /// CoreDNS's names of the directives in use.
    pub fn directives(&self) -> Vec<&'static str> {
        let enabled = DIRECTIVES.iter().filter(|directive| (directive.is_enabled)(self));
        enabled.map(|directive| directive.name).collect()
    }

    /// The plugins of the block that answer by themselves, in the order in which they are asked. Must be called within
    /// a runtime.
    pub(crate) fn local_plugins(&self, context: &PluginContext<'_>) -> Vec<Box<dyn LocalPlugin>> {
        DIRECTIVES.iter().filter_map(|directive| (directive.start)(self, context)).collect()
    }
}
