//! The measured processes: their cores and their use of resources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
        time::TimeValLike,
    },
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// The core that measured servers have to themselves, and the one that all others share.
#[derive(Clone, Copy, Debug)]
pub enum Core {
    /// The core of the server that is measured.
    Server,
    /// The core of its callers and of its upstream.
    Others,
}

/// How processes are placed.
#[derive(Clone, Copy, Debug)]
pub struct Placing {
    /// Whether they are pinned to cores at all.
    pub pinned: bool,
}

impl Placing {
    /// Moves this process to the core of the callers, because some of them are its own tasks.
    pub fn settle(self) -> anyhow::Result<()> {
        if self.pinned {
            let mut cores = CpuSet::new();
            cores.set(1)?;
            sched_setaffinity(Pid::this(), &cores).context("two cores are needed")?;
        }
        Ok(())
    }

    /// Returns a command that runs there.
    pub fn command(self, core: Core, program: &Path) -> Command {
        if !self.pinned {
            return Command::new(program);
        }
        let core = match core {
            Core::Server => "0",
            Core::Others => "1",
        };
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", core]).arg(program);
        command
    }
}

/// A process that we started. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts a command. Its output goes into a file.
    pub fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let output = fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let pid = child.id().context("it has ended")?;
        Ok(Self { child, pid: Pid::from_raw(i32::try_from(pid)?), log })
    }

    /// Returns its id. `taskset` replaces itself, so this is the program's.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns its output.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{status}: {}", self.said()),
        }
    }

    /// Ends it in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM)?;
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await??;
        Ok(())
    }
}

/// Returns the processor time that a process has used, in nanoseconds. Threads that have ended
/// count.
pub fn cpu(pid: Pid) -> anyhow::Result<u64> {
    let used = clock_gettime(clock_getcpuclockid(pid)?)?;
    Ok(u64::try_from(used.tv_sec())? * 1_000_000_000 + u64::try_from(used.tv_nsec())?)
}

/// Returns the processor time of the processes that we started and waited for, in nanoseconds.
pub fn cpu_of_children() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let used = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(u64::try_from(used)? * 1000)
}

/// Returns the resident memory in kilobytes, a line of /proc/PID/status: `VmRSS`, or `VmHWM` for
/// the peak.
pub fn memory(pid: Pid, line: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'))
        .with_context(|| format!("no {line}"))?;
    Ok(value.trim().trim_end_matches("kB").trim().parse()?)
}

/// Returns the number of sockets that a process has open.
pub fn sockets(pid: Pid) -> anyhow::Result<usize> {
    let is_socket = |entry: std::io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.starts_with("socket:").then_some(())
    };
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(is_socket).count())
}
