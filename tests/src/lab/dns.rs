//! DNS in the lab: the cluster's DNS Service, resolvers of pods and clients under load.

pub mod clients;
pub mod name_service;
pub mod resolv_conf;
pub mod resolver;
