//! What goes wrong: while starting, and for a client.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}\nhelp: give another --port, or end the program that uses this one"
    )]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime or the worker thread did not start.
    #[error("cannot start: {source}\nhelp: check the limits of this account on threads and files")]
    Start {
        /// What the system said.
        source: std::io::Error,
    },
    /// Tokenizer and model do not belong together.
    #[error(
        "the tokenizer has {tokenizer} ids, the model only {model}\nhelp: use the tokenizer that the model was trained with"
    )]
    Vocabulary {
        /// Ids of the tokenizer.
        tokenizer: usize,
        /// `vocab_size` of the model.
        model: usize,
    },
}

/// What a client is told, in the form of OpenAI's errors.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// A field of the body is wrong.
    pub(crate) fn field(name: &str, message: impl Into<String>) -> Self {
        let param = Some(name.to_owned());
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }});
        let mut response = (self.status, Json(body)).into_response();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                let value = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
            }
            _ => {}
        }
        response
    }
}
