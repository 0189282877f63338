//! The relay between hosts for the tests: `boira-underlay-relay DIR`.

use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let directory = std::env::args_os()
        .next_back()
        .expect("the directory is the last argument");
    boira_network::underlay::relay(Path::new(&directory)).await
}
