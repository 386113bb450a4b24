//! Prints how fast a spool takes, opens with and gives back 1 GiB:
//! `cargo run --release -p streamgate-spool --example spool-speed -- FOLDER`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for the terminal"
)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use streamgate_spool::{Appended, Fsync, Settings, Spool, WhenFull};

const GIB: usize = 1024 * 1024 * 1024;

fn main() {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.expect("expected a folder to work in, as the only argument");
    for (fsync, name) in [
        (Fsync::Never, "never"),
        (Fsync::Interval(Duration::from_millis(500)), "every 500 ms"),
    ] {
        for payload in [4 * 1024, 256 * 1024] {
            run(&folder.join("spool-speed"), fsync, name, payload);
        }
    }
}

fn run(folder: &PathBuf, fsync: Fsync, name: &str, payload: usize) {
    let settings = Settings {
        max_bytes: 2 * GIB as u64,
        when_full: WhenFull::Block,
        fsync,
    };
    let spool = Spool::open(folder, settings).unwrap();
    let bytes = vec![b'x'; payload];
    let begun = Instant::now();
    for _ in 0..GIB / payload {
        let appended = spool.append(100, &[&bytes]).outcome;
        assert!(matches!(appended, Appended::At(_)));
    }
    let appended = begun.elapsed();
    drop(spool);
    let begun = Instant::now();
    let spool = Spool::open(folder, settings).unwrap();
    let opened = begun.elapsed();
    let begun = Instant::now();
    let mut records = 0;
    while let Some(record) = spool.read(Duration::ZERO).record {
        records += 1;
        spool.acknowledge([record.position]);
    }
    let read = begun.elapsed();
    assert_eq!(records, GIB / payload);
    drop(spool);
    std::fs::remove_dir_all(folder).unwrap();
    println!(
        "fsync {name:12} records of {:3} KiB: append {:6.0} MiB/s, open {:5.2} s, read {:6.0} MiB/s",
        payload / 1024,
        1024.0 / appended.as_secs_f64(),
        opened.as_secs_f64(),
        1024.0 / read.as_secs_f64(),
    );
}
