//! How much memory there is, as far as Linux tells it.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// How much of the machine's memory messages may take where nobody said so, in percent. RabbitMQ's
/// `vm_memory_high_watermark`.
const SHARE_PERCENT: usize = 60;
/// What the machine is taken to have if it does not tell, in bytes.
const UNKNOWN_BYTES: usize = 1024 * 1024 * 1024;

/// What messages may take on this machine, in bytes.
pub(crate) fn share() -> usize {
    memory(Path::new("/")).unwrap_or(UNKNOWN_BYTES) / 100 * SHARE_PERCENT
}

/// What the machine has, or what this process's control group may have of it, if that is less.
fn memory(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        // Number, controllers, path; version 2 names no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            group_limit(&root.join("sys/fs/cgroup"), group, "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            group_limit(&root.join("sys/fs/cgroup/memory"), group, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.chain(total(root)).min()
}

fn total(root: &Path) -> Option<usize> {
    let facts = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = facts.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim_end().parse::<usize>().ok()?.checked_mul(1024)
}

/// The least of the limits of a group and those it is in. In a container the path may be that of
/// the host: then only what stands at the top is there, and is the container's.
fn group_limit(hierarchy: &Path, group: &str, file: &str) -> Option<usize> {
    let names = |path: &Path| -> PathBuf {
        path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
    };
    let groups = Path::new(group).ancestors();
    // A limit that is none is a word, in the first version a number that no machine has.
    let limit = |group: &Path| {
        let text = fs::read_to_string(hierarchy.join(names(group)).join(file)).ok()?;
        text.trim().parse().ok()
    };
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        8000000 kB\nMemFree:          100000 kB\n";
    const TOTAL: usize = 8_000_000 * 1024;

    /// A machine with these files.
    fn with(files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        memory(root.path())
    }

    #[test]
    fn without_a_limit_it_is_all_of_the_machine() {
        assert_eq!(with(&[("proc/meminfo", MEMINFO)]), Some(TOTAL));
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("proc/meminfo", "nonsense"), ("proc/self/cgroup", "x")]), None);
        let (groups, none) = ("0::/\n4:cpu:/\n", "max\n");
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", groups),
            ("sys/fs/cgroup/memory.max", none),
        ];
        assert_eq!(with(&files), Some(TOTAL));
    }

    #[test]
    fn the_least_limit_of_the_group_and_those_it_is_in_counts() {
        let mut files = vec![
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/leveret.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "3000000\n"),
            ("sys/fs/cgroup/system.slice/leveret.service/memory.max", "2000000\n"),
            ("sys/fs/cgroup/other.slice/memory.max", "1000000\n"),
        ];
        assert_eq!(with(&files), Some(2_000_000));
        files[3].1 = "max\n";
        assert_eq!(with(&files), Some(3_000_000));
        files[2].1 = "99999999999999\n";
        assert_eq!(with(&files), Some(TOTAL));
    }

    #[test]
    fn the_first_version_of_control_groups_counts_too() {
        let mut files = vec![
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:cpu,memory:/docker/4711\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/docker/4711/memory.limit_in_bytes", "1500000\n"),
        ];
        assert_eq!(with(&files), Some(1_500_000));
        // In the container, which does not see the host's path.
        files[3] = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1600000\n");
        assert_eq!(with(&files), Some(1_600_000));
        files[1].1 = "5:memory:/../../etc\n";
        assert_eq!(with(&files), Some(1_600_000));
    }

    #[test]
    fn this_machine_has_some() {
        assert!(share() > 0);
    }
}
