//! The committed Candid file of a canister and the interface of its code must be the same text.

/// Compares the committed Candid file with the interface that the code exports; with `UPDATE_CANDID=1` in the
/// environment it writes the file instead. For native tests.
///
/// # Panics
/// When they differ, naming the first line that does, or when the file can't be read or written.
pub fn assert_candid_file(path: &str, exported: &str) {
    let exported = format!("{}\n", exported.trim_end());
    if std::env::var_os("UPDATE_CANDID").is_some_and(|value| value == "1") {
        std::fs::write(path, exported).unwrap_or_else(|error| panic!("can't write {path}: {error}"));
        return;
    }
    let committed =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("can't read {path}: {error}"));
    if committed != exported {
        let line = committed.lines().zip(exported.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or_else(|| committed.lines().count().min(exported.lines().count()));
        panic!(
            "{path} differs from the code at line {}:\n  file: {}\n  code: {}\nrun the test again with UPDATE_CANDID=1",
            line + 1,
            committed.lines().nth(line).unwrap_or("<end>"),
            exported.lines().nth(line).unwrap_or("<end>"),
        );
    }
}
