//! The whole measured in one run: `./dev bench`.

fn main() {}
