//! `boira env`: shell lines that point AWS's tools at this cloud.

use crate::home::{Access, Home};
use crate::output::{self, Format, line_out};
use anyhow::Result;

pub fn env(home: &Home, format: Format) -> Result<()> {
    let access = home.administrator()?;
    let mut variables = variables(&access);
    variables.push(("EC2_URL", access.endpoint));
    variables.push(("BOIRA_HOME", home.path().display().to_string()));
    match format {
        Format::Json => {
            let object: serde_json::Map<_, _> = variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            output::json(&object);
        }
        Format::Table => show(&variables),
    }
    Ok(())
}

/// What AWS's tools have to know.
pub fn variables(access: &Access) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("AWS_ENDPOINT_URL", access.endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", access.access_key_id.clone()),
        ("AWS_SECRET_ACCESS_KEY", access.secret_access_key.clone()),
        ("AWS_DEFAULT_REGION", access.region.clone()),
        ("AWS_REGION", access.region.clone()),
    ];
    if let Some(authority) = &access.authority {
        variables.push(("AWS_CA_BUNDLE", authority.display().to_string()));
    }
    variables
}

pub fn show(variables: &[(&str, String)]) {
    for (name, value) in variables {
        line_out(&format!("export {name}={}", quote(value)));
    }
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
