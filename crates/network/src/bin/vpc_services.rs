//! The services process for the tests: `boira-vpc-services DIR`.

use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let directory = std::env::args_os()
        .next_back()
        .expect("the directory is the last argument");
    boira_network::serve(Path::new(&directory)).await
}
