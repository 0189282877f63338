//! `boira status`: one screen about the cloud.

use crate::client::Client;
use crate::home::Home;
use crate::output::{self, Format, line_out};
use anyhow::Result;
use hyper::Method;

pub async fn status(home: &Home, format: Format) -> Result<()> {
    let client = Client::new(home.access()?)?;
    let status = client.json(Method::GET, "/status", None).await?;
    if format == Format::Json {
        output::json(&status);
        return Ok(());
    }
    let text = |name: &str| match &status[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    line_out(&format!(
        "cloud      {} (Boira {})",
        text("cloud"),
        text("version")
    ));
    line_out(&format!(
        "endpoint   {}, region {}",
        text("endpoint"),
        text("region")
    ));
    if !home.is_new() {
        line_out(&format!("home       {}", home.path().display()));
    }
    line_out(&format!("account    {}", text("account")));
    line_out(&format!(
        "hosts      {} ({} silent)",
        text("hosts"),
        text("silent_hosts")
    ));
    line_out(&format!(
        "instances  {} running, {} pending, {} stopped",
        text("running"),
        text("pending"),
        text("stopped")
    ));
    for problem in status["problems"].as_array().into_iter().flatten() {
        line_out(&format!(
            "problem    {}",
            problem.as_str().unwrap_or_default()
        ));
    }
    Ok(())
}
