//! Replays the corpora of the fuzz targets, so that `cargo test` guards what fuzzing once found.

use crate::checks;
use std::fs;
use std::path::Path;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 29] = [
    ("answer", checks::answers),
    ("chunks", checks::chunks),
    ("client_hello", checks::client_hellos),
    ("configurations", checks::configurations),
    ("cookies", checks::cookies),
    ("cross_site", checks::cross_site),
    ("engine_io_handshake", checks::engine_io_handshake),
    ("engine_io_request", checks::engine_io_request),
    ("expression", checks::expressions),
    ("first_event", checks::first_events),
    ("flash", checks::flash_policies),
    ("forwarding", checks::forwarding),
    ("framing", checks::framing),
    ("json_pointer", checks::json_pointers),
    ("passing", checks::passing),
    ("path", checks::paths),
    ("peer_mark", checks::peer_marks),
    ("proxy_protocol", checks::proxy_headers),
    ("request_head", checks::request_heads),
    ("response_head", checks::response_heads),
    ("signalr_negotiation", checks::signalr_negotiations),
    ("sniff", checks::sniffing),
    ("sockjs_path", checks::sockjs_paths),
    ("ticket_keys", checks::ticket_keys),
    ("tls_records", checks::tls_records),
    ("tls_streams", checks::tls_streams),
    ("tokens", checks::tokens),
    ("trace_parent", checks::trace_parents),
    ("websocket_frames", checks::websocket_frames),
];

#[test]
fn every_corpus_passes_its_check() {
    for (target, check) in TARGETS {
        let files = names(&Path::new("fuzz/corpus").join(target));
        assert!(!files.is_empty(), "the corpus of {target} is empty");
        for file in files {
            // Shown only if a check fails, and then the last line names the file.
            println!("fuzz/corpus/{target}/{file}");
            check(&fs::read(root().join("fuzz/corpus").join(target).join(file)).unwrap());
        }
    }
}

#[test]
fn every_fuzz_target_has_a_corpus_that_is_replayed() {
    let expected: Vec<_> = TARGETS.iter().map(|(target, _)| target.to_string()).collect();
    let targets: Vec<_> = names(Path::new("fuzz/fuzz_targets")).iter().map(|file| file.replace(".rs", "")).collect();
    assert_eq!(targets, expected);
    assert_eq!(names(Path::new("fuzz/corpus")), expected);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
