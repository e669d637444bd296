//! Several workers on a machine made of files.

use std::path::PathBuf;

use super::*;

const MIB: u64 = 1 << 20;
const PLENTY: u64 = 4_000 * MIB;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("dev/shm")).unwrap();
    root
}

fn owes(owed: u64) -> Said {
    Said { owed: owed * MIB, ..Said::default() }
}

fn table(root: &tempfile::TempDir) -> PathBuf {
    let dir = std::fs::read_dir(root.path().join("dev/shm")).unwrap().next().unwrap().unwrap();
    std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path()
}

/// Another worker's process, as `/proc` would show it.
fn process(root: &tempfile::TempDir, pid: u32, began: u64) {
    let dir = root.path().join(format!("proc/{pid}"));
    std::fs::create_dir_all(&dir).unwrap();
    let fields = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0";
    std::fs::write(dir.join("stat"), format!("{pid} (a b) c) {fields} {began} 5\n")).unwrap();
}

/// A record of another process in the place of `share`.
fn forge(share: &Share, pid: u32, began: u64, said: Said) {
    let record = Record { pid, began, turn: 1, said, under: Under::default() };
    share.file.write_all_at(&record.words(), table::offset(share.slot)).unwrap();
}

#[test]
fn each_hears_what_the_others_owe_until_they_leave() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    let mut three = Share::join(root.path()).unwrap();
    one.say(owes(100), at(0)).unwrap();
    two.say(Said { used: 5, running: 2, idle: 3, ..owes(30) }, at(0)).unwrap();
    let heard = three.hear(PLENTY, &[], at(1)).unwrap();
    let both = Elsewhere {
        workers: 2,
        promised: 130 * MIB,
        used: 5,
        among: heard.among,
        before: 5,
        back: 5,
        running: 2,
        idle: 3,
        busy: true,
        first: false,
    };
    assert_eq!(heard, both);
    one.intend(50 * MIB).unwrap();
    assert_eq!(three.hear(PLENTY, &[], at(2)).unwrap().promised, 180 * MIB);
    drop(one);
    assert_eq!(three.hear(PLENTY, &[], at(3)).unwrap().promised, 30 * MIB);
    let heard = two.hear(PLENTY, &[], at(3)).unwrap();
    assert_eq!((heard.workers, heard.promised), (1, 0));
}

#[test]
fn another_set_of_workers_is_told_from_one_that_uses_more() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    let other = Share::join(root.path()).unwrap();
    process(&root, 77, 1234);
    let alone = two.hear(PLENTY, &[], at(0)).unwrap().among;
    forge(&other, 77, 1234, Said { used: 900 * MIB, ..Said::default() });
    let joined = two.hear(PLENTY, &[], at(1)).unwrap();
    assert_ne!(joined.among, alone, "it was not there");
    one.say(Said { used: 5, ..Said::default() }, at(1)).unwrap();
    assert_eq!(two.hear(PLENTY, &[], at(2)).unwrap().among, joined.among, "the same ones");
    drop(one);
    assert_ne!(two.hear(PLENTY, &[], at(3)).unwrap().among, joined.among, "one has gone");
}

#[test]
fn what_was_owed_lately_is_owed_still() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    one.say(owes(100), at(1_000)).unwrap();
    for (ms, owed) in [(1_025, 100), (1_090, 100), (1_125, 100), (1_126, 40)] {
        one.say(owes(40), at(ms)).unwrap();
        assert_eq!(two.hear(PLENTY, &[], at(ms)).unwrap().promised, owed * MIB, "{ms}");
    }
}

#[test]
fn of_a_worker_whose_process_is_gone_or_anothers_nothing_counts() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let two = Share::join(root.path()).unwrap();
    let said = Said { running: 1, first: true, ..owes(100) };
    process(&root, 77, 1234);
    forge(&two, 77, 1234, said);
    let first = one.hear(PLENTY, &[], at(0)).unwrap();
    assert!(first.first && first.running == 1 && first.promised == 100 * MIB);
    // It is stopped: it has its promise, and nobody waits for it.
    let silent = one.hear(PLENTY, &[], at(3_000)).unwrap();
    assert!(!silent.first && silent.running == 0 && silent.promised == 100 * MIB, "{silent:?}");
    process(&root, 77, 9999);
    assert_eq!(
        one.hear(PLENTY, &[], at(4_000)).unwrap(),
        Elsewhere::default(),
        "its number is another's"
    );
    process(&root, 77, 1234);
    assert_eq!(one.hear(PLENTY, &[], at(5_000)).unwrap().workers, 1);
    std::fs::remove_dir_all(root.path().join("proc/77")).unwrap();
    assert_eq!(one.hear(PLENTY, &[], at(6_000)).unwrap(), Elsewhere::default());
    // The next that comes takes its place.
    let slot = two.slot;
    assert_eq!(Share::join(root.path()).unwrap().slot, slot);
}

#[test]
fn half_a_record_is_not_believed() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    two.say(owes(100), at(0)).unwrap();
    assert_eq!(one.hear(PLENTY, &[], at(0)).unwrap().promised, 100 * MIB);
    let torn = (7 * MIB).to_le_bytes();
    two.file.write_all_at(&torn, table::offset(two.slot) + 24).unwrap();
    assert_eq!(
        one.hear(PLENTY, &[], at(1)).unwrap().promised,
        100 * MIB,
        "the last good one stands"
    );
    two.say(owes(60), at(1_000)).unwrap();
    two.say(owes(60), at(2_000)).unwrap();
    assert_eq!(one.hear(PLENTY, &[], at(2_000)).unwrap().promised, 60 * MIB);
}

#[test]
fn of_two_that_want_to_be_first_one_is() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    let first = Said { first: true, ..Said::default() };
    two.say(first, at(0)).unwrap();
    assert!(one.hear(PLENTY, &[], at(0)).unwrap().first);
    one.say(first, at(0)).unwrap();
    assert!(
        !one.hear(PLENTY, &[], at(0)).unwrap().first && two.hear(PLENTY, &[], at(0)).unwrap().first
    );
}

fn limit(group: u64, free: u64) -> Limit {
    Limit { group, free: free * MIB }
}

/// Says this, below these limits.
fn say(share: &mut Share, limits: &[Limit], said: Said) {
    share.hear(PLENTY, limits, at(0)).unwrap();
    share.say(said, at(0)).unwrap();
}

#[test]
fn promises_count_against_the_memory_that_they_draw_on() {
    let root = machine();
    let [mut one, mut same, mut other] = [(); 3].map(|()| Share::join(root.path()).unwrap());
    let ours = [limit(1, 500)];
    say(&mut same, &ours, Said { running: 1, ..owes(100) });
    say(&mut other, &[limit(2, 500)], Said { running: 1, ..owes(900) });
    let heard = one.hear(4_000 * MIB, &ours, at(0)).unwrap();
    assert_eq!((heard.promised, heard.running), (100 * MIB, 1), "another's limit is not ours");
    let heard = one.hear(1_200 * MIB, &ours, at(0)).unwrap();
    assert_eq!(heard.promised, 300 * MIB, "500 are free in the group, 200 on the machine");
}

#[test]
fn under_limits_of_their_own_workers_share_the_one_above_both() {
    const BOTH: u64 = 7;
    let root = machine();
    let [mut one, mut two, mut far] = [(); 3].map(|()| Share::join(root.path()).unwrap());
    let said = Said { used: 200 * MIB, running: 1, idle: 2, first: true, ..owes(300) };
    say(&mut two, &[limit(2, 400), limit(BOTH, 500)], said);
    say(&mut far, &[limit(3, 50)], Said { used: 70 * MIB, first: true, ..owes(40) });
    // The limit above leaves 500, of which 300 are promised; our own leaves 600.
    let heard = one.hear(PLENTY, &[limit(1, 600), limit(BOTH, 500)], at(0)).unwrap();
    assert_eq!((heard.workers, heard.promised), (2, 300 * MIB));
    assert_eq!((heard.running, heard.idle, heard.busy), (1, 2, true));
    assert_eq!((heard.used, heard.back), (200 * MIB, 100 * MIB), "then our own is the tightest");
    // Our own leaves 250, and so the one above, promises counted, 200.
    let heard = one.hear(PLENTY, &[limit(1, 250), limit(BOTH, 500)], at(0)).unwrap();
    assert_eq!((heard.promised, heard.used, heard.back), (50 * MIB, 0, 0));
    assert_eq!(heard.before, 200 * MIB, "of the limit that was the tightest before");
    // Who wants all the memory wants that of the limit that is too tight for it.
    assert!(!heard.first, "its own leaves it the least");
    say(&mut two, &[limit(2, 900), limit(BOTH, 500)], said);
    assert!(one.hear(PLENTY, &[limit(1, 250), limit(BOTH, 500)], at(0)).unwrap().first);
    assert!(!far.hear(PLENTY, &[limit(3, 50)], at(0)).unwrap().first);
}

#[test]
fn who_is_under_more_limits_than_can_be_told_counts_everywhere() {
    let root = machine();
    let [mut one, mut two] = [(); 2].map(|()| Share::join(root.path()).unwrap());
    let many: Vec<Limit> = (10..19).map(|group| limit(group, 500)).collect();
    say(&mut two, &many, owes(100));
    assert_eq!(one.hear(PLENTY, &[limit(18, 500)], at(0)).unwrap().promised, 100 * MIB);
    say(&mut two, &many[..7], owes(100));
    assert_eq!(one.hear(PLENTY, &[limit(18, 500)], at(0)).unwrap().promised, 0);
}

#[test]
fn a_table_that_was_taken_away_is_made_again() {
    let root = machine();
    let mut one = Share::join(root.path()).unwrap();
    one.say(owes(100), at(0)).unwrap();
    std::fs::remove_file(table(&root)).unwrap();
    let mut two = Share::join(root.path()).unwrap();
    assert_eq!(two.hear(PLENTY, &[], at(0)).unwrap().workers, 0);
    one.hear(PLENTY, &[], at(1_000)).unwrap();
    assert_eq!(two.hear(PLENTY, &[], at(1_001)).unwrap().promised, 100 * MIB);
}

#[test]
fn a_table_that_cannot_be_trusted_is_not_used() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let root = tempfile::tempdir().unwrap();
    let missing = Share::join(root.path()).unwrap_err();
    assert!(matches!(missing, ShareError::File { what: "making", .. }), "{missing}");

    let root = machine();
    drop(Share::join(root.path()).unwrap());
    let file = table(&root);
    let dir = file.parent().unwrap().to_owned();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o770)).unwrap();
    let open = Share::join(root.path()).unwrap_err();
    assert!(matches!(open, ShareError::NotOurs { .. }), "{open}");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();

    std::fs::write(&file, [b'x'; 4096]).unwrap();
    assert!(matches!(Share::join(root.path()).unwrap_err(), ShareError::Foreign { .. }));
    std::fs::remove_file(&file).unwrap();
    symlink("/dev/null", &file).unwrap();
    let link = Share::join(root.path()).unwrap_err();
    assert!(matches!(link, ShareError::File { what: "opening", .. }), "{link}");
    std::fs::remove_file(&file).unwrap();
    let places: Vec<_> = (0..SLOTS).map(|_| Share::join(root.path()).unwrap()).collect();
    assert!(matches!(Share::join(root.path()).unwrap_err(), ShareError::Full { .. }));
    drop(places);
    Share::join(root.path()).unwrap();
}
