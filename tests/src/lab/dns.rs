//! DNS in the lab: the cluster's DNS Service, resolvers of pods, upstreams, and clients under load.

pub mod clients;
pub mod flood;
pub mod name_service;
pub mod resolv_conf;
pub mod resolver;
pub mod stub;
pub mod upstream;
