//! What can go wrong between us and an API server, in words that say what to do about it.

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
    k8s::{access::AccessError, object::Kind},
};

#[derive(Debug, thiserror::Error)]
pub enum Problem {
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
    /// Not worth a word: what was read has to be read again.
    #[error("the API server does not remember that far back (410 Gone)")]
    Expired,
    #[error("the API server has an older state than it had before")]
    LostHistory,
    /// It does not know this way of asking.
    #[error("the API server refuses the request ({code} {reason}): {message}")]
    Invalid { code: u16, reason: String, message: String },
    #[error("the API server cannot answer now ({code} {reason}): {message}")]
    Failing { code: u16, reason: String, message: String, retry_after: Duration },
    #[error("the API server has been silent for {0:?}")]
    Stalled(Duration),
    #[error("the answer of the API server broke off: {0}")]
    Broken(String),
    #[error("the answer of the API server makes no sense: {0}")]
    Nonsense(String),
}

impl Problem {
    pub fn new(error: &kube::Error, kind: Kind, url: &str) -> Self {
        if let kube::Error::Api(status) = error {
            Self::of_status(status, kind)
        } else {
            Self::of_transport(error, url)
        }
    }

    pub fn of_status(status: &Status, kind: Kind) -> Self {
        let (code, reason, message) = (status.code, status.reason.clone(), status.message.clone());
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(message),
            404 => Self::NotServed(kind.plural()),
            410 => Self::Expired,
            _ if reason == "Expired" || is_from_the_future(status) => Self::Expired,
            400 | 405 | 406 | 422 => Self::Invalid { code, reason, message },
            _ => Self::Failing { code, reason, message, retry_after: retry_after(status) },
        }
    }

    fn of_transport(error: &kube::Error, url: &str) -> Self {
        let url = url.to_owned();
        match tls_cause(error) {
            Some(cause) => Self::Tls { url, cause },
            None => Self::Unreachable { url, cause: last_cause(error) },
        }
    }

    /// A body that ends before its end.
    pub fn of_body(error: &io::Error) -> Self {
        Self::Broken(last_cause(error))
    }

    /// Whether credentials read anew may help.
    pub fn asks_for_credentials(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::Tls { .. } | Self::Access(_))
    }

    /// How long the API server wants to be left alone.
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
            | Self::Broken(_)
            | Self::Nonsense(_) => Duration::ZERO,
        }
    }
}

fn retry_after(status: &Status) -> Duration {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(u64::from(seconds).min(60))
}

/// Asked for a state that it has not reached, an API server waits a while and then says so.
fn is_from_the_future(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.message.contains("Too large resource version")
        || causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// The error and what caused it, also inside of I/O errors, which hide what they carry.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let carried = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        carried.map(|carried| carried as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn last_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| chain(error), ToString::to_string)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what else can go wrong says so itself")]
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
        rustls::Error::AlertReceived(alert) => format!("it refuses our client certificate ({alert:?})"),
        other => other.to_string(),
    })
}

/// What is wrong now, and with which kind. Each change is said once, however often is retried meanwhile.
#[derive(Default)]
pub struct Troubles {
    now: RefCell<BTreeMap<Kind, (String, Instant)>>,
}

impl Troubles {
    /// A kind cannot be followed.
    pub fn note(&self, kind: Kind, problem: &Problem) {
        let text = chain(problem);
        let mut now = self.now.borrow_mut();
        let is_known = now.values().any(|(known, _)| *known == text);
        let since = now.get(&kind).map_or_else(Instant::now, |(_, since)| *since);
        if is_known {
            tracing::debug!(kind = kind.plural(), problem = text, "still not following the API server");
        } else {
            tracing::warn!(kind = kind.plural(), problem = text, "cannot follow the API server, will retry");
        }
        now.insert(kind, (text, since));
    }

    /// A kind is followed again.
    pub fn clear(&self, kind: Kind) {
        let mut now = self.now.borrow_mut();
        let Some((_, since)) = now.remove(&kind) else { return };
        if now.is_empty() {
            tracing::info!(after = ?since.elapsed(), "the API server answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_of_the_server_are_told_apart() {
        for (status, want) in [
            (json!({"code": 401, "reason": "Unauthorized"}), "does not know who we are"),
            (
                json!({"code": 403, "reason": "Forbidden", "message": "services is forbidden: User \"x\""}),
                "does not allow it (403 Forbidden): services is forbidden",
            ),
            (json!({"code": 404, "reason": "NotFound"}), "does not serve Services"),
            (json!({"code": 410, "reason": "Expired"}), "remember that far back"),
            (
                json!({"code": 422, "reason": "Invalid", "message": "sendInitialEvents"}),
                "refuses the request",
            ),
            (
                json!({"code": 504, "reason": "Timeout", "message": "Too large resource version: 9, current: 3"}),
                "remember that far back",
            ),
            (json!({"code": 500, "reason": "InternalError", "message": "etcd"}), "cannot answer now (500"),
        ] {
            let parsed: Status = serde_json::from_value(status.clone()).unwrap();
            let text = Problem::of_status(&parsed, Kind::Service).to_string();
            assert!(text.contains(want), "{status}: {text}");
        }
    }

    #[test]
    fn a_server_in_need_of_rest_is_left_alone() {
        let status = json!({"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 5}});
        let parsed: Status = serde_json::from_value(status).unwrap();
        assert_eq!(Problem::of_status(&parsed, Kind::Service).retry_after(), Duration::from_secs(5));
    }
}
