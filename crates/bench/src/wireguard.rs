//! The network between hosts by a kernel that has WireGuard, Debian's: the tests of `boira-network` that the
//! developer's own kernel may not be able to run, inside a PC; and what it carries beside the relays.

use crate::pc::Pc;
use crate::process::program;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PACKAGES: &str = "iproute2,nftables,conntrack,slirp4netns,iputils-ping";
const STARTUP: &str = "#!/bin/sh
exec >/dev/ttyS1 2>&1
set -e
trap 'echo \"all ended with $?\"; poweroff 2>/dev/null' EXIT
for seal in 'relay relay' 'kernel kernel' 'relay kernel'; do
    BOIRA_SEAL=\"$seal\" $(cat /root/tests) between_hosts --test-threads 1
done
$(cat /root/bench) figures --only across --rounds 3
";
const ENDED_WELL: &str = "all ended with 0";
/// They start processes and wait for them, emulated.
const LIMIT: Duration = Duration::from_secs(900);

/// `tests` is the program of `boira-network`'s tests of the kernel.
pub fn run(tests: &Path) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("boira-soak-")
        .tempdir_in("/var/tmp")
        .context("make a folder")?;
    println!("installing a Debian whose kernel has WireGuard");
    let pc = Pc::install(&folder.path().join("pc"), PACKAGES, STARTUP, |root| {
        let built = tests.ancestors().nth(2).context("no build's program")?;
        let bench = std::env::current_exe().context("find this program's own file")?;
        for (name, program) in [("tests", tests), ("bench", &bench)] {
            fs::write(
                root.join("root").join(name),
                program.as_os_str().as_encoded_bytes(),
            )?;
            copy_into(root, program)?;
        }
        copy_into(root, &program("boira")?)?;
        copy_into(root, &built.join("boira-underlay-relay"))?;
        copy_into(root, &built.join("boira-vpc-services"))
    })?;
    let begun = Instant::now();
    let mut machine = pc.switch_on(&["-cpu", "max", "-smp", "2"])?;
    while machine.0.try_wait().context("look at QEMU")?.is_none() {
        ensure!(begun.elapsed() < LIMIT, "not in time: {}", pc.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let reported = pc.reported()?;
    println!("{reported}");
    ensure!(
        reported.contains(ENDED_WELL),
        "that failed; the console: {}",
        pc.said()
    );
    Ok(())
}

/// To the same path that it has here.
fn copy_into(root: &Path, program: &Path) -> Result<()> {
    let there = root.join(program.strip_prefix("/").context("an absolute path")?);
    fs::create_dir_all(there.parent().context("a folder")?)?;
    fs::copy(program, there).with_context(|| format!("copy {}", program.display()))?;
    Ok(())
}
