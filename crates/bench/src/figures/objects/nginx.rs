//! The reference: nginx with its static files, and its WebDAV PUT with a shim that syncs a file before it
//! gets its name, as an acknowledged object is.

use crate::cloud::free_address;
use crate::process::{Tied, prepare, wait_for};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Syncs what nginx's WebDAV module is about to give its name, and the folder after that.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void sync_path(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd >= 0) { fsync(fd); close(fd); }
}
int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    char folder[4096];
    sync_path(from);
    int outcome = real(from, to);
    strncpy(folder, to, sizeof folder - 1);
    sync_path(dirname(folder));
    return outcome;
}
"#;

pub struct Nginx {
    _process: Tied,
    pub address: SocketAddr,
    /// The same files without sendfile.
    pub copying: SocketAddr,
}

impl Nginx {
    /// With a worker per core, as its packages come, and files beside Boira's.
    pub fn start(folder: &Path) -> Result<Self> {
        let folder = folder.join("nginx");
        for name in ["files/bench", "temporary"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        let (address, copying) = (free_address()?, free_address()?);
        let shim = folder.join("shim.c");
        std::fs::write(&shim, SHIM)?;
        let mut build = Command::new("cc");
        build
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(folder.join("shim.so"))
            .arg(&shim)
            .arg("-ldl");
        prepare(&mut build).context("build the shim that syncs; apt-get install gcc")?;
        let root = folder.display();
        let config = format!(
            "daemon off; user root; worker_processes auto; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
             client_max_body_size 1g; client_body_temp_path {root}/temporary;\n\
             server {{ listen {address}; root {root}/files; dav_methods PUT; create_full_put_path on; }}\n\
             server {{ listen {copying}; root {root}/files; sendfile off; }} }}\n"
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, config)?;
        let process = Tied::ended_by(
            libc::SIGTERM,
            Command::new("nginx")
                .arg("-c")
                .arg(&path)
                .arg("-e")
                .arg(folder.join("error.log"))
                .env("LD_PRELOAD", folder.join("shim.so"))
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )
        .context("start the reference; apt-get install nginx-light")?;
        wait_for("nginx", address)?;
        Ok(Self {
            _process: process,
            address,
            copying,
        })
    }
}
