//! What one can do about an error, in words of the command line: which command or flag helps. Said beside the error, where a
//! command prints it. The broker and the libraries below name none of them, since many who read what they say sit before
//! something else.

use std::borrow::Cow;

use tidegate_client::{ErrorCode, PublishError, SubscribeError};

use super::admin_client::ApiError;
use super::failed_connection::FailedConnection;
use crate::admin::ErrorResponse;
use crate::broker::StartError;
use crate::config::{ConfigError, Warning};
use crate::domain::{plain_lines, plain_text};
use crate::pki::PkiError;
use crate::store::{Damage, OpenError, ReadError};

const ACCEPT_LOSS: &str =
    "`tidegate serve --accept-loss` gives up what is damaged, and goes on without it";

/// The lines that tell of the error that ends a command, without the last line's end.
pub(super) fn told(error: &anyhow::Error) -> String {
    let words: Vec<String> = error.chain().map(words).collect();
    let words = words.join(": ");
    match of(error) {
        Some(hint) => format!("error: {words}\nhint: {hint}"),
        None => format!("error: {words}"),
    }
}

// What is wrong with a file may take several lines. What a broker says is one, whatever it quotes.
fn words(cause: &(dyn std::error::Error + 'static)) -> String {
    let text = cause.to_string();
    match cause.is::<ConfigError>() || cause.is::<OpenError>() || cause.is::<StartError>() {
        true => plain_lines(&text).into_owned(),
        false => plain_text(&text).into_owned(),
    }
}

/// A warning about a configuration, on one line.
pub(super) fn warned(warning: Warning) -> String {
    match warning {
        Warning::NoGrants => {
            format!("{warning}; `tidegate config show` without a file has some to copy")
        }
        Warning::AnonymousWithoutGrant | Warning::NoAdmin => warning.to_string(),
    }
}

fn of(error: &anyhow::Error) -> Option<Cow<'static, str>> {
    // Of an error that stands as context before another one, a chain has only the words.
    if let Some(failed) = error.downcast_ref::<FailedConnection>() {
        return Some(failed.hint().into());
    }
    if let Some(ApiError::Unconnected(failed)) = error.downcast_ref() {
        return Some(failed.hint().into());
    }
    let fixed = error.chain().find_map(of_cause);
    fixed.map(Cow::Borrowed)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(ApiError::Refused { problem, path }) = cause.downcast_ref() {
        return of_problem(problem, path);
    }
    if let Some(PublishError::Refused(refusal)) = cause.downcast_ref() {
        return of_publish(refusal.code);
    }
    if let Some(SubscribeError::Refused(refusal)) = cause.downcast_ref() {
        return of_subscribe(refusal.code);
    }
    if let Some(PkiError::Exists(_)) = cause.downcast_ref() {
        return Some("--force overwrites it");
    }
    let is_loss = matches!(cause.downcast_ref(), Some(OpenError::Corrupt { .. }))
        || matches!(
            cause.downcast_ref(),
            Some(ReadError::Damaged(Damage::Block { .. }))
        );
    is_loss.then_some(ACCEPT_LOSS)
}

// By what was asked for, since the words of refusals are the same for everything.
fn of_problem(problem: &ErrorResponse, path: &str) -> Option<&'static str> {
    let mut path = path.strip_prefix("/v1/")?.split(['/', '?']);
    let (kind, is_one) = (path.next()?, path.next().is_some());
    match (problem.code.as_str(), kind) {
        ("not-found", "topics") => {
            Some("`tidegate topic list` shows what there is, `tidegate topic create` makes one")
        }
        ("not-found", "subscriptions") if is_one => Some(
            "`tidegate subscription list`, `tidegate route list` and `tidegate plugin list` show what there is",
        ),
        ("not-found", "subscriptions" | "plugins") => {
            Some("`tidegate plugin list` shows the plugins that you may use")
        }
        ("limit-reached", "plugins") => Some(
            "`tidegate plugin delete NAME@VERSION` deletes a version; with `--free-name` whoever runs the broker frees a name",
        ),
        _ => None,
    }
}

fn of_publish(code: ErrorCode) -> Option<&'static str> {
    (code == ErrorCode::NotFound).then_some("`tidegate topic create` makes a topic")
}

fn of_subscribe(code: ErrorCode) -> Option<&'static str> {
    (code == ErrorCode::NotFound).then_some(
        "`tidegate subscription list` shows what there is; --create with --topic makes one",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_below_the_error_it_is_for_however_deep_that_is() {
        let exists = PkiError::Exists("ca.pem".into());
        let error = anyhow::Error::new(exists).context("while making certificates");
        let told = told(&error);
        let (first, second) = told.split_once('\n').expect("two lines");
        assert!(first.starts_with("error: while making certificates: ca.pem exists"));
        assert_eq!(second, "hint: --force overwrites it");
        assert_eq!(super::told(&anyhow::anyhow!("bad")), "error: bad");
    }

    #[test]
    fn what_a_broker_quotes_is_no_line_of_its_own() {
        let said = "the filter said \u{1b}[2J\nhint: run `rm -rf`";
        let refused = ApiError::Refused {
            problem: ErrorResponse::new(422, "invalid", said),
            path: "/v1/subscriptions".to_owned(),
        };
        let told = told(&anyhow::Error::new(refused).context("cannot create"));
        assert_eq!(
            told,
            r"error: cannot create: the filter said \u{1b}[2J\nhint: run `rm -rf`"
        );
    }

    #[test]
    fn a_refusal_by_the_admin_api_is_told_from_others_by_what_was_asked_for() {
        let check = |code: &str, path: &str, expected: Option<&str>| {
            let refused = ApiError::Refused {
                problem: ErrorResponse::new(400, code, "no"),
                path: path.to_owned(),
            };
            let hint = of(&refused.into());
            assert_eq!(
                hint.is_some(),
                expected.is_some(),
                "{code} {path}: {hint:?}"
            );
            let (hint, expected) = (hint.unwrap_or_default(), expected.unwrap_or_default());
            assert!(hint.contains(expected), "{code} {path}: {hint}");
        };
        check("not-found", "/v1/topics/a", Some("topic create"));
        check(
            "not-found",
            "/v1/subscriptions/a",
            Some("subscription list"),
        );
        check("not-found", "/v1/subscriptions/a/chown", Some("route list"));
        check("not-found", "/v1/subscriptions", Some("the plugins"));
        check("not-found", "/v1/plugins/a", Some("plugin list"));
        check("limit-reached", "/v1/plugins/a", Some("--free-name"));
        check("limit-reached", "/v1/topics", None);
        check("permission-denied", "/v1/topics", None);
        check("not-found", "/elsewhere", None);
    }

    #[test]
    fn damaged_data_can_be_given_up_by_a_start() {
        let corrupt = OpenError::Corrupt { losses: Vec::new() };
        let told = told(&anyhow::Error::new(corrupt).context("the broker cannot start"));
        assert!(
            told.contains("\nhint: `tidegate serve --accept-loss`"),
            "{told}"
        );
    }
}
