//! Scenarios that several stories share: frontends dialled from outside the cluster, rollouts of the examples.

pub mod outside;
pub mod rollout;
