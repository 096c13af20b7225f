//! Printers of checked kernel programs.
pub mod rust;
