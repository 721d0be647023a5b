//! A program that a test runs and listens to.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to say what a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// A running program, killed when this value goes.
pub(crate) struct Program {
    name: String,
    child: Child,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    /// From its standard output.
    out: Vec<String>,
    /// From its standard error.
    err: Vec<String>,
    /// How many of the two have ended.
    ended: usize,
}

impl Program {
    /// Runs `command`; panics if there is no such program.
    pub(crate) fn start(mut command: Command) -> Program {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("run {name}: {error}"));
        let heard = Arc::new(Heard::default());
        let out = child.stdout.take().expect("its output is piped");
        let err = child.stderr.take().expect("its errors are piped");
        listen(&heard, out, |lines| &mut lines.out);
        listen(&heard, err, |lines| &mut lines.err);
        Program { name, child, heard }
    }

    /// Returns when it has printed this line.
    pub(crate) fn wait_for(&self, line: &str) {
        self.wait_for_all(line, 1);
    }

    /// Returns when it has printed this line so many times.
    pub(crate) fn wait_for_all(&self, line: &str, times: usize) {
        let what = format!("{line:?} {times} times");
        self.wait_until(&what, |lines| lines.out.iter().filter(|l| *l == line).count() >= times);
    }

    /// Which of these two has printed the line first.
    pub(crate) fn first_of<'a>(line: &str, two: [&'a Program; 2]) -> [&'a Program; 2] {
        let deadline = Instant::now() + LIMIT;
        loop {
            for (one, other) in [(0, 1), (1, 0)] {
                if two[one].lines().iter().any(|l| l == line) {
                    return [two[one], two[other]];
                }
            }
            assert!(Instant::now() < deadline, "nobody prints {line:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.heard.lock().out.clone()
    }

    /// What it has printed as errors so far.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.heard.lock().err.clone()
    }

    /// Gives it a line to read.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{line}").expect("write to the program");
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill the program");
        self.child.wait().expect("bury the program");
    }

    /// Ends it as Ctrl+C does and gives what it printed; panics unless it ends well.
    pub(crate) fn interrupt(self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("signal the program");
        self.finish()
    }

    /// Waits for its end and gives what it printed; panics unless it ends well.
    pub(crate) fn finish(self) -> Vec<String> {
        self.finish_within(LIMIT)
    }

    /// The same with a time limit of one's own.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Vec<String> {
        let Some(status) = await_exit(&mut self.child, limit) else {
            panic!("{} runs for more than {limit:?}", self.name);
        };
        self.wait_until("the end of its output", |lines| lines.ended == 2);
        assert!(status.success(), "{} ended with {status}", self.name);
        self.lines()
    }

    fn wait_until(&self, what: &str, true_of: impl Fn(&Lines) -> bool) {
        let mut lines = self.heard.lock();
        let deadline = Instant::now() + LIMIT;
        while !true_of(&lines) {
            let left = deadline.saturating_duration_since(Instant::now());
            let hopeless = left.is_zero() || lines.ended == 2;
            // Not while the lines are locked: the panic prints them.
            if hopeless {
                drop(lines);
                panic!("waited in vain for {what} from {}", self.name);
            }
            let woken = self.heard.grown.wait_timeout(lines, left);
            lines = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.heard.lock();
            let (out, err) = (lines.out.join("\n"), lines.err.join("\n"));
            eprintln!("--- {} printed:\n{out}\n--- and as errors:\n{err}", self.name);
        }
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(
    heard: &Arc<Heard>,
    pipe: impl Read + Send + 'static,
    kind: fn(&mut Lines) -> &mut Vec<String>,
) {
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            kind(&mut heard.lock()).push(line);
            heard.grown.notify_all();
        }
        heard.lock().ended += 1;
        heard.grown.notify_all();
    });
}

/// The exit status of `child`, or none if it still runs after `limit`.
pub(crate) fn await_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("watch a process") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
