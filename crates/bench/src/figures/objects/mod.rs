//! Objects in and out, beside [`nginx`] and [`s3s_fs`], and what many of them and slow readers cost.

mod nginx;
mod s3s_fs;

use super::Extent;
use crate::client::Login;
use crate::cloud::{Cloud, Shape};
use crate::figure::{Figure, Series, Target};
use crate::machine;
use crate::process::resident_mb;
use anyhow::{Context, Result, ensure};
use boira_api::auth::RequestHead;
use boira_api::sigv4;
use nginx::Nginx;
use s3s_fs::S3sFs;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Instant, SystemTime};

const SMALL: usize = 4 << 10;
const CLIENTS: u32 = 8;
const LISTED: usize = 1000;
const MANY: u32 = 1_000_000;
const S3S_FS: &str = "s3s-fs, whose files are not synced";
/// Asks for encryption at rest with the cloud's own keys.
const SEALED: (&str, &str) = ("x-amz-server-side-encryption", "AES256");

pub fn take(extent: Extent) -> Result<Vec<Figure>> {
    let cloud = Cloud::start(Shape::huge(1).may_be_silent())?;
    let nginx = match Nginx::start(cloud.home()) {
        Ok(nginx) => nginx,
        Err(error) => {
            return Ok(vec![Figure::missing(
                "Objects beside nginx",
                format!("{error:#}"),
            )]);
        }
    };
    let s3s_fs = S3sFs::start(cloud.home());
    let boira = Side::S3(cloud.admin.clone());
    let (beside, copying) = (Side::Nginx(nginx.address), Side::Nginx(nginx.copying));
    let fs = s3s_fs.as_ref().ok().map(|fs| Side::S3(fs.login.clone()));
    exchange_one(&boira, "PUT", "/bench", b"")?;
    if let Some(fs) = &fs {
        exchange_one(fs, "PUT", "/bench", b"")?;
    }
    let large = vec![7; extent.size(256, 8) as usize * (1 << 20)];
    let mut figures = Figures::new();
    for round in 0..extent.rounds {
        figures
            .fdatasync
            .push(machine::fdatasync_per_s(cloud.home())?);
        let count = extent.size(1000, 20);
        if let Some(fs) = &fs {
            let put = many(fs, "PUT", round, count, &[7; SMALL])?;
            figures.put_fs.push(put);
        }
        for (side, which) in [(&boira, 0), (&beside, 1)] {
            figures.put_small[which].push(many(side, "PUT", round, count, &[7; SMALL])?);
            figures.get_small[which].push(many(side, "GET", round, count * 2, b"")?);
            let mb = large.len() as f64 / 1e6;
            figures.put_large[which].push(mb / exchange_one(side, "PUT", "/bench/large", &large)?);
            figures.get_large[which].push(mb / exchange_one(side, "GET", "/bench/large", b"")?);
        }
        let mb = large.len() as f64 / 1e6;
        let plain = exchange_one(&copying, "GET", "/bench/large", b"")?;
        figures.get_copied.push(mb / plain);
        let put = exchange(&boira, "PUT", "/bench/sealed", &[SEALED], &large)?;
        figures.sealed[0].push(mb / put);
        let get = exchange_one(&boira, "GET", "/bench/sealed", b"")?;
        figures.sealed[1].push(mb / get);
    }
    let before = resident_mb(cloud.pid())?;
    fill(&boira, extent.size(MANY, 2000))?;
    let grown = resident_mb(cloud.pid())? - before;
    let mut listing = Vec::new();
    for _ in 0..extent.rounds * 10 {
        let path = format!("/bench?list-type=2&max-keys={LISTED}&prefix=many%2F0");
        listing.push(exchange_one(&boira, "GET", &path, b"")? * 1e3);
    }
    let slow = slow_readers(&cloud, &boira, extent)?;
    let mut done = figures.done(listing, extent);
    if let Err(error) = s3s_fs {
        let why = format!("{error:#}");
        done.push(Figure::missing("PUT of 4 KiB beside s3s-fs", why));
    }
    done.extend([slow, resident_growth(grown, extent)]);
    Ok(done)
}

/// What the controller takes in memory for each of many readers that don't read.
fn slow_readers(cloud: &Cloud, boira: &Side, extent: Extent) -> Result<Figure> {
    let count = extent.size(1000, 20);
    let head = boira.head("GET", "/bench/large", &[], &Sha256::digest(b"").into(), 0);
    let before = resident_mb(cloud.pid())?;
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(boira.address()).context("connect")?;
        // What isn't read waits in the controller and not in the kernel.
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::RcvBuf, &4096)
            .context("make a window small")?;
        stream.write_all(&head)?;
        // It has begun.
        stream.read_exact(&mut [0; 12])?;
        readers.push(stream);
    }
    let title =
        format!("{count} readers of 256 MiB that stopped reading: resident memory for each");
    let mut figure = Figure::new(title, "KB", Target::None);
    let grown = resident_mb(cloud.pid())? - before;
    figure.series = Series(vec![grown * 1000.0 / f64::from(count)]);
    Ok(figure)
}

fn resident_growth(mb: f64, extent: Extent) -> Figure {
    let title = format!(
        "Resident memory that {} keys more in a bucket have cost",
        extent.size(MANY, 2000)
    );
    let mut figure = Figure::new(title, "MB", Target::None);
    figure.series = Series(vec![mb]);
    figure
}

struct Figures {
    put_small: [Vec<f64>; 2],
    /// Of s3s-fs.
    put_fs: Vec<f64>,
    get_small: [Vec<f64>; 2],
    put_large: [Vec<f64>; 2],
    get_large: [Vec<f64>; 2],
    /// nginx without sendfile.
    get_copied: Vec<f64>,
    /// PUT and GET.
    sealed: [Vec<f64>; 2],
    fdatasync: Vec<f64>,
}

impl Figures {
    fn new() -> Self {
        Self {
            put_small: Default::default(),
            put_fs: Vec::new(),
            get_small: Default::default(),
            put_large: Default::default(),
            get_large: Default::default(),
            get_copied: Vec::new(),
            sealed: Default::default(),
            fdatasync: Vec::new(),
        }
    }

    fn done(self, listing: Vec<f64>, extent: Extent) -> Vec<Figure> {
        let beside =
            |title: &str, unit, [here, there]: [Vec<f64>; 2], ratio: f64, reference: &str| {
                let there = Series(there);
                let target = Target::AtLeast((there.median() * ratio).round());
                let mut figure = Figure::new(title, unit, target);
                figure.series = Series(here);
                figure.reference = Some((reference.to_owned(), there));
                figure
            };
        let put_small = self.put_small[0].clone();
        let beside_fs = (!self.put_fs.is_empty()).then(|| {
            let both = [put_small, self.put_fs];
            let title = "The same PUT of 4 KiB beside s3s-fs";
            beside(title, "per s", both, 1.5, S3S_FS)
                .because("s3s-fs answers before anything is on the disk")
        });
        let mut put = beside(
            "PUT of 4 KiB, 8 connections",
            "per s",
            self.put_small,
            0.7,
            "nginx, WebDAV, synced before the answer",
        );
        put.note(format!(
            "fdatasync of 4 KiB in the same folder: {:.0} per s.",
            Series(self.fdatasync).median()
        ));
        let mut list = Figure::new(
            format!("A page of {LISTED} keys out of {}", extent.size(MANY, 2000)),
            "ms",
            Target::AtMost(10.0),
        );
        list.series = Series(listing);
        let copied = Series(self.get_copied).median();
        let sealed = self.sealed.map(|series| Series(series).median());
        let mut get = beside(
            "GET of 256 MiB, checksums verified",
            "MB/s",
            self.get_large,
            0.9,
            "nginx, static file, sendfile",
        )
        .because(
            "every block's checksum is computed before it is served, on the client's processors; nginx has the kernel send what it caches",
        );
        get.note(format!(
            "nginx without sendfile: {copied:.0} MB/s. Encrypted at rest (SSE-S3), Boira takes in \
             {:.0} MB/s and gives out {:.0} MB/s.",
            sealed[0], sealed[1]
        ));
        let mut figures = vec![put];
        figures.extend(beside_fs);
        figures.extend([
            beside(
                "GET of 4 KiB, 8 connections",
                "per s",
                self.get_small,
                0.4,
                "nginx, static files",
            )
            .because(
                "a request is a signature's verification and a read of the database on another thread; nginx's is a file that is open already",
            ),
            beside(
                "PUT of 256 MiB",
                "MB/s",
                self.put_large,
                0.8,
                "nginx, WebDAV, synced before the answer",
            )
            .because(
                "an ETag is an MD5, which one core computes no faster than that; the client's own SHA-256 is verified beside it",
            ),
            get,
            list,
        ]);
        figures
    }
}

enum Side {
    S3(Login),
    Nginx(SocketAddr),
}

impl Side {
    fn address(&self) -> SocketAddr {
        match self {
            Side::S3(login) => login.address,
            Side::Nginx(address) => *address,
        }
    }

    /// A request's head. Of S3 it is signed, its body's hash included, as clients do without TLS.
    fn head(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        hash: &[u8; 32],
        len: usize,
    ) -> Vec<u8> {
        let host = self.address().to_string();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len}\r\n");
        if let Side::S3(login) = self {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let hex = hex::encode(hash);
            let (plain, query) = path.split_once('?').unwrap_or((path, ""));
            let own = [("host", host.as_str()), ("x-amz-content-sha256", &hex)];
            let headers: Vec<_> = own.iter().chain(more).collect();
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()))
                .collect();
            let signed = RequestHead {
                method,
                path: plain,
                query,
                headers: &headers,
                parameters: &[],
            };
            let credentials = sigv4::Credentials {
                access_key: &login.access_key,
                secret: &login.secret,
            };
            let signature = sigv4::sign(
                credentials,
                &login.region,
                "s3",
                &signed,
                hash,
                now.as_millis() as i64,
            );
            head.push_str(&format!("x-amz-content-sha256: {hex}\r\n"));
            for (name, value) in more {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            for (name, value) in signature {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// A connection that is kept.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(256 << 10, stream)))
    }

    fn exchange(&mut self, head: &[u8], body: &[u8]) -> Result<()> {
        self.0
            .get_mut()
            .write_all(&[head, &body[..body.len().min(SMALL)]].concat())?;
        self.0.get_mut().write_all(&body[body.len().min(SMALL)..])?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut left = 0;
        loop {
            line.clear();
            ensure!(
                self.0.read_line(&mut line)? > 0,
                "the server closed the connection"
            );
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                left = value.trim().parse::<u64>()?;
            }
        }
        let mut text = Vec::new();
        let wrong = !status.starts_with('2');
        let mut rest = (&mut self.0).take(left);
        match wrong {
            true => rest.read_to_end(&mut text).map(drop)?,
            // Looked at, not kept.
            false => std::io::copy(&mut rest, &mut std::io::sink()).map(drop)?,
        }
        ensure!(!wrong, "{status}: {}", String::from_utf8_lossy(&text));
        Ok(())
    }
}

/// One request on a connection of its own, in seconds.
fn exchange_one(side: &Side, method: &str, path: &str, body: &[u8]) -> Result<f64> {
    exchange(side, method, path, &[], body)
}

/// With these headers beside what every request has.
fn exchange(
    side: &Side,
    method: &str,
    path: &str,
    more: &[(&str, &str)],
    body: &[u8],
) -> Result<f64> {
    let hash: [u8; 32] = Sha256::digest(body).into();
    let mut line = Line::open(side.address())?;
    let head = side.head(method, path, more, &hash, body.len());
    let begun = Instant::now();
    line.exchange(&head, body)
        .with_context(|| format!("{method} {path}"))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// So many requests on each of the connections; answers how many a second there were. What is signed is
/// signed before.
fn many(side: &Side, method: &str, round: usize, count: u32, body: &[u8]) -> Result<f64> {
    let hash: [u8; 32] = Sha256::digest(body).into();
    let ready = Barrier::new(CLIENTS as usize + 1);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let ready = &ready;
                scope.spawn(move || -> Result<()> {
                    let heads: Vec<Vec<u8>> = (0..count)
                        .map(|n| {
                            let path = format!("/bench/s{round}-{client}-{}", n % 1000);
                            side.head(method, &path, &[], &hash, body.len())
                        })
                        .collect();
                    let line = Line::open(side.address());
                    ready.wait();
                    let mut line = line?;
                    heads.iter().try_for_each(|head| line.exchange(head, body))
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(f64::from(CLIENTS * count) / begun.elapsed().as_secs_f64())
    })
}

/// Many small objects, for listings.
fn fill(side: &Side, count: u32) -> Result<()> {
    let hash: [u8; 32] = Sha256::digest(b"x").into();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let mut line = Line::open(side.address())?;
                    for n in (client..count).step_by(CLIENTS as usize) {
                        let path = format!("/bench/many/{n:07}");
                        line.exchange(&side.head("PUT", &path, &[], &hash, 1), b"x")?;
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}
