//! Lives: weir-tests, a host of its own: systemd is its first process, and it can be rebooted.
//! Called by: live tests of the units.
//! May touch: namespaces and cgroups in a world; this machine's programs, read-only.
//! Never: reaches this machine's systemd, its units, its mounts or its kernel's settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::process::{Running, deadline, program};
use crate::world::Who;
use crate::world::{World, cgroup};

/// What makes the root and becomes systemd.
const BOOT: &str = include_str!("boot.sh");
/// Where it lies on the systems tests run on; `boot.sh` starts that one, too.
const SYSTEMD: &str = "/lib/systemd/systemd";
/// How long it may take to come up or go down.
const SOON: Duration = Duration::from_secs(60);
/// What systemd would do to a machine, and what this one has no use for.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "console-getty.service",
    "dbus.service",
    "dbus.socket",
    "getty.target",
    "kmod-static-nodes.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
];

/// A host with systemd, in a world: its network is that of one of the world's parts.
#[derive(Debug)]
pub struct Booted {
    name: &'static str,
    netns: PathBuf,
    cgroup: PathBuf,
    log: PathBuf,
    /// What outlives a reboot.
    disk: PathBuf,
    running: Option<Running>,
    /// systemd, as this machine numbers it.
    init: u32,
}

impl Booted {
    /// A host with `who`'s network whose disk has a bare system, and `files` in `/src`; it is booted. Programs for tests are in `/opt/probe`.
    ///
    /// # Errors
    /// There is no systemd here, or it does not come up.
    pub fn start(world: &World, who: Who, files: &[PathBuf]) -> Result<Booted> {
        ensure!(
            Path::new(SYSTEMD).exists(),
            "{SYSTEMD} is not there: install systemd (Debian: apt-get install systemd)"
        );
        let disk = world.folder().join("booted");
        let mut host = Booted {
            name: who.name(),
            netns: world.netns(who),
            cgroup: world.outside().join("booted"),
            log: world.folder().to_owned(),
            disk,
            running: None,
            init: 0,
        };
        host.install(files).context("the disk of a host")?;
        host.boot()?;
        Ok(host)
    }

    fn install(&self, files: &[PathBuf]) -> Result<()> {
        for folder in ["etc/systemd/system", "var/lib", "var/log", "var/tmp", "src", "bin", "root"] {
            fs::create_dir_all(self.disk.join(folder))?;
        }
        let etc = self.disk.join("etc");
        for (name, text) in [
            ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"),
            ("group", "root:x:0:\nadm:x:4:\nsystemd-journal:x:101:\nnogroup:x:65534:\n"),
            ("machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("hostname", "booted\n"),
        ] {
            fs::write(etc.join(name), text)?;
        }
        for name in ["os-release", "ld.so.cache"] {
            fs::copy(Path::new("/etc").join(name), etc.join(name)).with_context(|| format!("/etc/{name}"))?;
        }
        for unit in MASKED {
            std::os::unix::fs::symlink("/dev/null", etc.join("systemd/system").join(unit))?;
        }
        for file in files {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(file, self.disk.join("src").join(name)).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Boots it, and waits until every unit that is to be started was.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(&mut self) -> Result<()> {
        cgroup::create(&self.cgroup)?;
        let probe = program("weir-probe");
        let mut command = Command::new(&probe);
        command.arg("--netns").arg(&self.netns).arg("--cgroup").arg(&self.cgroup).args(["exec", "--"]);
        command.args(["unshare", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--"]);
        command.args(["sh", "-c", BOOT, "boot"]).arg(self.disk.join("root")).arg(&self.disk);
        command.arg(probe.parent().context("a program without a folder")?);
        let mut running = Running::start_daemon(&format!("booted-{}", self.name), command, &self.log)?;
        let until = deadline(SOON);
        let children = format!("/proc/{0}/task/{0}/children", running.pid());
        loop {
            ensure!(!running.ended(), "it did not boot:\n{}", running.log_tail(20));
            self.init = fs::read_to_string(&children)?.trim().parse().unwrap_or(0);
            // Before that it is the shell that makes the root.
            let name = fs::read_to_string(format!("/proc/{}/comm", self.init)).unwrap_or_default();
            if name.trim() == "systemd" {
                let said = self.run("systemctl is-system-running --wait")?.stdout;
                // Degraded: something of the machine's that this host has no use for.
                if ["running", "degraded"].contains(&String::from_utf8_lossy(&said).trim()) {
                    break;
                }
            }
            ensure!(std::time::Instant::now() < until, "it did not come up:\n{}", running.log_tail(20));
            sleep(Duration::from_millis(20));
        }
        self.running = Some(running);
        Ok(())
    }

    /// Ends it by its own means (`poweroff`), or by pulling the plug.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(&mut self, in_order: bool) -> Result<()> {
        let Some(mut running) = self.running.take() else { bail!("it does not run") };
        if in_order {
            self.run("systemctl poweroff")?;
        } else {
            running.signal(Signal::SIGKILL);
        }
        running.wait(SOON).context("it does not end")?;
        cgroup::remove(&self.cgroup)?;
        Ok(())
    }

    /// Runs a script in it, as root, in `/src`.
    ///
    /// # Errors
    /// It cannot be started; that it failed is said by its status.
    pub fn run(&self, script: &str) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--root",
        ]);
        command.args(["--wd", "--", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/usr/sbin", "sh", "-ec"]);
        command.arg(format!("cd /src; {script}"));
        command.output().context("running nsenter")
    }

    /// The same; it must not fail. What it printed.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn ok(&self, script: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.run(script)?;
        let (out, said) =
            (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
        ensure!(status.success(), "`{script}`: {status}\n{out}{said}");
        Ok(out)
    }

    /// Repeats a script until it succeeds.
    ///
    /// # Errors
    /// It never does.
    pub fn wait(&self, script: &str) -> Result<String> {
        let until = deadline(SOON);
        loop {
            match self.ok(script) {
                Ok(out) => return Ok(out),
                Err(error) if std::time::Instant::now() > until => return Err(error.context(self.journal())),
                Err(_) => sleep(Duration::from_millis(100)),
            }
        }
    }

    /// A file on its disk: `etc/...`, `var/...`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.disk.join(path)
    }

    /// The end of its journal.
    #[must_use]
    pub fn journal(&self) -> String {
        self.ok("journalctl --no-pager --lines 60").unwrap_or_else(|error| format!("{error:#}"))
    }
}
