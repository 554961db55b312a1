//! Who is acting, and whether they may: from a certificate to a [`Principal`](crate::domain::Principal), from the grants of
//! the configuration to a yes or a refusal ([`Policy`]), and from what somebody asks for to the rights it takes
//! ([`authorize`], the one place that says so; a policy answers nobody else). Pure but for the counters of refusals and the news of a
//! reload. TLS itself (who signed a certificate, whether it is still valid) is checked before anything comes here.

pub mod authorize;
mod certificate;
mod denied;
mod policy;
mod rights;

pub use certificate::{PrincipalFromCertError, end_of, principal_of};
pub use denied::Denied;
pub use policy::Policy;
pub use rights::{Grant, Right};
