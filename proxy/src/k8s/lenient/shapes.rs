//! The fields in use of each kind, with their types. A field that the conversions to the model or to DNS start to read is
//! added here.

use super::super::{endpoint_slice::TRIGGER_TIME, endpoints::LEADER, tree::Tree};
use crate::k8s::object::Kind;

/// The type of a field.
#[derive(Debug)]
pub enum Shape {
    Text,
    /// Text that is a point in time.
    Time,
    /// All integers in use have 32 bits.
    Int,
    Bool,
    List(&'static Shape),
    /// Text by arbitrary names: labels, selectors.
    Texts,
    Fields(&'static [Field]),
}

pub type Field = (&'static str, Shape);

impl Shape {
    /// Go's zero value.
    pub fn zero(&self) -> Tree<'static> {
        match self {
            Self::Text | Self::Time => Tree::Text("".into()),
            Self::Int => Tree::Int(0),
            Self::Bool => Tree::Bool(false),
            Self::List(_) => Tree::List(Vec::new()),
            Self::Texts | Self::Fields(_) => Tree::Map(Vec::new()),
        }
    }

    pub fn describe(&self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Time => "a time",
            Self::Int => "a 32-bit integer",
            Self::Bool => "a boolean",
            Self::List(_) => "a list",
            Self::Texts | Self::Fields(_) => "a structure",
        }
    }
}

use Shape::{Bool, Fields, Int, List, Text, Texts, Time};

pub fn of(kind: Kind) -> &'static Shape {
    match kind {
        Kind::Service => &SERVICE,
        Kind::EndpointSlice => &ENDPOINT_SLICE,
        Kind::Endpoints => &ENDPOINTS,
        Kind::Node => &NODE,
        Kind::ServiceCidr => &SERVICE_CIDR,
        Kind::Namespace => &NAMED,
        Kind::Pod => &POD,
        Kind::ServiceImport => &SERVICE_IMPORT,
    }
}

const METADATA: Field = (
    "metadata",
    Fields(&[
        ("name", Text),
        ("namespace", Text),
        ("resourceVersion", Text),
        ("labels", Texts),
        ("creationTimestamp", Time),
        ("deletionTimestamp", Time),
        ("annotations", Fields(&[(TRIGGER_TIME, Text), (LEADER, Text)])),
    ]),
);

/// An object without other fields in use.
pub static NAMED: Shape = Fields(&[METADATA]);

static SERVICE: Shape =
    Fields(&[METADATA, ("spec", Fields(SERVICE_SPEC)), ("status", Fields(SERVICE_STATUS))]);

const SERVICE_SPEC: &[Field] = &[
    ("type", Text),
    ("clusterIP", Text),
    ("clusterIPs", List(&Text)),
    ("externalIPs", List(&Text)),
    ("externalName", Text),
    ("externalTrafficPolicy", Text),
    ("healthCheckNodePort", Int),
    ("internalTrafficPolicy", Text),
    ("ipFamilies", List(&Text)),
    ("loadBalancerSourceRanges", List(&Text)),
    ("ports", List(&Fields(&[("name", Text), ("nodePort", Int), ("port", Int), ("protocol", Text)]))),
    ("selector", Texts),
    ("sessionAffinity", Text),
    ("sessionAffinityConfig", Fields(&[("clientIP", Fields(&[("timeoutSeconds", Int)]))])),
];

const SERVICE_STATUS: &[Field] =
    &[("loadBalancer", Fields(&[("ingress", List(&Fields(&[("ip", Text), ("ipMode", Text)])))]))];

static ENDPOINT_SLICE: Shape = Fields(&[
    METADATA,
    ("addressType", Text),
    ("endpoints", List(&Fields(ENDPOINT))),
    ("ports", List(&Fields(&[("name", Text), ("port", Int), ("protocol", Text)]))),
]);

const ENDPOINT: &[Field] = &[
    ("addresses", List(&Text)),
    ("conditions", Fields(&[("ready", Bool), ("serving", Bool), ("terminating", Bool)])),
    (
        "hints",
        Fields(&[
            ("forNodes", List(&Fields(&[("name", Text)]))),
            ("forZones", List(&Fields(&[("name", Text)]))),
        ]),
    ),
    ("hostname", Text),
    ("nodeName", Text),
    TARGET_REF,
    ("zone", Text),
];

const TARGET_REF: Field = ("targetRef", Fields(&[("kind", Text), ("name", Text)]));

const ENDPOINT_ADDRESSES: Shape =
    List(&Fields(&[("hostname", Text), ("ip", Text), ("nodeName", Text), TARGET_REF]));

static ENDPOINTS: Shape = Fields(&[
    METADATA,
    (
        "subsets",
        List(&Fields(&[
            ("addresses", ENDPOINT_ADDRESSES),
            ("notReadyAddresses", ENDPOINT_ADDRESSES),
            ("ports", List(&Fields(&[("name", Text), ("port", Int), ("protocol", Text)]))),
        ])),
    ),
]);

static NODE: Shape = Fields(&[
    METADATA,
    ("spec", Fields(&[("podCIDRs", List(&Text)), ("taints", List(&Fields(&[("key", Text)])))])),
    ("status", Fields(&[("addresses", List(&Fields(&[("address", Text), ("type", Text)])))])),
]);

static SERVICE_CIDR: Shape = Fields(&[METADATA, ("spec", Fields(&[("cidrs", List(&Text))]))]);

static SERVICE_IMPORT: Shape = Fields(&[
    METADATA,
    (
        "spec",
        Fields(&[
            ("type", Text),
            ("ips", List(&Text)),
            ("ports", List(&Fields(&[("name", Text), ("port", Int), ("protocol", Text)]))),
        ]),
    ),
]);

static POD: Shape = Fields(&[
    METADATA,
    ("status", Fields(&[("phase", Text), ("podIP", Text), ("podIPs", List(&Fields(&[("ip", Text)])))])),
]);
