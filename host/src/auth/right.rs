//! The kinds of rights there are. What they allow is decided in `policy`, who has them is written in grants.

/// A kind of right, named as the key of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// `publish`
    Publish,
    /// `subscribe`
    Subscribe,
    /// `admin`
    Admin,
    /// `consume`
    Consume,
    /// `upload`
    Upload,
    /// `use`
    Use,
    /// `metrics`
    Metrics,
}

impl Right {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Publish,
        Self::Subscribe,
        Self::Admin,
        Self::Consume,
        Self::Upload,
        Self::Use,
        Self::Metrics,
    ];

    /// The key of a grant that gives it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Admin => "admin",
            Self::Consume => "consume",
            Self::Upload => "upload",
            Self::Use => "use",
            Self::Metrics => "metrics",
        }
    }
}
