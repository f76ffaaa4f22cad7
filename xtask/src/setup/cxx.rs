//! Lives: xtask, setup's look for a C++ compiler.
//! Called by: setup, for the task `fuzz`: libFuzzer is C++, and its crate compiles it.
//! May touch: the environment, and the compiler it names.
//! Never: installs one: that is the machine's owner's to do.

use std::env;
use std::process::Command;

use super::{Failure, Found};
use crate::process;

/// What the crate `cc` would take: `CXX`, else `c++`.
pub fn check() -> Result<Found, Failure> {
    let program = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    answers(&program)
}

fn answers(program: &str) -> Result<Found, Failure> {
    match process::capture(Command::new(program).arg("--version")) {
        Ok(text) => Ok(Found::Ok(text.lines().next().unwrap_or(program).to_owned())),
        Err(error) => Err(Failure::new(
            format!("there is no C++ compiler, and libFuzzer is C++ ({error:#})"),
            "install one (Debian: g++; Fedora: gcc-c++; Alpine: g++), or name one in the variable CXX",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_not_there_is_named_with_what_to_install() {
        let Err(failure) = answers("/nowhere/c++") else { panic!("found a compiler at /nowhere") };
        assert!(failure.remedy.contains("g++") && failure.what.contains("libFuzzer"), "{failure}");
    }
}
