//! Developer tasks, run as `cargo xtask TASK`.

mod shapes;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Boira's developer tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the tables of AWS's services and the typed accessors from botocore's models
    Shapes(shapes::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Shapes(arguments) => shapes::run(&arguments),
    }
}
