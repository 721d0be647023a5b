//! The points at which the broker is killed, by the call before or after which it happens: every
//! step that it takes with its files, at work and while it recovers.
//!
//! Paths are patterns of `fsync/disk.c`. In `wal/` a file is `.tmp`, then `.free`, then `.wal`, and
//! may be `.free` again; in `pack/` it is `.tmp`, then `.pack` or `.idx`.

use Life::{Clear, Crash, Load, Start};

/// A point, and the lives of the broker that lead there.
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) lives: &'static [Life],
}

/// From a start of the broker to its end.
pub(super) enum Life {
    /// Producers and consumers work; a call among those it does for them is its last.
    Load(Call),
    /// They work, and it ends at any moment.
    Crash,
    /// All messages are acknowledged, so that packs go; a call among those is its last.
    Clear(Call),
    /// It ends while it starts, or when something is published to it for the first time.
    Start(Call),
}

/// What the broker does to a file, and when it ends: `before` or `after`.
pub(super) struct Call {
    pub(super) when: &'static str,
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// It is one of so many of the kind.
    pub(super) among: u64,
    /// Whether the log is slow meanwhile: what must wait for it and does not is caught.
    pub(super) slow_log: bool,
}

impl Call {
    const fn among(self, among: u64) -> Call {
        Call { among, ..self }
    }

    const fn with_slow_log(self) -> Call {
        Call { slow_log: true, ..self }
    }
}

const fn before(name: &'static str, path: &'static str) -> Call {
    Call { when: "before", name, path, among: 1, slow_log: false }
}

const fn after(name: &'static str, path: &'static str) -> Call {
    Call { when: "after", name, path, among: 1, slow_log: false }
}

const fn point(name: &'static str, lives: &'static [Life]) -> Point {
    Point { name, lives }
}

const FRAME: &str = "*/wal/*.wal";
const SPARE: &str = "*/wal/*.free";
const UNFINISHED_SPARE: &str = "*/wal/*.tmp";
// Not those of transient messages, whose numbers are higher.
const UNFINISHED_PACK: &str = "*/pack/0000*.pack.tmp";
const UNFINISHED_INDEX: &str = "*/pack/0000*.idx.tmp";
const UNFINISHED_IN_PACK: &str = "*/pack/0000*.tmp";
const TO_SEGMENT: &str = "*.free>*.wal";
const TO_SPARE: &str = "*.wal>*.free";
const TO_PACK: &str = "*.wal>*.pack";
const TO_INDEX: &str = "*.tmp>*.idx";

pub(super) const AT_WORK: &[Point] = &[
    point("frame written", &[Load(after("pwrite", FRAME).among(200))]),
    point("frame synced", &[Load(after("fdatasync", FRAME).among(200))]),
    point("segment begun: header written", &[Load(after("pwrite", SPARE).among(4))]),
    point("segment begun: header synced", &[Load(after("fdatasync", SPARE).among(4))]),
    point("segment begun: to be named", &[Load(before("rename", TO_SEGMENT).among(4))]),
    point("segment begun: named", &[Load(after("rename", TO_SEGMENT).among(4))]),
    point("log directory synced", &[Load(after("fsync", "*/wal").among(12))]),
    point("spare begun", &[Load(after("create", UNFINISHED_SPARE))]),
    point("spare made", &[Load(after("rename", "*.tmp>*.free"))]),
    point("index begun", &[Load(after("create", UNFINISHED_INDEX).among(4))]),
    point("index written", &[Load(after("pwrite", UNFINISHED_INDEX).among(4))]),
    point("index synced", &[Load(after("fsync", UNFINISHED_INDEX).among(4))]),
    point("index to be named", &[Load(before("rename", TO_INDEX).among(4))]),
    point("index named", &[Load(after("rename", TO_INDEX).among(4))]),
    point("pack directory synced", &[Load(after("fsync", "*/pack").among(8))]),
    point("pack copied", &[Load(after("pwrite", UNFINISHED_PACK))]),
    point("pack copied: named", &[Load(after("rename", "*.tmp>*.pack"))]),
    point("segment becomes a pack: to be cut", &[Load(before("truncate", FRAME))]),
    point("segment becomes a pack: cut", &[Load(after("truncate", FRAME))]),
    point("segment becomes a pack: synced", &[Load(after("fsync", FRAME))]),
    point("segment becomes a pack: to be moved", &[Load(before("rename", TO_PACK))]),
    point("segment becomes a pack: moved", &[Load(after("rename", TO_PACK).with_slow_log())]),
    point("segment to be recycled", &[Load(before("rename", TO_SPARE))]),
    point("segment recycled", &[Load(after("rename", TO_SPARE).with_slow_log())]),
    point("pack to be removed", &[Crash, Clear(before("unlink", "*/pack/*.idx"))]),
    point("pack removed: index", &[Crash, Clear(after("unlink", "*/pack/*.idx").with_slow_log())]),
    point("pack removed: data", &[Crash, Clear(after("unlink", "*/pack/*.pack").with_slow_log())]),
];

pub(super) const AT_RECOVERY: &[Point] = &[
    point(
        "recovery: tail written again",
        &[Load(after("pwrite", FRAME).among(200)), Start(after("pwrite", FRAME))],
    ),
    point(
        "recovery: tail synced",
        &[
            Load(after("pwrite", FRAME).among(200)),
            Start(before("fdatasync", FRAME)),
            Start(after("fdatasync", FRAME)),
        ],
    ),
    point("recovery: data directory synced", &[Crash, Start(after("fsync", "*/data"))]),
    point("recovery: log directory synced", &[Crash, Start(after("fsync", "*/wal"))]),
    point(
        "recovery: unfinished spare removed",
        &[
            Load(after("create", UNFINISHED_SPARE)),
            Start(before("unlink", UNFINISHED_SPARE)),
            Start(after("unlink", UNFINISHED_SPARE)),
        ],
    ),
    point(
        "recovery: unfinished pack removed",
        &[
            Load(after("fsync", UNFINISHED_INDEX).among(4)),
            Start(before("unlink", UNFINISHED_IN_PACK)),
            Start(after("unlink", UNFINISHED_IN_PACK)),
        ],
    ),
    point(
        "recovery: index of nobody removed",
        &[
            Load(after("rename", TO_INDEX).among(4)),
            Start(before("unlink", "*/pack/*.idx")),
            Start(after("unlink", "*/pack/*.idx")),
        ],
    ),
    point(
        "recovery: pack of nobody removed",
        &[
            Crash,
            Clear(after("unlink", "*/pack/*.idx")),
            Start(before("unlink", "*/pack/*.pack")),
            Start(after("unlink", "*/pack/*.pack")),
        ],
    ),
    point(
        "recovery: pack directory synced",
        &[Load(after("rename", TO_INDEX).among(4)), Start(after("fsync", "*/pack"))],
    ),
    point("recovery: first segment begun", &[Crash, Start(after("pwrite", SPARE))]),
    point(
        "recovery: first segment named",
        &[
            Crash,
            Start(after("rename", TO_SEGMENT)),
            Start(before("rename", TO_SEGMENT)),
            Start(after("rename", TO_SEGMENT)),
        ],
    ),
];
