//! The table of maps in `docs/sizing.md` is that of the ABI.

use std::{fs, path::Path};

use proxy_ebpf::abi::{MAPS, MapKind, MapSpec};

const HEADER: &str = "| map | kind | entries | key | value | all entries |";

/// Room for all entries, without the kernel's overhead.
fn row(spec: &MapSpec) -> String {
    let MapSpec { name, kind, key, value, capacity, .. } = *spec;
    let (kind, entry) = match kind {
        MapKind::MmapArray | MapKind::Array | MapKind::SockMap => ("array", value),
        MapKind::PerCpuArray => ("array per CPU", value),
        MapKind::Hash | MapKind::UserHash => ("hash", key + value),
        MapKind::LruHash => ("LRU hash", key + value),
        MapKind::LpmTrie => ("trie", key + value),
        MapKind::SocketStorage => return format!("| `{name}` | per socket | - | - | {value} | - |"),
    };
    let bytes = entry * capacity as usize;
    let all = if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    } else {
        format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
    };
    format!("| `{name}` | {kind} | {capacity} | {key} | {value} | {all} |")
}

#[test]
fn the_page_has_the_sizes_of_the_maps() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sizing.md");
    let page = fs::read_to_string(page).unwrap();
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != HEADER)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let want: Vec<String> = MAPS.iter().map(row).collect();
    assert_eq!(rows, want, "the table of docs/sizing.md is to be:\n{}", want.join("\n"));
}
