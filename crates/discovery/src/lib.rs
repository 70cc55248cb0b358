//! Placeholder while the skeleton is laid.
#![forbid(unsafe_code)]
