//! How values are written.

use std::time::Duration;

/// A whole number of milliseconds.
pub fn millis(text: &str) -> Result<Duration, String> {
    let ms: u64 = text
        .parse()
        .map_err(|_| "a whole number of milliseconds is needed".to_owned())?;
    Ok(Duration::from_millis(ms))
}
