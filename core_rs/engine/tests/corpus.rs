//! Runs again, on any Rust, what the fuzzer has found worth keeping (`fuzz/README.md`).

use std::fs;
use std::path::Path;

mod targets;

/// Fewer files than this in a folder mean that it was lost, not that all is well.
const FILES_MIN: usize = 20;

fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count >= FILES_MIN, "{name} has {count} files");
}

#[test]
fn json_bodies_are_read_as_others_read_them() {
    run("json_body", targets::json_body);
}

#[test]
fn tokens_are_never_forged() {
    run("token", targets::token);
}

#[test]
fn messages_are_packed_as_they_were_unpacked() {
    run("iso8583", targets::iso8583);
}

#[test]
fn rules_are_read_or_refused_with_a_place() {
    run("rules_file", targets::rules_file);
}

#[test]
fn a_history_is_decided_the_same_however_it_is_cut() {
    run("history", targets::history);
}

#[test]
fn stored_decisions_and_states_are_read_or_refused() {
    run("stored", targets::stored);
}
