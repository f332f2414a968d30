//! The options of the pod network: what they mean, and how they are passed on to a process in the background.

use super::{EncryptionKind, Failure, Global, NetworkArguments, NetworkKind};
use network::cni;
use std::path::{Path, PathBuf};

const CONFIGURATION: &str = "/etc/cni/net.d";
/// Where upstream's installers put plug-ins, and where Debian's package does.
const PROGRAMS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

impl NetworkArguments {
    /// The plug-ins that attach pods; None for the built-in network.
    pub(crate) fn plugins(&self, global: &Global) -> Result<Option<cni::Options>, Failure> {
        if self.network == NetworkKind::Builtin {
            return match self.cni_conf_dir.is_some() || !self.cni_bin_dir.is_empty() {
                true => Err(Failure::Usage("--cni-conf-dir and --cni-bin-dir are for --network cni".to_owned())),
                false => Ok(None),
            };
        }
        if self.is_encrypted() {
            return Err(Failure::Usage(
                "--encryption is for the built-in network; with --network cni ways between nodes are the plug-ins' matter"
                    .to_owned(),
            ));
        }
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
        };
        let mut programs = self.cni_bin_dir.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
        if programs.is_empty() {
            programs = PROGRAMS.map(PathBuf::from).to_vec();
        }
        let configuration = absolute(self.cni_conf_dir.as_deref().unwrap_or(Path::new(CONFIGURATION)))?;
        Ok(Some(cni::Options { configuration, programs, records: records(global) }))
    }

    /// Whether what goes between nodes is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encryption == EncryptionKind::Wireguard
    }

    /// The same options as words of a command line.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.network == NetworkKind::Cni {
            words.extend(["--network".to_owned(), "cni".to_owned()]);
        }
        if self.is_encrypted() {
            words.extend(["--encryption".to_owned(), "wireguard".to_owned()]);
        }
        let shown = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        words.extend(self.cni_conf_dir.iter().flat_map(|path| ["--cni-conf-dir".to_owned(), shown(path)]));
        words.extend(self.cni_bin_dir.iter().flat_map(|path| ["--cni-bin-dir".to_owned(), shown(path)]));
        words
    }
}

/// Where the records of what plug-ins attached are.
pub(crate) fn records(global: &Global) -> PathBuf {
    global.data_dir.join("network").join("cni")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use crate::cli::{Arguments, Command};
    use clap::Parser as _;

    #[test]
    fn what_is_passed_on_means_the_same() {
        for (line, wanted) in [
            ("", Some(None)),
            ("--network builtin", Some(None)),
            ("--network cni", Some(Some(("/etc/cni/net.d", "/opt/cni/bin /usr/lib/cni")))),
            ("--network cni --cni-conf-dir /c --cni-bin-dir /a --cni-bin-dir /b", Some(Some(("/c", "/a /b")))),
            ("--cni-conf-dir /c", None),
            ("--encryption wireguard", Some(None)),
            ("--network cni --encryption wireguard", None),
        ] {
            let parse = |words: Vec<String>| {
                let all = ["klynge", "server"].map(str::to_owned).into_iter().chain(words);
                let arguments = Arguments::try_parse_from(all).unwrap();
                let Command::Server(server) = arguments.command else { panic!("another command") };
                (server.pod_network, arguments.global)
            };
            let (given, global) = parse(line.split_whitespace().map(str::to_owned).collect());
            let plugins = given.plugins(&global).ok();
            let shown = plugins.as_ref().map(|plugins| {
                plugins.as_ref().map(|options| {
                    let programs: Vec<String> =
                        options.programs.iter().map(|path| path.display().to_string()).collect();
                    (options.configuration.display().to_string(), programs.join(" "))
                })
            });
            let wanted = wanted.map(|some| some.map(|(conf, bin)| (conf.to_owned(), bin.to_owned())));
            assert_eq!(shown, wanted, "{line}");
            assert_eq!(parse(given.words()).0.words(), given.words(), "{line}");
        }
    }
}
