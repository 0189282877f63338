//! Connections that follow a guest to another host: entries of the kernel's connection tracking, in the
//! words of conntrack(8), of the calling thread's namespace.

use std::io;

use crate::namespace::ask_tool;

/// The most that is kept of one guest; what is beyond it may break.
const ENTRIES_MAX: usize = 10_000;

/// All entries of an address, one line each.
pub fn save(ip: &str) -> io::Result<String> {
    let mut entries = String::new();
    for end in ["--orig-src", "--orig-dst"] {
        let args = ["-L", "-f", "ipv4", "-o", "save", end, ip];
        for line in ask_tool("conntrack", &args, "")?.lines() {
            // One to itself is in both lists.
            if !entries.lines().any(|known| known == line) {
                entries.push_str(line);
                entries.push('\n');
            }
        }
    }
    Ok(entries)
}

/// Adds entries that [`save`] wrote on another host.
pub fn load(saved: &str) -> io::Result<()> {
    let lines: Vec<_> = saved
        .lines()
        .filter(|line| is_entry(line))
        .take(ENTRIES_MAX)
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    ask_tool("conntrack", &["-R", "-"], &(lines.join("\n") + "\n")).map(drop)
}

/// Whether a line adds an entry, and nothing else.
fn is_entry(line: &str) -> bool {
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
        assert!(is_entry(entry));
        for other in [
            "-F",
            "-A -F",
            "-A --flush",
            "-A -s 1.2.3.4;reboot",
            "",
            "-R /etc/passwd",
        ] {
            assert!(!is_entry(other), "{other}");
        }
    }
}
