//! Reading a body within a size and a time.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};

use crate::error::ApiError;

/// The bytes of a body.
///
/// A length that is stated and too large is refused before anything is read.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    within: Duration,
) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!("the body has more than {limit} bytes, the most that is read here");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
    if stated.is_some_and(|n: u64| n > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(within, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        // The length limit, or a connection that broke; nobody reads the answer to the latter.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let message = format!("the body did not come within {} s", within.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}
