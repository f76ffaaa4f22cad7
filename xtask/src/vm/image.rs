//! Lives: xtask, the file system of an emulated kernel: programs, their libraries, the kernel's modules, and a script that runs them.
//! Called by: vm.
//! May touch: target/vm.
//! Never: mounts anything; holds what the parts do not need.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::parts::{LOADING, Of, Part, refusal};
use crate::paths::Repo;
use crate::process;

/// What was brought.
pub struct Tools {
    /// The emulator's folder.
    pub qemu: PathBuf,
    /// The static program.
    pub busybox: PathBuf,
}

/// What is tried: test programs, and what they start.
pub struct Programs {
    target: PathBuf,
    kernel_runs: PathBuf,
    live: PathBuf,
    /// Where those are that the live tests start; `None` where no part has any.
    started: Option<PathBuf>,
}

/// What live tests start, of the folder that has all programs.
const STARTED: [&str; 4] = ["weir-agent", "weir-collector", "weirctl", "weir-probe"];

/// What an emulator starts from.
pub struct Booted {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first file system.
    pub disk: PathBuf,
}

impl Programs {
    /// `said` is cargo's own list of what it has built; `started` the folder of the programs that live tests start.
    pub fn new(repo: &Repo, said: &str, started: Option<PathBuf>) -> Result<Programs> {
        let test = |name: &str| {
            let line = said.lines().find(|line| line.contains(&format!("/{name}-")));
            let path = line.and_then(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
            path.map(|path| repo.root().join(path)).with_context(|| format!("cargo built no test {name}"))
        };
        let (kernel_runs, live) = (test("kernel_runs")?, test("live")?);
        Ok(Programs { target: repo.target()?, kernel_runs, live, started })
    }

    fn of(&self, part: &Part) -> &Path {
        match part.of {
            Of::KernelRuns => &self.kernel_runs,
            Of::Live => &self.live,
        }
    }

    /// All that the parts need.
    fn all(&self, parts: &[&Part]) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = Vec::new();
        for of in [Of::KernelRuns, Of::Live] {
            all.extend(parts.iter().find(|part| part.of == of).map(|part| self.of(part).to_owned()));
        }
        let started = self.started.iter().flat_map(|folder| STARTED.map(|name| folder.join(name)));
        all.extend(started);
        all
    }
}

/// Lays everything down and packs it.
pub fn make(
    repo: &Repo,
    series: &str,
    kernel: &Path,
    tools: &Tools,
    programs: &Programs,
    parts: &[&Part],
) -> Result<Booted> {
    let work = programs.target.join("vm").join(series);
    let root = work.join("root");
    let _ = fs::remove_dir_all(&root);
    for folder in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "etc", "lib/modules"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("creating {folder} of {series}"))?;
    }
    copy(&tools.busybox, &root.join("bin/busybox"))?;
    for link in ["bin/sh", "sbin/modprobe"] {
        symlink("/bin/busybox", root.join(link)).with_context(|| format!("linking {link}"))?;
    }
    for program in programs.all(parts) {
        strip(&program, &inside(&root, &program))?;
        libraries(&root, &program)?;
    }
    files(repo, &root)?;
    modules(kernel, &root, tools)?;
    fs::write(root.join("init"), script(repo, programs, parts, series)).context("writing the script")?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).context("making it a program")?;
    let disk = work.join("disk.cpio");
    let pack = "find . | \"$1\" cpio -o -H newc 2>/dev/null > \"$2\"";
    let mut shell = process::clean("sh");
    shell.current_dir(&root).args(["-c", pack, "sh"]).arg(&tools.busybox).arg(&disk);
    process::capture(&mut shell).context("packing")?;
    fs::remove_dir_all(&root).context("removing what was packed")?;
    Ok(Booted { kernel: image(kernel)?, disk })
}

/// The same place in there: tests know their programs by the paths they were built with.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    parent(to)?;
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}

fn parent(of: &Path) -> Result<()> {
    let folder = of.parent().unwrap_or(of);
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}

/// What debuggers need is four fifths of a program.
fn strip(from: &Path, to: &Path) -> Result<()> {
    parent(to)?;
    process::capture(Command::new("objcopy").arg("--strip-all").arg(from).arg(to)).map(drop)
}

/// Those that `ldd` names.
fn libraries(root: &Path, program: &Path) -> Result<()> {
    let text = process::capture(Command::new("ldd").arg(program))?;
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(Path::new).try_for_each(|path| copy(path, &inside(root, path)))
}

fn files(repo: &Repo, root: &Path) -> Result<()> {
    let budget = repo.root().join("ebpf/budget.toml");
    copy(&budget, &inside(root, &budget))?;
    let tests = inside(root, &repo.root().join("tests"));
    fs::create_dir_all(&tests).with_context(|| format!("creating {}", tests.display()))
}

/// The folder `lib/modules/RELEASE` of an unpacked kernel.
fn release(kernel: &Path) -> Result<PathBuf> {
    for place in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(kernel.join(place)) else { continue };
        if let Some(entry) = entries.flatten().next() {
            return Ok(entry.path());
        }
    }
    bail!("{} has no modules", kernel.display())
}

fn image(kernel: &Path) -> Result<PathBuf> {
    let modules = release(kernel)?;
    let name = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let places = [modules.join("vmlinuz"), kernel.join(format!("boot/vmlinuz-{name}"))];
    places.into_iter().find(|path| path.is_file()).with_context(|| format!("{} has no vmlinuz", kernel.display()))
}

/// Those of the network, unpacked, with the list of what needs what.
fn modules(kernel: &Path, root: &Path, tools: &Tools) -> Result<()> {
    let from = release(kernel)?;
    let name = from.file_name().unwrap_or_default();
    let to = root.join("lib/modules").join(name);
    fs::create_dir_all(&to).context("creating the folder of modules")?;
    let pick = "for p in kernel/net kernel/lib kernel/crypto kernel/drivers/net; do [ ! -d $p ] || find $p -name '*.ko*'; done \
                | grep -v 'drivers/net/.*/' | tar cf - -T - modules.builtin modules.order | tar xf - -C \"$1\" \
                && find \"$1\" -name '*.ko.xz' -exec xz -d {} +";
    let mut shell = process::clean("sh");
    shell.current_dir(&from).args(["-c", pick, "sh"]).arg(&to);
    process::capture(&mut shell).context("unpacking modules")?;
    process::capture(Command::new(&tools.busybox).arg("depmod").arg("-b").arg(root).arg(name)).map(drop)
}

const BEGIN: &str = "\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf; mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
ulimit -l unlimited; ulimit -n 65536
export WEIR_SLOWNESS=10
echo \"vm: release $(uname -r)\"
for module in veth bridge sctp sch_ingress cls_bpf; do modprobe $module || echo \"vm: lacks module $module\"; done
";

/// Marks are what the host reads.
fn script(repo: &Repo, programs: &Programs, parts: &[&Part], series: &str) -> String {
    let mut text = format!("{BEGIN}cd {}/tests\n", repo.root().display());
    for part in parts.iter().filter(|part| part.name == LOADING || refusal(series, LOADING).is_none()) {
        let (program, options) = (programs.of(part).display(), part.options.join(" "));
        text.extend(["echo 'vm: begin ", part.name, "'\n"]);
        let starts: Vec<Vec<&str>> = match part.of {
            Of::KernelRuns => vec![part.cases.to_vec()],
            Of::Live => part.cases.iter().map(|case| vec![*case]).collect(),
        };
        for cases in starts {
            let cases: Vec<String> = cases.into_iter().map(|case| format!("'{case}'")).collect();
            text += &format!("timeout {} {program} {options} {} 2>&1\n", part.patience, cases.join(" "));
        }
        text.extend(["echo 'vm: end ", part.name, "'\n"]);
    }
    text.push_str("echo 'vm: done'\nreboot -f\n");
    text
}
