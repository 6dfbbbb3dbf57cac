//! The levels of the log, which can be changed while the agent runs.

use std::{fmt, str::FromStr, sync::OnceLock};

use tracing::level_filters::LevelFilter;

/// A part of the process with a level of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Objects, maps and devices.
    Proxy,
    /// The name server.
    Dns,
    /// Messages of the programs in the kernel.
    Programs,
}

impl Component {
    pub const ALL: [Self; 3] = [Self::Proxy, Self::Dns, Self::Programs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Dns => "dns",
            Self::Programs => "programs",
        }
    }

    /// The targets of its log messages.
    fn targets(self) -> &'static [&'static str] {
        match self {
            Self::Proxy => &["portreeve", "proxy"],
            Self::Dns => &["dns"],
            Self::Programs => &["proxy_ebpf"],
        }
    }
}

/// The level of each component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevels([LevelFilter; 3]);

impl LogLevels {
    pub fn all(level: LevelFilter) -> Self {
        Self([level; 3])
    }

    /// `LEVEL` changes all components, `COMPONENT=LEVEL` one.
    pub fn change(&mut self, text: &str) -> Result<(), String> {
        let level = |level: &str| {
            let names = ["off", "error", "warn", "info", "debug", "trace"];
            let known = names.contains(&level).then(|| LevelFilter::from_str(level).ok()).flatten();
            known.ok_or_else(|| format!("`{level}` is no level: {}", names.join(", ")))
        };
        match text.split_once('=') {
            None => *self = Self::all(level(text)?),
            Some((name, text)) => {
                let found = Component::ALL.iter().position(|component| component.name() == name);
                let names = Component::ALL.map(Component::name).join(", ");
                self.0[found.ok_or_else(|| format!("`{name}` is no component: {names}"))?] = level(text)?;
            }
        }
        Ok(())
    }

    /// The directives of an `EnvFilter`. Libraries log warnings only. kube_client is off: the callers log errors of API
    /// requests, once.
    pub fn directives(&self) -> String {
        let mut directives = "warn,kube_client=off".to_owned();
        for (component, level) in Component::ALL.into_iter().zip(self.0) {
            for target in component.targets() {
                directives += &format!(",{target}={level}");
            }
        }
        directives
    }
}

impl fmt::Display for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (component, level)) in Component::ALL.into_iter().zip(self.0).enumerate() {
            write!(f, "{}{}={level}", if n == 0 { "" } else { " " }, component.name())?;
        }
        Ok(())
    }
}

type Control = dyn Fn(&str) -> Result<String, String> + Send + Sync;

/// Like the log itself, one for the process.
static CONTROL: OnceLock<Box<Control>> = OnceLock::new();

/// Sets the function that changes the levels; called once, when logging starts.
pub fn set_control(control: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static) {
    let _ = CONTROL.set(Box::new(control));
}

/// Changes the levels, unless the text is empty. Returns the present levels, or a sentence with the error.
pub fn change(text: &str) -> Result<String, String> {
    match CONTROL.get() {
        Some(control) => control(text),
        None => Err("logging has not started".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_changed_by_component() {
        let mut levels = LogLevels::all(LevelFilter::INFO);
        levels.change("dns=debug").unwrap();
        assert_eq!(levels.to_string(), "proxy=info dns=debug programs=info");
        assert_eq!(
            levels.directives(),
            "warn,kube_client=off,portreeve=info,proxy=info,dns=debug,proxy_ebpf=info"
        );
        for wrong in ["loud", "dns=loud", "x=debug", "", "dns=debug,proxy=debug"] {
            assert!(levels.change(wrong).is_err(), "{wrong:?}");
        }
        levels.change("warn").unwrap();
        assert_eq!(levels, LogLevels::all(LevelFilter::WARN));
    }
}
