//! The pure core: bytes and numbers in, decisions and bytes out.
//!
//! Knows no Python, no clock, no socket and no file; time is an argument. Money is an integer of
//! minor units and every sum is checked.
#![forbid(unsafe_code)]

pub mod iso8583;
