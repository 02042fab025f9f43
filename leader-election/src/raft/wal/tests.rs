use tempfile::TempDir;

use super::*;

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index, term, data: format!("entry {index} of {term}").into_bytes() }
}

fn batch(entries: &[(u64, u64)], term: u64) -> Batch {
    Batch {
        entries: entries.iter().map(|&(index, term)| entry(index, term)).collect(),
        hard: Some(Hard { term, vote: 3, commit: 0 }),
        epoch: None,
    }
}

fn open(directory: &TempDir) -> Result<(Wal, Image), Error> {
    Wal::open(directory.path(), "lan", &NodeName::from("a"))
}

fn filled() -> (TempDir, Vec<u64>) {
    let directory = TempDir::new().unwrap();
    let (mut wal, image) = open(&directory).unwrap();
    assert_eq!(image, Image::default());
    let mut ends = vec![wal.end];
    let epoch = Batch { epoch: Some(1), ..Batch::default() };
    for batch in [epoch, batch(&[(1, 1), (2, 1), (3, 1)], 1), batch(&[(3, 2)], 2)] {
        wal.append(&batch).unwrap();
        ends.push(wal.end);
    }
    (directory, ends)
}

fn content(directory: &TempDir) -> Vec<u8> {
    fs::read(directory.path().join(FILE)).unwrap()
}

#[test]
fn reads_back_what_was_written() {
    let (directory, _) = filled();
    let (_, image) = open(&directory).unwrap();
    let expected = Image {
        epoch: 1,
        hard: Hard { term: 2, vote: 3, commit: 0 },
        entries: vec![entry(1, 1), entry(2, 1), entry(3, 2)],
        ..Image::default()
    };
    assert_eq!(image, expected);
}

#[test]
fn a_torn_end_is_cut_at_every_byte() {
    let (directory, ends) = filled();
    let whole = content(&directory);
    let expected: Vec<Image> = (0..ends.len())
        .map(|count| {
            let (records, _) =
                split(&whole[..usize::try_from(ends[count]).unwrap()], Path::new("")).unwrap();
            replay(&records[1..]).unwrap()
        })
        .collect();
    for cut in 0..whole.len() {
        fs::write(directory.path().join(FILE), &whole[..cut]).unwrap();
        let (mut wal, image) = open(&directory).unwrap();
        let good = ends.iter().filter(|end| **end <= offset(cut)).count();
        assert_eq!(image, good.checked_sub(1).map_or(Image::default(), |n| expected[n].clone()));
        // And the log goes on from there.
        wal.append(&Batch { epoch: Some(9), ..Batch::default() }).unwrap();
        drop(wal);
        assert_eq!(open(&directory).unwrap().1, Image { epoch: 9, ..image });
    }
}

#[test]
fn a_torn_end_of_rubbish_or_zeros_is_cut() {
    let (directory, ends) = filled();
    let whole = content(&directory);
    for tail in [vec![0; 4096], vec![0xff; 100], vec![0, 0, 0, 9, 1, 2, 3, 4, 5]] {
        let torn = [whole.clone(), tail].concat();
        fs::write(directory.path().join(FILE), torn).unwrap();
        let (wal, image) = open(&directory).unwrap();
        assert_eq!((wal.end, image.entries.len()), (ends[3], 3));
    }
}

#[test]
fn damage_before_the_end_is_refused() {
    let (directory, ends) = filled();
    let mut damaged = content(&directory);
    let at = usize::try_from(ends[1]).unwrap() + HEADER + 5;
    damaged[at] ^= 1;
    fs::write(directory.path().join(FILE), damaged).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, Error::DamagedWal { offset, .. } if offset == ends[1]), "{error}");
}

#[test]
fn the_log_of_another_node_or_cluster_is_refused() {
    let (directory, _) = filled();
    for (cluster, node) in [("lan", "b"), ("other", "a")] {
        let error = Wal::open(directory.path(), cluster, &NodeName::from(node)).unwrap_err();
        assert!(matches!(error, Error::ForeignWal { .. }), "{error}");
    }
}

#[test]
fn the_log_of_another_version_is_refused_by_its_name() {
    let directory = TempDir::new().unwrap();
    let mut first = Writer::default();
    first.text("herald raft log 1").text("lan").node(&NodeName::from("a"));
    fs::write(directory.path().join(FILE), framed(&first.into_bytes())).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, Error::WalVersion { .. }), "{error}");
    assert!(error.to_string().contains("herald raft log 1"), "{error}");
}

#[test]
fn a_file_that_is_no_log_is_refused() {
    let directory = TempDir::new().unwrap();
    let foreign = [framed(b"something else"), framed(b"more")].concat();
    fs::write(directory.path().join(FILE), foreign).unwrap();
    assert!(matches!(open(&directory).unwrap_err(), Error::DamagedWal { .. }));
}

#[test]
fn a_second_process_is_refused() {
    let (directory, _) = filled();
    let _first = open(&directory).unwrap();
    assert!(matches!(open(&directory).unwrap_err(), Error::Locked { .. }));
}

#[test]
fn a_rewritten_log_reads_back_and_goes_on() {
    let (directory, _) = filled();
    let (mut wal, _) = open(&directory).unwrap();
    let (voters, learners) = (vec![1, 2], vec![3]);
    let snapshot = Snapshot { index: 7, term: 2, voters, learners, data: vec![5; 50] };
    let image = Image {
        id: 12,
        founders: [("a".into(), 1), ("b".into(), 2)].into(),
        promised: Some(["a".into(), "b".into()].into()),
        epoch: 4,
        hard: Hard { term: 3, vote: 0, commit: 8 },
        snapshot: Some(snapshot),
        entries: vec![entry(8, 3), entry(9, 3)],
    };
    wal.rewrite(&image).unwrap();
    wal.append(&batch(&[(9, 4), (10, 4)], 4)).unwrap();
    drop(wal);
    let expected = Image {
        hard: Hard { term: 4, vote: 3, commit: 0 },
        entries: vec![entry(8, 3), entry(9, 4), entry(10, 4)],
        ..image
    };
    assert_eq!(open(&directory).unwrap().1, expected);
}

#[test]
fn an_interrupted_rewrite_leaves_the_old_log() {
    let (directory, _) = filled();
    let before = open(&directory).unwrap().1;
    fs::write(directory.path().join(FILE_NEXT), b"half").unwrap();
    assert_eq!(open(&directory).unwrap().1, before);
}

#[test]
fn a_full_disk_names_the_file() {
    let (directory, _) = filled();
    let (mut wal, _) = open(&directory).unwrap();
    wal.fill_up();
    let error = wal.append(&batch(&[(4, 2)], 2)).unwrap_err().to_string();
    assert!(error.contains("herald.raft") && error.contains("No space left"), "{error}");
}
