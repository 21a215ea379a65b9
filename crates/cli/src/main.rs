//! `ds4`.
fn main() {}
