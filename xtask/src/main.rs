//! Developer tasks, run as `cargo xtask TASK`. What needs Boira's own crates is done by `boira-bench`,
//! so that this program stays quick to build.

mod fresh;
mod shapes;
mod tasks;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Boira's developer tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Take the figures of docs/performance.md beside their references
    Bench(tasks::Bench),
    /// What continuous integration runs
    Ci,
    /// Run what others test AWS's services with: moto's, MinIO's, s3fs's and botocore's own tests, and the SDK for JavaScript
    Conformance(tasks::Conformance),
    /// Write the documentation that is generated from the code
    Docs,
    /// Fuzz what reads bytes of strangers, with the arguments of `boira-fuzz`
    Fuzz(tasks::Fuzz),
    /// Try ./run and ./test in an empty Debian
    Fresh(fresh::Arguments),
    /// Write the tables of AWS's services and the typed accessors from botocore's models
    Shapes(shapes::Arguments),
    /// Boot Debian with cloud-init and an old PC as a host, then simulate without limit
    Soak(tasks::Soak),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Bench(arguments) => tasks::bench(&arguments),
        Task::Ci => tasks::ci(),
        Task::Conformance(arguments) => tasks::conformance(&arguments),
        Task::Docs => tasks::docs(),
        Task::Fuzz(arguments) => tasks::fuzz(&arguments),
        Task::Fresh(arguments) => fresh::run(&arguments),
        Task::Shapes(arguments) => shapes::run(&arguments),
        Task::Soak(arguments) => tasks::soak(&arguments),
    }
}
