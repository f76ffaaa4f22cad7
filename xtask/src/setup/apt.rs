//! Lives: xtask, apt with a configuration of our own.
//! Called by: `debian`, `programs`, `kernels`.
//! May touch: the folder it is given; the mirror it is given.
//! Never: reads or writes this machine's package lists; runs this machine's apt hooks; accepts what is not signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

const PATIENCE: Duration = Duration::from_secs(300);

/// Debian's own keys, under the names its releases have used. Absent on other systems, where apt's own trust decides.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];

/// One private apt: one mirror, one suite.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// The archives this machine's apt would update from, most likely first. Works also where no list was ever fetched.
    pub fn mirrors() -> Result<Vec<String>> {
        let text = process::capture(process::clean("apt-get").args(["update", "--print-uris"]))?;
        let mirrors = archives(&text);
        if mirrors.is_empty() {
            bail!("apt is configured for no archive");
        }
        Ok(mirrors)
    }

    /// Lays the private configuration down.
    pub fn private(folder: &Path, mirror: &str, suite: &str) -> Result<Apt> {
        let apt = Apt { folder: folder.to_path_buf() };
        for part in ["state/lists/partial", "cache/archives/partial", "download"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
        let signed = keyring.map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        apt.write("sources.list", &format!("deb {signed}{mirror} {suite} main\n"))?;
        let network =
            process::capture(process::clean("apt-config").args(["dump", "--format", "%f \"%v\";%n", "Acquire"]))?;
        apt.write("apt.conf", &configuration(folder, &network))?;
        Ok(apt)
    }

    /// Fetches the suite's index.
    pub fn update(&self) -> Result<()> {
        self.logged(self.command("apt-get").arg("update"))
    }

    /// The names of all packages of the suite, one a line.
    pub fn names(&self) -> Result<String> {
        process::capture(self.command("apt-cache").arg("pkgnames"))
    }

    /// apt's table of the versions of a package.
    pub fn madison(&self, package: &str) -> Result<String> {
        process::capture(self.command("apt-cache").args(["madison", package]))
    }

    /// Downloads one exact version, verified against the signed index, and says where it is.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let into = self.folder.join("download");
        self.logged(self.command("apt-get").arg("download").arg(format!("{package}={version}")).current_dir(&into))?;
        let entries = fs::read_dir(&into).with_context(|| format!("reading {}", into.display()))?;
        let mut files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let package = files.find(|path| path.extension().is_some_and(|end| end == "deb"));
        package.context("apt downloaded nothing")
    }

    /// Downloads a package with everything it needs that is not installed here, and says where the archives are.
    pub fn download_with_needs(&self, package: &str) -> Result<Vec<PathBuf>> {
        let mut apt = self.command("apt-get");
        apt.args(["install", "--yes", "--download-only", "--no-install-recommends", package]);
        self.logged(&mut apt)?;
        let into = self.folder.join("cache/archives");
        let entries = fs::read_dir(&into).with_context(|| format!("reading {}", into.display()))?;
        let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        Ok(files.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = process::clean(program);
        // Read before everything else, so that it can keep the machine's own configuration from being read at all.
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn logged(&self, command: &mut Command) -> Result<()> {
        process::logged(command, &self.folder.join("log"), PATIENCE)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// Own folders and sources; of the machine's configuration only how to reach the network (proxies, clock checks).
fn configuration(folder: &Path, acquire: &str) -> String {
    let network = ["proxy", "::check-", "::retries", "::timeout"];
    let kept = acquire.lines().filter(|line| network.iter().any(|word| line.to_lowercase().contains(word)));
    let folder = folder.display();
    let mut text = format!(
        "Dir::Etc::Parts \"/dev/null\";\n\
         Dir::Etc::Main \"/dev/null\";\n\
         Dir::Etc::SourceList \"{folder}/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\n\
         Dir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State \"{folder}/state\";\n\
         Dir::State::Status \"/var/lib/dpkg/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Acquire::Languages \"none\";\n\
         APT::Sandbox::User \"root\";\n"
    );
    kept.for_each(|line| text.extend([line, "\n"]));
    text
}

/// The archives among the addresses apt prints, without the ones that carry only security updates, each once.
fn archives(print_uris: &str) -> Vec<String> {
    let mut archives = Vec::new();
    for line in print_uris.lines() {
        let Some((archive, _)) = line.trim_start_matches('\'').split_once("/dists/") else { continue };
        if !archive.contains("security") && !archives.iter().any(|known| known == archive) {
            archives.push(archive.to_owned());
        }
    }
    archives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_archive_apt_is_configured_for() {
        let text = "'http://mirror.example/debian-security/dists/b-security/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/b/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/b-updates/main/binary-amd64/Packages.xz' x 0 \n";
        assert_eq!(archives(text), ["http://mirror.example/debian"]);
        assert!(archives("Reading package lists...\n").is_empty());
    }

    #[test]
    fn the_machines_proxy_is_kept_and_its_hooks_are_not() {
        let dump = "Acquire::http::Proxy \"http://proxy:1\";\nAcquire::cdrom::mount \"/media\";\n";
        let text = configuration(Path::new("/x"), dump);
        assert!(text.contains("Acquire::http::Proxy \"http://proxy:1\";"));
        assert!(!text.contains("cdrom"));
        assert!(text.contains("Dir::State \"/x/state\";"));
        assert!(text.contains("Dir::Etc::Parts \"/dev/null\";"));
    }
}
