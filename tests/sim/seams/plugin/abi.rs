//! The records of `wit/*.wit` as scripted plugins take and give them, with the names of `host/src/plugin/abi.rs`.

/// `types.header`, going in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// `types.event`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) topic: &'a str,
    pub(super) sequence: u64,
    pub(super) time: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) content_type: Option<&'a str>,
    pub(super) headers: &'a [Header<'a>],
    pub(super) payload: &'a [u8],
}

/// `types.header-set`.
#[derive(Clone, Debug)]
pub(super) enum HeaderSet {
    None,
    All,
    Named(Vec<String>),
}

/// `types.wants`.
#[derive(Clone, Debug)]
pub(super) struct Wants {
    pub(super) headers: HeaderSet,
    pub(super) payload: bool,
}

/// `filtering.match`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) event: u32,
    pub(super) rule: u32,
}

/// `types.header`, coming out.
#[derive(Clone, Debug)]
pub(super) struct HeaderOut {
    pub(super) name: String,
    pub(super) value: String,
}

/// `transforming.output`.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) key: Option<Vec<u8>>,
    pub(super) content_type: Option<String>,
    pub(super) headers: Vec<HeaderOut>,
    pub(super) payload: Vec<u8>,
}

/// `transforming.emitted`.
#[derive(Clone, Debug)]
pub(super) struct Emitted {
    pub(super) output: Option<String>,
    pub(super) event: Output,
}

/// `transforming.outcome`.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Keep,
    Drop,
    Replace(Output),
    Emit(Vec<Emitted>),
}

/// `transforming.failure`.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Reject(String),
    Retry(String),
}
