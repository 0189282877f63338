//! Which of EC2's operations are served, as a page of the documentation.
//!
//! The page follows from the dispatch table, so that it can't promise what isn't there. After a change:
//! `BOIRA_WRITE_DOCS=1 cargo test -p boira-controller coverage`.

use super::{action, empty};
use boira_api::shapes::ec2::SERVICE;
use std::fmt::Write;

/// How an operation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    Served,
    /// Nothing of the kind can exist yet: an empty list after validation.
    Empty,
    /// `UnsupportedOperation` after validation.
    NotServed,
}

impl Coverage {
    pub fn of(operation: &str) -> Self {
        match (action(operation), empty::row(operation)) {
            (None, _) => Self::NotServed,
            (Some(_), Some(_)) => Self::Empty,
            (Some(_), None) => Self::Served,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Empty => "empty",
            Self::NotServed => "",
        }
    }
}

/// The page `docs/ec2-coverage.md`.
pub fn coverage_markdown() -> String {
    let all: Vec<(&str, Coverage)> = SERVICE
        .operations
        .iter()
        .map(|op| (op.name, Coverage::of(op.name)))
        .collect();
    let count = |wanted| {
        all.iter()
            .filter(|(_, coverage)| *coverage == wanted)
            .count()
    };
    let mut page = format!(
        "# EC2 operations\n\n\
         EC2 (API version {}) has {} operations. Boira serves {} of them; {} more, marked *empty*, list \
         kinds of which nothing can exist yet: they validate the request, answer an empty list, and \
         NotFound for what is named. The others validate the request and then answer \
         `UnsupportedOperation`; a name that EC2 doesn't have is an `InvalidAction`.\n\n\
         A parameter that a served operation doesn't honour is refused, never ignored. TerminateInstances \
         ends a guest at once, as AWS does with `SkipOsShutdown`, but where a disk stays \
         (`DeleteOnTermination=false`): there it is switched off in order first. This page is \
         generated from the dispatch table.\n\n\
         | operation | answer |\n|---|---|\n",
        SERVICE.version,
        all.len(),
        count(Coverage::Served),
        count(Coverage::Empty),
    );
    for (name, coverage) in all {
        // Writing into a string can't fail.
        let _ = writeln!(page, "| {name} | {} |", coverage.word());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_answered_as_the_table_says() {
        assert_eq!(Coverage::of("RunInstances"), Coverage::Served);
        assert_eq!(Coverage::of("DescribeNatGateways"), Coverage::Empty);
        assert_eq!(Coverage::of("CreateNatGateway"), Coverage::NotServed);
        let page = coverage_markdown();
        assert!(page.contains("| RunInstances | served |\n"));
        assert!(page.contains("| CreateNatGateway |  |\n"));
    }

    #[test]
    fn the_page_of_the_documentation_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ec2-coverage.md");
        let page = coverage_markdown();
        if std::env::var_os("BOIRA_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).expect("write the page");
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == page,
            "docs/ec2-coverage.md is out of date: BOIRA_WRITE_DOCS=1 cargo test -p boira-controller coverage"
        );
    }
}
