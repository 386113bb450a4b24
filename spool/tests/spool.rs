//! A spool against a simple model of it, and against damage of every kind.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;
use streamgate_spool::{
    Appended, Damage, Fsync, Holder, MIN_BYTES, OpenError, Record, Settings, Spool, WhenFull,
};

const NOW: Duration = Duration::ZERO;

fn settings(when_full: WhenFull) -> Settings {
    Settings {
        max_bytes: MIN_BYTES,
        when_full,
        fsync: Fsync::Never,
    }
}

fn open(folder: &Path) -> Spool {
    Spool::open(folder, settings(WhenFull::Block)).expect("it always opens")
}

fn append(spool: &Spool, events: u32, payload: &[u8]) -> Option<u64> {
    match spool.append(events, &[payload]).outcome {
        Appended::At(position) => Some(position),
        Appended::Full | Appended::Refused => None,
        Appended::Failed(error) => panic!("the disk works: {error}"),
    }
}

fn read(spool: &Spool) -> Option<Record> {
    let read = spool.read(NOW);
    assert_eq!(read.lost_events, 0);
    read.record
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "segment")
        })
        .collect();
    found.sort();
    found
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.segment"))
}

fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn records_come_back_in_order_until_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for number in 0..10_u8 {
        append(&spool, 1, &[number; 100]).unwrap();
    }
    let records: Vec<Record> = std::iter::from_fn(|| read(&spool)).collect();
    assert_eq!(records.len(), 10);
    // Out of order: the third keeps those behind it.
    for record in &records {
        if record.payload[0] != 3 {
            spool.acknowledge([record.position]);
        }
    }
    assert_eq!(spool.stats().events, 1);
    drop(spool);
    let spool = open(folder.path());
    let again: Vec<u8> = std::iter::from_fn(|| read(&spool))
        .map(|record| record.payload[0])
        .collect();
    assert_eq!(again, [3]);
    spool.rewind();
    assert_eq!(spool.stats().events, 1);
    while let Some(record) = read(&spool) {
        spool.acknowledge([record.position]);
    }
    assert_eq!(spool.stats().events, 0);
    drop(spool);
    assert!(segments(folder.path()).is_empty());
    let spool = open(folder.path());
    assert!(read(&spool).is_none());
    // Positions go on: a number never means two records.
    assert_eq!(append(&spool, 1, b"x"), Some(11));
}

#[test]
fn full_spool_blocks_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let mut appended = 0;
    while append(&spool, 3, &[7; 10_000]).is_some() {
        appended += 1;
        assert!(disk_bytes(folder.path()) <= MIN_BYTES);
    }
    assert!(appended > 90, "{appended} of about 104");
    assert_eq!(spool.stats().events, 3 * appended);
    let mut read_back = 0;
    while let Some(record) = read(&spool) {
        spool.acknowledge([record.position]);
        read_back += 1;
        if read_back == 30 {
            assert!(append(&spool, 3, &[8; 10_000]).is_some());
        }
    }
    assert_eq!(read_back, appended + 1);
}

#[test]
fn oldest_gives_way_and_every_event_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), settings(WhenFull::DropOldest)).unwrap();
    let mut dropped_events = 0;
    // What is in hand is never dropped: it could be on its way.
    append(&spool, 2, &[0; 10_000]).unwrap();
    let in_hand = read(&spool).unwrap();
    for _ in 0..1_000 {
        let appended = spool.append(2, &[&[1; 10_000]]);
        assert!(matches!(appended.outcome, Appended::At(_)), "{appended:?}");
        dropped_events += appended.dropped.events;
        assert!(disk_bytes(folder.path()) <= MIN_BYTES);
    }
    assert!(dropped_events > 1_000);
    spool.acknowledge([in_hand.position]);
    let mut read_events = 2;
    while let Some(record) = read(&spool) {
        read_events += u64::from(record.events);
        spool.acknowledge([record.position]);
    }
    assert_eq!(read_events + dropped_events, 2_002);
    assert_eq!(spool.stats().events, 0);
}

#[test]
fn newest_gives_way_if_so_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), settings(WhenFull::DropNewest)).unwrap();
    while append(&spool, 1, &[1; 10_000]).is_some() {}
    let refused = spool.append(1, &[&[1; 10_000]]).outcome;
    assert!(matches!(refused, Appended::Refused));
    // A record that is larger than the spool never fits.
    let blocking = tempfile::tempdir().unwrap();
    let large = vec![1; 2 * 1024 * 1024];
    let appended = open(blocking.path()).append(1, &[&large]).outcome;
    assert!(matches!(appended, Appended::Refused));
    // Nothing gives way for it either.
    let oldest = tempfile::tempdir().unwrap();
    let spool = Spool::open(oldest.path(), settings(WhenFull::DropOldest)).unwrap();
    append(&spool, 1, &[1; 900_000]).unwrap();
    let appended = spool.append(1, &[&large]);
    assert!(matches!(appended.outcome, Appended::Refused));
    assert_eq!((appended.dropped.events, spool.stats().events), (0, 1));
}

#[test]
fn second_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let second = Spool::open(folder.path(), settings(WhenFull::Block));
    let Err(OpenError::InUse { holder, .. }) = second else {
        panic!("it is in use");
    };
    assert_eq!(holder, Holder::ThisProcess);
    drop(spool);
    open(folder.path());
}

#[test]
fn damage_costs_the_records_that_it_hits_and_no_other() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let spool = open(folder.path());
        let mut ends = Vec::new();
        for number in 0..60_u8 {
            let payload = vec![number; random.usize(1..6_000)];
            append(&spool, 5, &payload).unwrap();
            // A segment that is new, or longer than before.
            let last = segments(folder.path()).pop().unwrap();
            let bytes = usize::try_from(fs::metadata(&last).unwrap().len()).unwrap();
            ends.push((last, bytes));
        }
        drop(spool);
        let paths = segments(folder.path());
        let path = &paths[random.usize(..paths.len())];
        let mut bytes = fs::read(path).unwrap();
        let at = random.usize(..bytes.len());
        let kind = random.u8(..5);
        let hit = |number: usize| {
            let (segment, end) = &ends[number];
            let begin = match number.checked_sub(1).map(|before| &ends[before]) {
                Some((before, end)) if before == segment => *end,
                _ => 0,
            };
            segment == path
                && match kind {
                    0 => (begin..*end).contains(&at),
                    // Between two records nothing is hit.
                    3 => begin < at && at < *end,
                    4 => true,
                    _ => *end > at,
                }
        };
        let left = (0..60).filter(|number| !hit(*number)).count() as u64;
        // How many were lost at the very end is not known.
        let end_is_whole = !hit(59);
        match kind {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes.truncate(at),
            2 => bytes[at..].fill(0),
            3 => drop(bytes.splice(at..at, [b'S', b'G', b'r', b'2', 0, 0])),
            _ => bytes = vec![random.u8(..); at],
        }
        fs::write(path, &bytes).unwrap();
        fs::write(folder.path().join("foreign.txt"), b"what is this").unwrap();
        let spool = open(folder.path());
        let recovered = spool.stats().events;
        append(&spool, 5, b"after").unwrap();
        let (mut found, mut last, mut lost) = (Vec::new(), Vec::new(), 0);
        loop {
            let read = spool.read(NOW);
            lost += read.lost_events;
            let Some(record) = read.record else { break };
            found.push(record.position);
            spool.acknowledge([record.position]);
            last = record.payload;
        }
        assert!(
            found.is_sorted() && last == b"after",
            "seed {seed}: {found:?}"
        );
        assert_eq!(found.len() as u64, left + 1, "seed {seed}, kind {kind}");
        assert_eq!(recovered, left * 5 + lost, "seed {seed}, kind {kind}");
        if end_is_whole {
            assert_eq!(lost, (60 - left) * 5, "seed {seed}, kind {kind}");
        }
        assert_eq!(spool.stats().events, 0, "seed {seed}");
    }
}

#[test]
fn damage_while_it_is_open_is_counted_in_events() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for _ in 0..20 {
        append(&spool, 5, &[9; 1_000]).unwrap();
    }
    let path = &segments(folder.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[3 * 1_032 + 500] ^= 1;
    fs::write(path, bytes).unwrap();
    let (mut found, mut lost) = (0, 0);
    loop {
        let read = spool.read(NOW);
        lost += read.lost_events;
        let Some(record) = read.record else { break };
        found += u64::from(record.events);
        spool.acknowledge([record.position]);
    }
    assert_eq!((found, lost), (95, 5));
    let stats = spool.stats();
    assert_eq!((stats.events, stats.lost_events), (0, 5));
    assert!(stats.damaged_bytes >= 1_000, "{stats:?}");
}

#[test]
fn deleted_files_are_counted_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for _ in 0..60 {
        append(&spool, 2, &[9; 10_000]).unwrap();
    }
    let paths = segments(folder.path());
    assert!(paths.len() > 3);
    fs::remove_file(&paths[1]).unwrap();
    let (mut found, mut lost) = (0, 0);
    loop {
        let read = spool.read(NOW);
        lost += read.lost_events;
        let Some(record) = read.record else { break };
        found += u64::from(record.events);
        spool.acknowledge([record.position]);
    }
    assert_eq!(found + lost, 120);
    assert!(lost > 0 && spool.stats().error.is_some());
}

/// Reads all there is, and returns the events that came, those that were lost, and the damage.
fn read_all(spool: &Spool) -> (u64, u64, Vec<Damage>) {
    let (mut found, mut lost, mut damage) = (0, 0, Vec::new());
    let mut last = 0;
    loop {
        let read = spool.read(NOW);
        lost += read.lost_events;
        damage.extend(read.damage);
        let Some(record) = read.record else { break };
        assert!(record.position > last, "in order");
        last = record.position;
        found += u64::from(record.events);
        spool.acknowledge([record.position]);
    }
    (found, lost, damage)
}

/// Fills a spool with records of 1 to 7 events, in several segments; returns how many events.
fn filled(folder: &Path) -> u64 {
    let spool = open(folder);
    (0..60_u32).fold(0, |events, number| {
        append(&spool, number % 7 + 1, &[9; 10_000]).unwrap();
        events + u64::from(number % 7 + 1)
    })
}

#[test]
fn segments_that_are_missing_or_cut_off_are_counted_in_events_after_a_restart() {
    for at in [0, 1, 2, 3, usize::MAX] {
        for harm in ["delete", "empty", "truncate", "cut at a record"] {
            let folder = tempfile::tempdir().unwrap();
            let events = filled(folder.path());
            let paths = segments(folder.path());
            assert!(paths.len() > 4);
            let path = &paths[at.min(paths.len() - 1)];
            let bytes = fs::read(path).unwrap();
            let cut = bytes.len() / 10_032 / 2 * 10_032;
            match harm {
                "delete" => fs::remove_file(path).unwrap(),
                "empty" => fs::write(path, b"").unwrap(),
                "truncate" => fs::write(path, &bytes[..bytes.len() / 2 + 5]).unwrap(),
                _ => fs::write(path, &bytes[..cut]).unwrap(),
            }
            for restart in 0..2 {
                let spool = open(folder.path());
                assert_eq!(spool.stats().events, events, "{harm} {at} {restart}");
            }
            let spool = open(folder.path());
            let (found, lost, damage) = read_all(&spool);
            assert_eq!(found + lost, events, "{harm} {at}");
            assert!(lost > 0, "{harm} {at}: {lost}");
            assert_eq!(damage.len(), 1, "{damage:?}");
            assert_eq!(damage[0].events, lost);
            let told = spool.stats();
            assert_eq!((told.events, told.lost_events), (0, lost), "{harm} {at}");
            assert_eq!(told.damaged_bytes > 0, harm == "truncate", "{harm} {at}");
            if harm != "cut at a record" {
                assert_eq!(&damage[0].path, path, "{harm} {at}");
            }
            drop(spool);
            // It is told once.
            let spool = open(folder.path());
            append(&spool, 1, b"after").unwrap();
            assert_eq!(read_all(&spool), (1, 0, Vec::new()), "{harm} {at}");
        }
    }
}

#[test]
fn swapped_and_copied_segments_cost_nothing_that_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let events = filled(folder.path());
    let paths = segments(folder.path());
    let aside = folder.path().join("aside");
    fs::rename(&paths[1], &aside).unwrap();
    fs::rename(&paths[3], &paths[1]).unwrap();
    fs::rename(&aside, &paths[3]).unwrap();
    let spool = open(folder.path());
    assert_eq!(spool.stats().events, events);
    assert_eq!(read_all(&spool), (events, 0, Vec::new()));

    let folder = tempfile::tempdir().unwrap();
    let events = filled(folder.path());
    let paths = segments(folder.path());
    fs::copy(&paths[1], &paths[2]).unwrap();
    let spool = open(folder.path());
    assert_eq!(spool.stats().events, events);
    let (found, lost, _) = read_all(&spool);
    assert_eq!(found + lost, events);
    assert!(lost > 10, "{lost}");
}

#[test]
fn what_gave_way_is_not_taken_for_damage() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), settings(WhenFull::DropOldest)).unwrap();
    append(&spool, 2, &[0; 10_000]).unwrap();
    let _in_hand = read(&spool).unwrap();
    let mut dropped = 0;
    for _ in 0..500 {
        dropped += spool.append(2, &[&[1; 10_000]]).dropped.events;
    }
    assert!(dropped > 500);
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(spool.stats().events, 1_002 - dropped);
    assert_eq!(read_all(&spool), (1_002 - dropped, 0, Vec::new()));
}

#[test]
fn folder_that_vanishes_is_noticed_before_records_are_said_to_be_safe() {
    for rename in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("spool");
        let spool = open(&inside);
        append(&spool, 3, b"safe").unwrap();
        let position = append(&spool, 3, b"waits for the disk").unwrap();
        match rename {
            true => fs::rename(&inside, folder.path().join("aside")).unwrap(),
            false => fs::remove_dir_all(&inside).unwrap(),
        }
        spool.sync(position).unwrap_err();
        let error = spool.stats().error.expect("it is told");
        assert!(error.contains("removed or renamed"), "{error}");
        // The next one is as safe as ever.
        let position = append(&spool, 3, b"later").unwrap();
        spool.sync(position).unwrap();
        assert!(spool.stats().error.is_some(), "it is shown for a while");
        let second = Spool::open(&inside, settings(WhenFull::Block));
        assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
        drop(spool);
        let spool = open(&inside);
        assert_eq!(read_all(&spool), (9, 0, Vec::new()), "rename: {rename}");
    }
}

#[test]
fn records_in_segments_that_vanished_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("spool");
    let spool = open(&inside);
    for _ in 0..60 {
        append(&spool, 2, &[9; 10_000]).unwrap();
    }
    fs::remove_dir_all(&inside).unwrap();
    append(&spool, 2, b"after").unwrap();
    assert_eq!(spool.stats().events, 122);
    let (found, lost, damage) = read_all(&spool);
    assert_eq!(found + lost, 122);
    // What was in the segment that was written is there.
    assert!(
        found > 2 && lost > 60 && !damage.is_empty(),
        "{found} {lost}"
    );
}

#[test]
fn newer_format_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let format = folder.path().join("format");
    assert_eq!(
        fs::read_to_string(&format).unwrap(),
        "streamgate-spool 2 d6950b9f\n"
    );
    fs::write(&format, "streamgate-spool 3 a1923b09\n").unwrap();
    fs::write(segment_path(folder.path(), 1), b"SGr3 what is this").unwrap();
    let found = Spool::open(folder.path(), settings(WhenFull::Block));
    let error = found.unwrap_err().to_string();
    assert!(
        error.contains("has format 3") && error.contains("knows formats 1 to 2"),
        "{error}"
    );
    let kept = fs::read(segment_path(folder.path(), 1)).unwrap();
    assert_eq!(kept, b"SGr3 what is this");
    // What is damaged says nothing.
    fs::write(&format, "streamgate-spool 3 00000000\n").unwrap();
    open(folder.path());
}

#[test]
fn spool_of_version_0_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/version-0.1/store/outputs/output-out/spool"
    );
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let spool = open(folder.path());
    append(&spool, 5, b"of this version").unwrap();
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(read_all(&spool), (25, 0, Vec::new()));
}

#[test]
fn disk_that_fails_is_told_of_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("spool");
    let spool = open(&inside);
    append(&spool, 1, b"before").unwrap();
    // The folder cannot be made again where a file is.
    let aside = folder.path().join("aside");
    fs::rename(&inside, &aside).unwrap();
    fs::write(&inside, b"in its place").unwrap();
    loop {
        match spool.append(1, &[&[5; 20_000]]).outcome {
            Appended::At(_) => {}
            Appended::Failed(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(spool.stats().error.is_some());
    fs::remove_file(&inside).unwrap();
    fs::rename(&aside, &inside).unwrap();
    append(&spool, 1, b"after").unwrap();
    assert_eq!(spool.stats().error, None);
    let mut last = Vec::new();
    while let Some(record) = read(&spool) {
        spool.acknowledge([record.position]);
        last = record.payload;
    }
    assert_eq!(last, b"after");
}

/// A write that the disk has no room for leaves nothing behind, and the next one is tried anew.
#[test]
fn full_disk_is_told_of_and_nothing_else_is_hurt() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let first = segment_path(folder.path(), 1);
    std::os::unix::fs::symlink("/dev/full", &first).unwrap();
    let Appended::Failed(error) = spool.append(1, &[b"no room"]).outcome else {
        panic!("there is no room");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(spool.stats().error.is_some() && spool.stats().events == 0);
    assert_eq!(append(&spool, 1, b"room"), Some(1));
    assert_eq!(read(&spool).unwrap().payload, b"room");
    assert!(fs::metadata(&first).unwrap().is_file());
}

#[test]
fn what_is_in_the_place_of_its_files_does_not_keep_it_from_opening() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("acknowledged")).unwrap();
    fs::create_dir(segment_path(folder.path(), 3)).unwrap();
    fs::write(segment_path(folder.path(), u64::MAX), b"SGr1").unwrap();
    let spool = open(folder.path());
    let position = append(&spool, 1, b"x").unwrap();
    let record = spool.read(NOW).record.unwrap();
    assert_eq!((record.position, record.payload), (position, b"x".to_vec()));
}

#[test]
fn sync_holds_for_all_who_wait() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        fsync: Fsync::Interval(Duration::from_secs(3600)),
        ..settings(WhenFull::Block)
    };
    let spool = Spool::open(folder.path(), settings).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let position = append(&spool, 1, &[1; 2_000]).unwrap();
                    spool.sync(position).unwrap();
                }
            });
        }
    });
    assert_eq!(spool.stats().events, 160);
}

/// What a spool should be.
#[derive(Debug, Default)]
struct Model {
    waiting: VecDeque<(u64, Vec<u8>)>,
    in_hand: VecDeque<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Read,
    Acknowledge(usize),
    Rewind,
    Close,
    Crash { torn: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..40_000).prop_map(Step::Append),
        6 => Just(Step::Read),
        5 => (0_usize..8).prop_map(Step::Acknowledge),
        1 => Just(Step::Rewind),
        1 => Just(Step::Close),
        1 => (0_usize..500).prop_map(|torn| Step::Crash { torn }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that was appended and not acknowledged is lost, whatever happens in between. Only a
    /// crash brings records back that were acknowledged.
    #[test]
    fn spool_does_what_its_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Some(open(folder.path()));
        let mut model = Model::default();
        let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
        let mut may_come_again: BTreeSet<u64> = BTreeSet::new();
        for step in steps {
            let open_spool = spool.as_ref().unwrap();
            match step {
                Step::Append(length) => {
                    let payload = vec![(length % 251).try_into().expect("below 256"); length];
                    if let Some(position) = append(open_spool, 1, &payload) {
                        model.waiting.push_back((position, payload));
                    }
                }
                Step::Read => {
                    let found = read(open_spool).map(|record| (record.position, record.payload));
                    if let Some((position, _)) = &found && acknowledged.contains(position) {
                        prop_assert!(may_come_again.remove(position));
                        open_spool.acknowledge([*position]);
                        continue;
                    }
                    let expected = model.waiting.pop_front();
                    prop_assert_eq!(&found, &expected);
                    model.in_hand.extend(found);
                }
                Step::Acknowledge(at) if at < model.in_hand.len() => {
                    let (position, _) = model.in_hand.remove(at).unwrap();
                    open_spool.acknowledge([position]);
                    acknowledged.insert(position);
                }
                Step::Acknowledge(_) => {}
                Step::Rewind => {
                    open_spool.rewind();
                    back_to_waiting(&mut model);
                }
                Step::Close => {
                    drop(spool.take());
                    spool = Some(open(folder.path()));
                    back_to_waiting(&mut model);
                }
                Step::Crash { torn } => {
                    // Of a crash only what was closed before is known.
                    let path = folder.path().join("closed");
                    let before = fs::read(&path).unwrap_or_default();
                    drop(spool.take());
                    fs::write(path, before).unwrap();
                    may_come_again.clone_from(&acknowledged);
                    // What a write that did not finish leaves behind.
                    if let Some(last) = segments(folder.path()).last() {
                        let mut bytes = fs::read(last).unwrap();
                        bytes.extend((0..torn).map(|_| fastrand::u8(..)));
                        fs::write(last, bytes).unwrap();
                    }
                    spool = Some(open(folder.path()));
                    back_to_waiting(&mut model);
                }
            }
        }
        let spool = spool.unwrap();
        spool.rewind();
        back_to_waiting(&mut model);
        let mut rest = Vec::new();
        while let Some(record) = read(&spool) {
            if !acknowledged.contains(&record.position) {
                rest.push((record.position, record.payload));
            }
        }
        prop_assert_eq!(rest, Vec::from(model.waiting));
    }
}

#[test]
fn after_a_clean_close_only_what_was_not_acknowledged_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for number in 0..6_u8 {
        append(&spool, 10, &[number; 100]).unwrap();
    }
    let positions: Vec<u64> = (0..5).map(|_| read(&spool).unwrap().position).collect();
    spool.acknowledge([positions[1], positions[3]]);
    spool.acknowledge_part(positions[2], 4);
    spool.acknowledge_part(positions[2], 3);
    spool.acknowledge_part(positions[4], 7);
    spool.acknowledge_part(positions[1], 7);
    assert_eq!(spool.stats().events, 10 + 6 + 3 + 10);
    drop(spool);
    for _ in 0..2 {
        let spool = open(folder.path());
        assert_eq!(spool.stats().events, 10 + 6 + 3 + 10);
        let left: Vec<(u64, u32, u32)> = std::iter::from_fn(|| read(&spool))
            .map(|record| (record.position, record.events, record.done))
            .collect();
        let expected = [(1, 10, 0), (3, 10, 4), (5, 10, 7), (6, 10, 0)];
        assert_eq!(left, expected);
        spool.rewind();
        assert_eq!(read(&spool).unwrap().position, 1);
        assert_eq!(spool.stats().events, 10 + 6 + 3 + 10);
    }
    let spool = open(folder.path());
    while let Some(record) = read(&spool) {
        spool.acknowledge([record.position]);
    }
    assert_eq!(spool.stats().events, 0);
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(spool.stats().events, 0);
    assert_eq!(append(&spool, 1, b"x"), Some(7));
}

#[test]
fn records_that_are_missing_at_the_end_are_counted_after_a_close() {
    for whole_file in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(folder.path());
        for number in 0..5_u8 {
            append(&spool, 10, &[number; 100]).unwrap();
        }
        drop(spool);
        let path = &segments(folder.path())[0];
        let bytes = fs::metadata(path).unwrap().len();
        match whole_file {
            true => fs::remove_file(path).unwrap(),
            false => {
                let file = fs::File::options().write(true).open(path).unwrap();
                file.set_len(bytes * 3 / 5).unwrap();
            }
        }
        let spool = open(folder.path());
        let (events, lost, damage) = read_all(&spool);
        let expected = if whole_file { (0, 50) } else { (30, 20) };
        assert_eq!((events, lost), expected, "{damage:?}");
        assert_eq!(damage.len(), 1);
        assert_eq!(
            append(&spool, 1, b"x"),
            Some(6),
            "no position is used twice"
        );
        assert_eq!(read(&spool).unwrap().position, 6);
    }
}

/// What was done with before the close is not lost with its record.
#[test]
fn only_what_was_not_done_with_is_lost() {
    for harm in [
        "flip in the first record",
        "flip in the last record",
        "delete",
        "cut",
    ] {
        for single in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let spool = open(folder.path());
            let records = if single { 1 } else { 3 };
            for number in 0..records {
                append(&spool, 100, &[number; 1_000]).unwrap();
            }
            let positions: Vec<u64> = (0..records)
                .map(|_| read(&spool).unwrap().position)
                .collect();
            spool.acknowledge_part(positions[0], 30);
            if !single {
                spool.acknowledge([positions[1]]);
            }
            let left = spool.stats().events;
            assert_eq!(left, if single { 70 } else { 170 });
            drop(spool);
            let path = &segments(folder.path())[0];
            let mut bytes = fs::read(path).unwrap();
            match harm {
                "delete" => fs::remove_file(path).unwrap(),
                "cut" => fs::write(path, &bytes[..bytes.len() - 500]).unwrap(),
                _ => {
                    let at = if harm.contains("first") {
                        500
                    } else {
                        bytes.len() - 500
                    };
                    bytes[at] ^= 1;
                    fs::write(path, bytes).unwrap();
                }
            }
            let spool = open(folder.path());
            assert_eq!(spool.stats().events, left, "{harm} {single}");
            let (mut found, mut lost) = (0, 0);
            loop {
                let read = spool.read(NOW);
                lost += read.lost_events;
                let Some(record) = read.record else { break };
                found += u64::from(record.events - record.done);
                spool.acknowledge([record.position]);
            }
            let expected = match (harm, single) {
                (_, true) => (0, 70),
                ("flip in the first record", _) => (100, 70),
                ("delete", _) => (0, 170),
                _ => (70, 100),
            };
            assert_eq!((found, lost), expected, "{harm} {single}");
            assert_eq!(spool.stats().events, 0);
            drop(spool);
            let spool = open(folder.path());
            assert_eq!(read_all(&spool), (0, 0, Vec::new()), "it is told once");
        }
    }
}

fn back_to_waiting(model: &mut Model) {
    let mut again: Vec<_> = model.in_hand.drain(..).collect();
    again.sort_unstable_by_key(|(position, _)| *position);
    for record in again.into_iter().rev() {
        model.waiting.push_front(record);
    }
}
