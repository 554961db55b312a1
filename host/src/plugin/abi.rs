//! The records of `wit/*.wit` as wasmtime lowers and lifts them. What goes in borrows from the event, so that
//! lowering is the only copy. That these match the WIT is checked when a component is loaded, against the
//! component's own types.

use wasmtime::component::{ComponentType, Lift, Lower};

/// `types.header`, going in.
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Header<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// `types.event`.
#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Event<'a> {
    pub(super) topic: &'a str,
    pub(super) sequence: u64,
    pub(super) time: u64,
    pub(super) key: Option<&'a [u8]>,
    #[component(name = "content-type")]
    pub(super) content_type: Option<&'a str>,
    pub(super) headers: &'a [Header<'a>],
    pub(super) payload: &'a [u8],
}

/// `types.header-set`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum HeaderSet {
    #[component(name = "none")]
    None,
    #[component(name = "all")]
    All,
    #[component(name = "named")]
    Named(Vec<String>),
}

/// `types.wants`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Wants {
    pub(super) headers: HeaderSet,
    pub(super) payload: bool,
}

/// `filtering.match`.
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Match {
    pub(super) event: u32,
    pub(super) rule: u32,
}

/// `types.header`, coming out.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct HeaderOut {
    pub(super) name: String,
    pub(super) value: String,
}

/// `transforming.output`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Output {
    pub(super) key: Option<Vec<u8>>,
    #[component(name = "content-type")]
    pub(super) content_type: Option<String>,
    pub(super) headers: Vec<HeaderOut>,
    pub(super) payload: Vec<u8>,
}

/// `transforming.emitted`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Emitted {
    pub(super) output: Option<String>,
    pub(super) event: Output,
}

/// `transforming.outcome`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Outcome {
    #[component(name = "keep")]
    Keep,
    #[component(name = "drop")]
    Drop,
    #[component(name = "replace")]
    Replace(Output),
    #[component(name = "emit")]
    Emit(Vec<Emitted>),
}

/// `transforming.failure`.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Failure {
    #[component(name = "reject")]
    Reject(String),
    #[component(name = "retry")]
    Retry(String),
}

/// Parameters of `configure`.
pub(super) type ConfigureParams<'a> = (&'a str,);
/// Result of `configure`.
pub(super) type Configured = (Result<(u32, Wants), String>,);
/// Parameters of `release`.
pub(super) type ReleaseParams = (u32,);
/// Parameters of `evaluate`.
pub(super) type EvaluateParams<'a> = (&'a [Event<'a>], &'a [u32]);
/// Result of `evaluate`.
pub(super) type Evaluated = (Vec<Match>,);
/// Parameters of `apply`.
pub(super) type ApplyParams<'a> = (u32, &'a [Event<'a>]);
/// Result of `apply`.
pub(super) type Applied = (Vec<Result<Outcome, Failure>>,);
