//! The cluster's secret, which every caller has to know.

/// The cluster's secret in its file: 64 hexadecimal digits.
pub fn read_secret(file: &std::path::Path) -> Result<[u8; 32], String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let digits = text.trim().as_bytes();
    let mut secret = [0; 32];
    let malformed = || format!("{}: not 64 hexadecimal digits", file.display());
    if digits.len() != 64 {
        return Err(malformed());
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| malformed())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
    }
    Ok(secret)
}
