//! The command line: what there is, and which function does it.

use crate::commands::{
    account, bucket, doctor, env, host, image, instance, join, kind, ssh, status, up, zone,
};
use crate::home::{Home, agents_address};
use crate::{completion, memory, node, output};
use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "boira", version, about, propagate_version = true)]
struct Cli {
    /// The cloud's folder [default: $BOIRA_HOME, else /var/lib/boira]
    #[arg(long, global = true, value_name = "FOLDER")]
    home: Option<PathBuf>,
    /// Tables for people or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t)]
    output: output::Format,
    #[command(subcommand)]
    command: Command,
}

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8773);

#[derive(Args, Clone)]
struct Listen {
    /// Where the APIs are served; another address than loopback speaks TLS [default: 127.0.0.1:8773]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where agents are served [default: one port above]
    #[arg(long, value_name = "ADDRESS:PORT")]
    agents: Option<SocketAddr>,
    /// Buckets have names below this domain too, as BUCKET.s3.example.org [default: `s3_domain` in
    /// settings.toml]
    #[arg(long, value_name = "DOMAIN", value_parser = boira_controller::config::s3_domain)]
    s3_domain: Option<String>,
}

impl Listen {
    fn serving(self) -> node::Serving {
        let listen = self.listen.unwrap_or(DEFAULT_LISTEN);
        node::Serving {
            listen,
            agents: self.agents.unwrap_or_else(|| agents_address(listen)),
            s3_domain: self.s3_domain,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Start a cloud on this machine: controller and one host
    Up {
        #[command(flatten)]
        listen: Listen,
        /// Return when it is up; `boira down` ends it
        #[arg(long)]
        detach: bool,
        /// Build the default image and start an instance that answers on SSH
        #[arg(long)]
        demo: bool,
    },
    /// Switch guests off, keep their state, end the cloud
    Down,
    /// Run a controller alone
    Controller {
        #[command(flatten)]
        listen: Listen,
        /// Enroll this machine as a host
        #[arg(long, hide = true)]
        local_host: bool,
    },
    /// Join this machine to a cloud; `boira host invite` prints the whole line that does it
    Join(join::Join),
    /// Run this host's agent alone
    Agent {
        /// The agent's folder, with the identity that the controller gave it [default: `agent` in the
        /// cloud's folder]
        #[arg(long)]
        directory: Option<PathBuf>,
        /// Where agents are served [default: where this machine joined]
        #[arg(long, value_name = "ADDRESS:PORT")]
        controller: Option<SocketAddr>,
        /// The cloud's API, to be relayed to guests
        #[arg(long, value_name = "ADDRESS:PORT")]
        api: Option<SocketAddr>,
        /// With guests that only seem to run, to try an agent where no guest could
        #[arg(long, hide = true)]
        simulated: bool,
    },
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        listen: Listen,
    },
    #[command(hide = true, name = "vpc-services")]
    VpcServices { directory: PathBuf },
    #[command(hide = true, name = "underlay-relay")]
    UnderlayRelay { directory: PathBuf },
    #[command(hide = true, name = "agent-watchdog")]
    AgentWatchdog { directory: PathBuf },
    #[command(hide = true)]
    Proxy { name: String, port: u16 },
    /// Print what points AWS's tools at this cloud: eval "$(boira env)"
    Env,
    /// What runs, and where
    Status,
    /// What this machine can and cannot do, each with the remedy
    Doctor,
    /// Images that instances are made from
    #[command(subcommand)]
    Image(image::Command),
    /// Virtual machines
    #[command(subcommand)]
    Instance(instance::Command),
    /// Log in to an instance, or run a command there
    Ssh(ssh::Ssh),
    /// Make a port of an instance reachable on this machine
    Forward(ssh::Forward),
    /// The machines that run instances
    #[command(subcommand)]
    Host(host::Command),
    /// What the object store (S3) holds
    #[command(subcommand)]
    Bucket(bucket::Command),
    /// Availability zones: the groups of hosts that users choose between
    #[command(subcommand)]
    Zone(zone::Command),
    /// What each zone can still take
    Capacity,
    /// Host by host, why an instance can go there or can't
    Explain(zone::Explain),
    /// Accounts and their keys
    #[command(subcommand)]
    Account(account::Command),
    /// Instance types
    #[command(subcommand, name = "type")]
    Kind(kind::Command),
    /// Completions for a shell: source <(boira completion bash)
    Completion { shell: clap_complete::Shell },
}

/// Parses, runs and turns the outcome into an exit code: 0 done, 1 failed, 2 wrong usage. `boira ssh`
/// has ssh's.
pub fn main() -> ExitCode {
    completion::answer(Cli::command);
    let cli = Cli::parse();
    let format = cli.output;
    log();
    let runtime = match runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A thread that waits for a key would hold the process until one is pressed.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::failed(format, &error);
            ExitCode::FAILURE
        }
    }
}

/// Processes that stay use little memory: one thread where one is enough.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Controller { .. } => {
            memory::keep_little();
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BOIRA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,boira=info,boira_agent=info,boira_controller=info,boira_store=info,boira_network=info,boira_hypervisor=info,boira_objects=info,s3s=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let home = Home::find(cli.home.as_deref());
    let format = cli.output;
    match cli.command {
        Command::Up {
            listen,
            detach,
            demo,
        } => {
            let chosen =
                listen.listen.is_some() || listen.agents.is_some() || listen.s3_domain.is_some();
            let order = up::Order {
                serving: listen.serving(),
                chosen,
                detach,
                demo,
                format,
            };
            up::up(&home, &order).await?;
        }
        Command::Down => up::down(&home, format).await?,
        Command::Controller { listen, local_host } => {
            node::controller(&home, listen.serving(), local_host).await?;
        }
        Command::Join(join) => join::join(&home, format, join).await?,
        Command::Agent {
            directory,
            controller,
            api,
            simulated,
        } => {
            let directory = directory.unwrap_or_else(|| home.agent());
            match simulated {
                true => node::simulated_agent(&directory).await?,
                false => node::agent(&directory, controller, api).await?,
            }
        }
        Command::Supervise { listen } => {
            node::supervise(&home, listen.serving()).await?;
        }
        Command::UnderlayRelay { directory } => {
            node::end_on_panic();
            boira_network::underlay::relay(&directory).await?;
        }
        Command::AgentWatchdog { directory } => boira_agent::watchdog::run(&directory).await?,
        Command::VpcServices { directory } => boira_network::serve(&directory).await?,
        Command::Proxy { name, port } => ssh::proxy(&home, &name, port).await?,
        Command::Env => env::env(&home, format)?,
        Command::Status => status::status(&home, format).await?,
        Command::Doctor => return doctor::doctor(&home, format).await,
        Command::Image(command) => image::run(&home, format, command).await?,
        Command::Instance(command) => instance::run(&home, format, command).await?,
        Command::Ssh(ssh) => return Ok(ssh::ssh(&home, ssh).await),
        Command::Forward(forward) => ssh::forward(&home, format, forward).await?,
        Command::Host(command) => host::run(&home, format, command).await?,
        Command::Bucket(command) => bucket::run(&home, format, command).await?,
        Command::Zone(command) => zone::run(&home, format, command).await?,
        Command::Capacity => zone::capacity(&home, format).await?,
        Command::Explain(ask) => zone::explain(&home, format, ask).await?,
        Command::Account(command) => account::run(&home, format, command).await?,
        Command::Kind(command) => kind::run(&home, format, command).await?,
        Command::Completion { shell } => {
            output::line_out(completion::script(shell)?.trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod docs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
