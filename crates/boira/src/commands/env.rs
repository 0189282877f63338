//! `boira env`: shell lines that point AWS's tools at this cloud.

use crate::home::Home;
use crate::output::line_out;
use anyhow::Result;

pub fn env(home: &Home) -> Result<()> {
    let access = home.administrator()?;
    let mut lines = vec![
        ("AWS_ENDPOINT_URL", access.endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", access.access_key_id.clone()),
        ("AWS_SECRET_ACCESS_KEY", access.secret_access_key.clone()),
        ("AWS_DEFAULT_REGION", access.region.clone()),
        ("AWS_REGION", access.region.clone()),
        ("EC2_URL", access.endpoint.clone()),
        ("BOIRA_HOME", home.path().display().to_string()),
    ];
    if let Some(authority) = &access.authority {
        lines.push(("AWS_CA_BUNDLE", authority.display().to_string()));
    }
    for (name, value) in lines {
        line_out(&format!("export {name}={}", quote(&value)));
    }
    Ok(())
}

/// For a POSIX shell: in single quotes, which only a single quote ends.
pub fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@+=".contains(&b);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quotes_survive_a_shell() {
        assert_eq!(quote("http://127.0.0.1:8773"), "http://127.0.0.1:8773");
        assert_eq!(quote("it's $HOME"), "'it'\\''s $HOME'");
    }
}
