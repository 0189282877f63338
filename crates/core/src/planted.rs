//! Bugs that the simulator's own tests plant into the shipped decisions, to prove that its checks
//! would see them. In what is built for release nothing of this is left.

/// A mistake that a cloud must never make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An agent obeys an answer older than what it has accepted.
    StaleGenerationAccepted,
    /// The writer answers before the store has the change.
    ReplyBeforeCommit,
    /// Terminating an instance frees its address before the host says that the guest is gone.
    AddressFreedEarly,
    /// An instance of a silent host is started on another one.
    SecondPlacementAfterUnknown,
    /// A host is believed about instances of other hosts.
    ReportOfAnotherHostBelieved,
    /// An instance is placed anew while the disk is still being copied from under it.
    CopiedWhileItRuns,
    /// The controller takes a host for fenced before its deadline is over.
    FenceCutShort,
    /// A controller that begins forgets that another has given longer leases.
    EarlierLeaseForgotten,
    /// A guest that was sent to another host is let go on as well where it was.
    DepartedGoesOn,
}

impl Bug {
    pub const ALL: [Bug; 9] = [
        Bug::StaleGenerationAccepted,
        Bug::ReplyBeforeCommit,
        Bug::AddressFreedEarly,
        Bug::SecondPlacementAfterUnknown,
        Bug::ReportOfAnotherHostBelieved,
        Bug::CopiedWhileItRuns,
        Bug::FenceCutShort,
        Bug::EarlierLeaseForgotten,
        Bug::DepartedGoesOn,
    ];
}

#[cfg(debug_assertions)]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug for this thread, or removes it.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this thread's decisions have the bug.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(debug_assertions)]
pub use switch::{plant, planted};

/// No bug is planted in what ships.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
