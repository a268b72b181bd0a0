//! docs/results.md shows what the sweeps wrote: their tables are kept in docs/sweeps/tables as `table.md` came out of the
//! sweep, and stand in the text line by line.
use std::fs;
use std::path::Path;

#[test]
fn results_show_the_tables_as_the_sweeps_wrote_them() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let results = fs::read_to_string(docs.join("results.md")).expect("docs/results.md");
    let tables: Vec<_> = fs::read_dir(docs.join("sweeps/tables")).expect("docs/sweeps/tables").flatten().collect();
    let markdown = tables.iter().map(fs::DirEntry::path).filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut seen = 0;
    for path in markdown {
        let text = fs::read_to_string(&path).expect("a table");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(results.contains(&format!("sweeps/{name}.toml")), "docs/results.md does not say how {name} is made");
        for table in text.split("\n\n").filter(|block| block.starts_with('|')) {
            seen += 1;
            let first = table.lines().find(|line| !results.contains(*line));
            assert_eq!(first, None, "docs/results.md lacks this line of {}", path.display());
            assert!(results.contains(table.trim_end()), "docs/results.md has a table of {} in pieces", path.display());
        }
    }
    assert!(seen > 0, "no table in docs/sweeps/tables");
}
