#![allow(clippy::unwrap_used)]

use super::walk::Walk;
use super::{DEPTH, Disk, Kernel, LARGEST, Memory};
use crate::io::Choice;
use crate::types::Level;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn a_walk_reaches_every_block_once_before_any_again() {
    for (sizes, block, blocks) in
        [(vec![10u64], 1, 10usize), (vec![7, 0, 30], 2, 18), (vec![1], 1, 1), (vec![997, 3], 2, 499)]
    {
        let mut walk = Walk::new(&sizes, block, 5).unwrap();
        let seen: HashSet<(usize, u64)> = (0..blocks).map(|_| walk.next_block()).collect();
        assert_eq!(seen.len(), blocks, "{sizes:?}");
        assert!(seen.iter().all(|(file, at)| at % block == 0 && at + block <= sizes[*file]));
    }
    assert!(Walk::new(&[3, 2], 4, 0).is_none());
}

fn rate(disk: &mut Disk, bytes: usize, depth: usize) -> Option<f64> {
    disk.rate(bytes, depth, SHORT).unwrap()
}

#[test]
fn a_scratch_file_is_read_and_never_has_a_name() {
    for directory in [Path::new("/dev/shm"), &std::env::temp_dir()] {
        let directory = tempfile::tempdir_in(directory).unwrap();
        let mut disk = Disk::scratch(directory.path(), 3 << 20, SHORT * 1000, Choice::Auto).unwrap();
        assert_eq!(disk.bytes(), 3 << 20);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        for (bytes, depth) in [(4096, 1), (65536, DEPTH), (589_824, 56), (LARGEST, 32)] {
            assert!(rate(&mut disk, bytes, depth).unwrap() > 0.0);
        }
    }
}

#[test]
fn the_time_limit_ends_writing_and_the_size_ends_it_before() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::scratch(directory.path(), u64::MAX >> 1, Duration::ZERO, Choice::Auto).unwrap();
    assert_eq!(disk.bytes(), 1 << 20);
}

#[test]
fn files_that_are_there_are_read_and_stay_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|i| directory.path().join(format!("{i}"))).collect();
    paths.iter().enumerate().for_each(|(i, path)| std::fs::write(path, vec![i as u8; 70_000 * i]).unwrap());
    let mut disk = Disk::files(&paths, Choice::Auto).unwrap();
    assert!(rate(&mut disk, 65536, 8).unwrap() > 0.0);
    assert_eq!(rate(&mut disk, LARGEST, 8), None, "no file holds so large a block");
    assert_eq!(std::fs::read(&paths[2]).unwrap(), vec![2; 140_000]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none");
    let refused = [
        Disk::scratch(&missing, 1 << 20, SHORT, Choice::Auto).err(),
        Disk::scratch(Path::new("/proc/self"), 1 << 20, SHORT, Choice::Auto).err(),
        Disk::files(std::slice::from_ref(&missing), Choice::Auto).err(),
    ];
    for error in refused {
        let message = error.unwrap().to_string();
        assert!(message.contains("none: No such file") || message.contains("/proc/self: "), "{message}");
    }
    let mut disk = Disk::scratch(directory.path(), 1 << 20, SHORT, Choice::Auto).unwrap();
    for (bytes, depth) in [(0, 1), (5000, 1), (2 * LARGEST, 1), (4096, 0), (4096, DEPTH + 1), (LARGEST, 33)] {
        assert!(disk.rate(bytes, depth, SHORT).unwrap_err().to_string().contains("can be measured"));
    }
}

#[test]
fn every_kernel_goes_through_the_memory_at_every_level() {
    let memory = Memory::new(5 << 20, Some(2)).unwrap();
    assert_eq!(memory.threads(), 2);
    assert!(memory.bandwidth(true, SHORT) > 0.0 && memory.bandwidth(false, SHORT) > 0.0);
    for level in [Level::L4, Level::L8, Level::L16] {
        for kernel in [Kernel::Dot, Kernel::Accumulate] {
            assert!(memory.kernel(kernel, level, SHORT) > 0.0);
        }
    }
    assert!(Memory::new(100, None).is_err() && Memory::new(2 << 30, None).is_err());
}
