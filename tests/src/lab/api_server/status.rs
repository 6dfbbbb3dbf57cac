//! `Status` objects.

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde_json::json;

pub fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(status_text(code, reason, message)));
    *response.status_mut() = StatusCode::from_u16(code).expect("scripts name real status codes");
    response
}

pub fn status_text(code: u16, reason: &str, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
    .to_string()
}
