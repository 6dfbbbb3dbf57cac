//! Sysctls of nf_conntrack, which tracks the flows that the data plane does not translate. Set as kube-proxy sets them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::ConntrackConfig;

/// The directory of `proc/sys` and `sys/module`.
pub const ROOT: &str = "/";

const MAX: &str = "proc/sys/net/netfilter/nf_conntrack_max";
/// The module parameter: writable even where the sysctl `nf_conntrack_buckets` is not.
const HASH_SIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";
const ESTABLISHED: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
const CLOSE_WAIT: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
const BE_LIBERAL: &str = "proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
const UDP: &str = "proc/sys/net/netfilter/nf_conntrack_udp_timeout";
const UDP_STREAM: &str = "proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream";

/// Connections in the accept queue of a closed listener migrate to another SO_REUSEPORT listener (Linux 5.14).
pub const MIGRATE_REQUESTS: Setting =
    Setting { path: "proc/sys/net/ipv4/tcp_migrate_req", value: 1, is_minimum: false };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    path: &'static str,
    pub value: u64,
    /// Whether a larger value is fine too.
    is_minimum: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("{path} does not exist")]
    Absent { path: PathBuf },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The settings to apply, in this order.
pub fn desired(config: &ConntrackConfig, cpus: u32) -> Vec<Setting> {
    let exactly = |path, value| Setting { path, value, is_minimum: false };
    let seconds = |path, timeout: Option<Duration>| timeout.map(|timeout| exactly(path, timeout.as_secs()));
    let max = config.table_size(cpus).map(u64::from);
    let hash_size = max.map(|max| Setting { path: HASH_SIZE, value: max / 4, is_minimum: true });
    [
        hash_size,
        max.map(|max| exactly(MAX, max)),
        seconds(ESTABLISHED, config.tcp_established),
        seconds(CLOSE_WAIT, config.tcp_close_wait),
        config.be_liberal.then_some(exactly(BE_LIBERAL, 1)),
        seconds(UDP, config.udp),
        seconds(UDP_STREAM, config.udp_stream),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Setting {
    /// The name in the syntax of `sysctl`.
    pub fn name(&self) -> String {
        let path = self.path;
        path.strip_prefix("proc/sys/").map_or_else(|| format!("/{path}"), |name| name.replace('/', "."))
    }

    /// Writes the value. Returns `false` if it was set already.
    pub fn apply(&self, system: &Path) -> Result<bool, SysctlError> {
        let path = system.join(self.path);
        let now = match fs::read_to_string(&path) {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SysctlError::Absent { path });
            }
            Err(source) => return Err(SysctlError::Io { action: "read", path, source }),
        };
        if self.is_met_by(now.trim()) {
            return Ok(false);
        }
        fs::write(&path, self.value.to_string()).map_err(|source| SysctlError::Io {
            action: "write",
            path,
            source,
        })?;
        Ok(true)
    }

    fn is_met_by(&self, now: &str) -> bool {
        let now: Option<u64> = now.parse().ok();
        now == Some(self.value) || self.is_minimum && now.is_some_and(|now| now > self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ConntrackConfig {
        ConntrackConfig { max_per_core: 32768, min: 131_072, ..ConntrackConfig::default() }
    }

    #[test]
    fn the_table_size_depends_on_cpus_within_bounds() {
        for (per_core, min, cpus, want) in [
            (32768, 131_072, 2, Some(131_072)),
            (32768, 131_072, 8, Some(262_144)),
            (32768, 131_072, 64, Some(1_048_576)),
            (32768, 2_000_000, 2, Some(1_048_576)),
            (u32::MAX, 0, 8, Some(1_048_576)),
            (0, 131_072, 8, None),
        ] {
            let config = ConntrackConfig { max_per_core: per_core, min, ..ConntrackConfig::default() };
            assert_eq!(config.table_size(cpus), want, "{per_core} {min} {cpus}");
            let is_default = (per_core, min) == (32768, 131_072);
            assert_eq!(config.flows(cpus), want.filter(|_| !is_default), "{per_core} {min} {cpus}");
        }
    }

    #[test]
    fn only_different_values_are_written() {
        let system = tempfile::tempdir().unwrap();
        let file = |path: &str| system.path().join(path);
        for (path, now) in [(MAX, "65536\n"), (HASH_SIZE, "65536\n"), (CLOSE_WAIT, "60\n"), (UDP, "30\n")] {
            fs::create_dir_all(file(path).parent().unwrap()).unwrap();
            fs::write(file(path), now).unwrap();
        }
        let config = ConntrackConfig {
            tcp_close_wait: Some(Duration::from_secs(3600)),
            tcp_established: Some(Duration::from_secs(86400)),
            ..config()
        };
        let result = |setting: &Setting| match setting.apply(system.path()) {
            Ok(changed) => changed.to_string(),
            Err(error) => error.to_string().replace(&system.path().display().to_string(), ""),
        };
        let results: Vec<_> = desired(&config, 2)
            .iter()
            .map(|setting| format!("{} {}", setting.name(), result(setting)))
            .collect();
        assert_eq!(
            results,
            [
                "/sys/module/nf_conntrack/parameters/hashsize false",
                "net.netfilter.nf_conntrack_max true",
                "net.netfilter.nf_conntrack_tcp_timeout_established \
                 /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established does not exist",
                "net.netfilter.nf_conntrack_tcp_timeout_close_wait true",
            ]
        );
        let read = |path: &str| fs::read_to_string(file(path)).unwrap();
        assert_eq!((read(MAX).as_str(), read(CLOSE_WAIT).as_str()), ("131072", "3600"));
        assert_eq!((read(HASH_SIZE).as_str(), read(UDP).as_str()), ("65536\n", "30\n"));
    }
}
