//! Connections that follow a guest to another host: entries of the kernel's connection tracking, in the
//! words of conntrack(8), of the calling thread's namespace.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use crate::namespace::ask_tool;

/// Who has begun a connection, and with whom.
const ENDS: [&str; 2] = ["--orig-src", "--orig-dst"];
/// The most that is kept of one guest; what is beyond it may break.
const ENTRIES_MAX: usize = 10_000;

/// Entries of an address, one line each.
pub fn save(ip: Ipv4Addr) -> io::Result<String> {
    // One to itself is in both lists.
    let mut entries = BTreeSet::new();
    for end in ENDS {
        let args = ["-L", "-f", "ipv4", "-o", "save", end, &ip.to_string()];
        let said = ask_tool("conntrack", &args, "")?;
        let left = ENTRIES_MAX - entries.len();
        entries.extend(said.lines().take(left).map(|line| format!("{line}\n")));
    }
    Ok(entries.into_iter().collect())
}

/// Adds entries of an address that [`save`] wrote on another host.
pub fn load(saved: &str, ip: Ipv4Addr) -> io::Result<()> {
    let lines: Vec<_> = saved
        .lines()
        .filter(|line| is_entry(line, ip))
        .take(ENTRIES_MAX)
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    ask_tool("conntrack", &["-R", "-"], &(lines.join("\n") + "\n")).map(drop)
}

/// Forgets all connections of an address: whoever has it next has none of them.
pub fn forget(ip: Ipv4Addr) {
    for end in ENDS {
        // Fails where there is none, and where the tool isn't there, which has added none either.
        let _ = ask_tool("conntrack", &["-D", "-f", "ipv4", end, &ip.to_string()], "");
    }
}

/// Whether a line adds an entry of this address, and nothing else.
fn is_entry(line: &str, ip: Ipv4Addr) -> bool {
    let ip = ip.to_string();
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let end = |name: &str| {
        words
            .windows(2)
            .any(|pair| pair[0] == name && pair[1] == ip)
    };
    let options: Vec<_> = words.iter().filter(|word| word.starts_with('-')).collect();
    let once = options.iter().collect::<BTreeSet<_>>().len() == options.len();
    if !once || (!end("-s") && !end("-d")) {
        return false;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ',' | '-' | '_');
    let mut words = line.split_ascii_whitespace();
    words.next() == Some("-A")
        && words.all(|word| word.chars().all(is_word) && !names_command(word))
}

/// Other commands of conntrack's than `-A`, which one line could name beside it.
fn names_command(word: &str) -> bool {
    let long = word.strip_prefix("--");
    match long {
        Some(name) => {
            !(name.starts_with("sport")
                || name.starts_with("dport")
                || name.starts_with("reply-")
                || name.starts_with("state")
                || name.starts_with("icmp-")
                || name.starts_with("gre-"))
        }
        None => {
            word.starts_with('-') && !["-t", "-u", "-s", "-d", "-r", "-q", "-p"].contains(&word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_are_added() {
        let entry = "-A -t 431999 -u SEEN_REPLY,ASSURED -s 172.31.0.9 -d 172.31.0.7 -r 172.31.0.7 \
            -q 172.31.0.9 -p tcp --sport 40112 --dport 5000 --reply-port-src 5000 \
            --reply-port-dst 40112 --state ESTABLISHED";
        let ours = "172.31.0.9".parse().unwrap();
        assert!(is_entry(entry, ours));
        assert!(is_entry(entry, "172.31.0.7".parse().unwrap()));
        assert!(!is_entry(entry, "172.31.0.8".parse().unwrap()), "another's");
        for more in [
            "-F",
            "--flush",
            "-s 1.2.3.4;reboot",
            "-R /etc/passwd",
            "-D",
            "-s 172.31.0.8",
        ] {
            let other = format!("{entry} {more}");
            assert!(!is_entry(&other, ours), "{other}");
        }
    }
}
