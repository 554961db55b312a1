//! Who is acting, and whether they may: from a certificate to a [`Principal`](crate::domain::Principal), from the grants of
//! the configuration to a yes or a refusal ([`Policy`]), and from what somebody asks for to the rights it takes
//! ([`rights`], the one place that says so). Pure but for the counters of refusals and the news of a reload. TLS itself (who
//! signed a certificate, whether it is still valid) is checked before anything comes here.

mod certificate;
mod grant;
mod policy;
mod right;
pub mod rights;

pub use certificate::{PrincipalFromCertError, end_of, principal_of};
pub use grant::Grant;
pub use policy::{Action, Denied, Policy};
pub use right::Right;
