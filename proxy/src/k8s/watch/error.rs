//! Errors of requests to the API server, and the log of failing kinds. Messages name the remedy.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    error::Error,
    io,
    time::{Duration, Instant},
};

use kube::core::Status;
use rustls::CertificateError;

use crate::{
    error::chain,
    k8s::{
        access::{self, AccessError},
        object::Kind,
    },
    source_state::SourceFailure,
};

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot reach the API server at {url}: {cause}")]
    Unreachable { url: String, cause: String },
    #[error("no secure connection to the API server at {url}: {cause}")]
    Tls { url: String, cause: String },
    #[error(
        "the API server does not know who we are (401 Unauthorized): the token or client certificate is missing, \
         expired or another cluster's"
    )]
    Unauthorized,
    #[error("the API server does not allow it (403 Forbidden): {0}")]
    Forbidden(String),
    #[error("the API server does not serve {0} (404 Not Found)")]
    NotServed(&'static str),
    /// Part of normal operation: the kind is listed again.
    #[error("the resourceVersion is too old for the API server (410 Gone)")]
    Expired,
    #[error("the API server has an older state than before")]
    LostHistory,
    /// The server does not support this request, such as a streaming list.
    #[error("the API server refuses the request ({code} {reason}): {message}")]
    Invalid { code: u16, reason: String, message: String },
    #[error("the API server failed ({code} {reason}): {message}")]
    Failing { code: u16, reason: String, message: String, retry_after: Duration },
    #[error("no data from the API server for {0:?}")]
    Stalled(Duration),
    #[error("the response of the API server is incomplete: {0}")]
    Incomplete(String),
    #[error("the response of the API server is malformed: {0}")]
    Malformed(String),
}

impl ApiError {
    pub fn new(error: &kube::Error, kind: Kind, url: &str) -> Self {
        if let kube::Error::Api(status) = error {
            Self::of_status(status, kind)
        } else {
            Self::of_transport(error, url)
        }
    }

    pub fn of_status(status: &Status, kind: Kind) -> Self {
        let (code, message) = (status.code, status.message.clone());
        // The client's reason for a response that is no Status.
        let reason = if status.reason == UNPARSED { "no reason" } else { &status.reason }.to_owned();
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(message),
            404 => Self::NotServed(kind.plural()),
            410 => Self::Expired,
            _ if reason == "Expired" || is_too_large_version(status) => Self::Expired,
            400 | 405 | 406 | 422 => Self::Invalid { code, reason, message },
            _ => Self::Failing { code, reason, message, retry_after: retry_after(status) },
        }
    }

    fn of_transport(error: &kube::Error, url: &str) -> Self {
        if let Some(fault) = causes(error).find_map(|cause| cause.downcast_ref()) {
            return Self::Access(AccessError::Credentials(access::auth(fault)));
        }
        let url = url.to_owned();
        match tls_cause(error) {
            Some(cause) => Self::Tls { url, cause },
            None => Self::Unreachable { url, cause: last_cause(error) },
        }
    }

    /// The error of a truncated response body.
    pub fn of_body(error: &io::Error) -> Self {
        Self::Incomplete(last_cause(error))
    }

    /// The same for status and metrics.
    pub fn failure(&self) -> SourceFailure {
        let (reason, is_common) = match self {
            Self::Access(_) => ("Credentials", true),
            Self::Unreachable { .. } => ("Unreachable", true),
            Self::Tls { .. } => ("NoSecureConnection", true),
            Self::Unauthorized => ("Unauthorized", true),
            Self::Stalled(_) => ("NoResponse", true),
            Self::Forbidden(_) => ("Forbidden", false),
            Self::NotServed(_) => ("NotServed", false),
            Self::Expired | Self::LostHistory => ("Relist", false),
            Self::Invalid { .. } => ("Refused", false),
            Self::Failing { .. } => ("ServerError", false),
            Self::Incomplete(_) | Self::Malformed(_) => ("BadResponse", false),
        };
        SourceFailure { reason: reason.to_owned(), is_common, message: chain(self) }
    }

    /// Whether reading the credentials again may help.
    pub fn concerns_credentials(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::Tls { .. } | Self::Access(_))
    }

    /// Whether a streaming list that ends with this error is replaced by pages. As in client-go every error does so unless
    /// the same request may succeed later (no connection, 429, `Retry-After`, a version that is not there yet) or pages need
    /// the same rights. An API server whose etcd cannot report progress (before 3.4.25) fails each streaming list with 500.
    pub fn rules_out_streaming(&self) -> bool {
        match self {
            Self::Failing { code, retry_after, .. } => *code != 429 && retry_after.is_zero(),
            Self::Invalid { .. } | Self::Stalled(_) | Self::Incomplete(_) | Self::Malformed(_) => true,
            Self::Access(_)
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Unauthorized
            | Self::Forbidden(_)
            | Self::NotServed(_)
            | Self::Expired
            | Self::LostHistory => false,
        }
    }

    /// The `Retry-After` of the response; zero if there is none.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Failing { retry_after, .. } => *retry_after,
            Self::Access(_)
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Unauthorized
            | Self::Forbidden(_)
            | Self::NotServed(_)
            | Self::Expired
            | Self::LostHistory
            | Self::Invalid { .. }
            | Self::Stalled(_)
            | Self::Incomplete(_)
            | Self::Malformed(_) => Duration::ZERO,
        }
    }
}

const UNPARSED: &str = "Failed to parse error data";

fn retry_after(status: &Status) -> Duration {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(u64::from(seconds).min(60))
}

/// Whether the server has not reached the requested resourceVersion. It waits for a while before it says so.
fn is_too_large_version(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.message.contains("Too large resource version")
        || causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// The error and its causes, including the errors inside of I/O errors, which `source` omits.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn last_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| chain(error), ToString::to_string)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "other TLS errors describe themselves")]
fn tls_cause(error: &(dyn Error + 'static)) -> Option<String> {
    let error = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>())?;
    Some(match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by the certificate authority of our credentials".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is not for this name or address".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        rustls::Error::AlertReceived(alert) => {
            format!("it refuses our client certificate (TLS alert {})", u8::from(*alert))
        }
        rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        other => other.to_string(),
    })
}

/// The current failure of each kind. Logs each change once, not each retry.
#[derive(Default)]
pub struct FailureLog {
    current: RefCell<BTreeMap<Kind, (String, Instant)>>,
}

impl FailureLog {
    /// Records that a kind cannot be watched.
    pub fn record(&self, kind: Kind, error: &ApiError) {
        let text = chain(error);
        let mut current = self.current.borrow_mut();
        let is_known = current.values().any(|(known, _)| *known == text);
        let since = current.get(&kind).map_or_else(Instant::now, |(_, since)| *since);
        if is_known {
            tracing::debug!(kind = kind.plural(), error = text, "API server still not watched");
        } else {
            tracing::warn!(kind = kind.plural(), error = text, "cannot watch the API server, will retry");
        }
        current.insert(kind, (text, since));
    }

    /// Records that a kind is watched again.
    pub fn clear(&self, kind: Kind) {
        let mut current = self.current.borrow_mut();
        let Some((_, since)) = current.remove(&kind) else { return };
        if current.is_empty() {
            tracing::info!(after = ?since.elapsed(), "the API server answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_codes_have_messages() {
        for (status, want) in [
            (json!({"code": 401, "reason": "Unauthorized"}), "does not know who we are"),
            (
                json!({"code": 403, "reason": "Forbidden", "message": "services is forbidden: User \"x\""}),
                "does not allow it (403 Forbidden): services is forbidden",
            ),
            (json!({"code": 404, "reason": "NotFound"}), "does not serve Services"),
            (json!({"code": 410, "reason": "Expired"}), "too old for the API server"),
            (
                json!({"code": 422, "reason": "Invalid", "message": "sendInitialEvents"}),
                "refuses the request",
            ),
            (
                json!({"code": 504, "reason": "Timeout", "message": "Too large resource version: 9, current: 3"}),
                "too old for the API server",
            ),
            (
                json!({"code": 500, "reason": "InternalError", "message": "etcd"}),
                "failed (500 InternalError): etcd",
            ),
            (json!({"code": 500, "reason": UNPARSED, "message": "oops"}), "failed (500 no reason): oops"),
        ] {
            let parsed: Status = serde_json::from_value(status.clone()).unwrap();
            let text = ApiError::of_status(&parsed, Kind::Service).to_string();
            assert!(text.contains(want), "{status}: {text}");
        }
    }

    #[test]
    fn retry_after_of_a_status_is_respected() {
        let status = json!({"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 5}});
        let parsed: Status = serde_json::from_value(status).unwrap();
        assert_eq!(ApiError::of_status(&parsed, Kind::Service).retry_after(), Duration::from_secs(5));
    }
}
