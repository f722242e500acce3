//! The ways on which bytes come.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Steps known beforehand.
    Scheduled,
    /// Steps that are told when they are known, and wanted at once.
    Chosen,
    /// Single records, which have slots of their own and are not read ahead.
    Single,
}
