//! Scenarios shared by several stories: frontends dialled from outside the cluster, rollouts of the examples.

pub mod outside;
pub mod rollout;
