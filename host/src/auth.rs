//! Who is acting, and whether they may: from a certificate to a [`Principal`](crate::domain::Principal), and
//! from the grants of the configuration to a yes or a refusal. Pure but for the counters of refusals. TLS
//! itself (who signed a certificate, whether it is still valid) is checked before anything comes here.

mod certificate;
mod grant;
mod policy;

pub use certificate::{PrincipalFromCertError, principal_of};
pub use grant::Grant;
pub use policy::{Action, Denied, DeniedCounts, Policy, Right, check_attach, check_subscription};
