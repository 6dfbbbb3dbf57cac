//! Attaches the socket programs to a cgroup. Links outlive the agent, and a new program replaces the old one
//! behind the same link, so a hook is never without a program.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, links::FdLink};
use proxy_ebpf::abi::{PROGRAMS, SOCK_OPS};

use super::load::{LoadError, Programs};
use crate::{
    datapath::{
        kernel::bpf,
        pins::{Pins, drop_link},
    },
    error::chain,
};

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error("cannot open the cgroup {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot detach {name}")]
    Detach {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot attach {name} to {cgroup}")]
    Attach {
        name: &'static str,
        cgroup: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Attaches every program to the cgroup, or replaces the program of an earlier agent. On an error it detaches
/// the programs that this call attached: half of the hooks are worse than none.
pub fn attach(programs: &mut Programs, cgroup: &Path, pins: &Pins) -> Result<(), AttachError> {
    detach_unfinished(pins)?;
    let cgroup = Cgroup::open(cgroup)?;
    let mut fresh = Vec::new();
    for name in PROGRAMS {
        let pin = pins.links().join(name);
        if let Err(error) = attach_or_replace(programs, name, &cgroup, &pin, &mut fresh) {
            for pin in &fresh {
                // The first error is the one reported.
                let _ = drop_link(pin);
            }
            return Err(error);
        }
    }
    count_connections(programs, &cgroup, pins);
    Ok(())
}

/// Attaches the program that counts connections. Services work without it.
fn count_connections(programs: &mut Programs, cgroup: &Cgroup, pins: &Pins) {
    if programs.uncounted().is_none() {
        let pin = pins.links().join(SOCK_OPS);
        if let Err(error) = attach_or_replace(programs, SOCK_OPS, cgroup, &pin, &mut Vec::new()) {
            programs.set_uncounted(chain(&error));
        }
    }
}

fn attach_or_replace(
    programs: &mut Programs,
    name: &'static str,
    cgroup: &Cgroup,
    pin: &Path,
    fresh: &mut Vec<PathBuf>,
) -> Result<(), AttachError> {
    if !replace(programs, name, pin, cgroup)? {
        attach_new(programs, name, cgroup, pin)?;
        fresh.push(pin.to_owned());
    }
    Ok(())
}

/// An agent that died between pinning a link and renaming the pin left a program attached under the temporary
/// name.
fn detach_unfinished(pins: &Pins) -> Result<(), AttachError> {
    for name in PROGRAMS.into_iter().chain([SOCK_OPS]) {
        let pin = unfinished(&pins.links().join(name));
        drop_link(&pin).map_err(|source| AttachError::Detach { name, source })?;
    }
    Ok(())
}

/// The temporary pin of a link that is not in use yet.
fn unfinished(pin: &Path) -> PathBuf {
    pin.with_file_name(format!("{}-new", pin.file_name().unwrap_or_default().display()))
}

/// Attaches again each program whose link was detached, whose pin is gone, or which was replaced by another
/// program. `repaired` receives the names of those hooks, also before an error.
pub fn repair(
    programs: &mut Programs,
    cgroup: &Path,
    pins: &Pins,
    repaired: &mut Vec<&'static str>,
) -> Result<(), AttachError> {
    let cgroup = Cgroup::open(cgroup)?;
    let counting = programs.uncounted().is_none().then_some(SOCK_OPS);
    for name in PROGRAMS.into_iter().chain(counting) {
        let pin = pins.links().join(name);
        if is_attached(programs, name, &pin, &cgroup)? {
            continue;
        }
        if !replace(programs, name, &pin, &cgroup)? {
            attach_new(programs, name, &cgroup, &pin)?;
        }
        repaired.push(name);
    }
    Ok(())
}

/// A cgroup by its directory, and by its inode number, which is its id in a link.
struct Cgroup {
    path: PathBuf,
    dir: File,
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, AttachError> {
        let failed = |source| AttachError::Cgroup { path: path.to_owned(), source };
        let dir = File::open(path).map_err(failed)?;
        let id = dir.metadata().map_err(failed)?.ino();
        Ok(Self { path: path.to_owned(), dir, id })
    }
}

fn is_attached(
    programs: &Programs,
    name: &'static str,
    pin: &Path,
    cgroup: &Cgroup,
) -> Result<bool, AttachError> {
    let info = programs.info(name)?;
    let link = bpf::object_get(pin).and_then(|link| bpf::cgroup_link(link.as_fd()));
    Ok(link.is_ok_and(|link| link.cgroup_id == cgroup.id && link.program_id == info.id()))
}

/// Updates the pinned link to the program. Returns `false` if there is no link, or one to another cgroup.
fn replace(
    programs: &mut Programs,
    name: &'static str,
    pin: &Path,
    cgroup: &Cgroup,
) -> Result<bool, AttachError> {
    let Ok(link) = bpf::object_get(pin) else { return Ok(false) };
    let is_same_cgroup = bpf::cgroup_link(link.as_fd()).is_ok_and(|link| link.cgroup_id == cgroup.id);
    if !is_same_cgroup {
        return Ok(false);
    }
    let program = programs.fd(name)?;
    // A link whose cgroup is gone answers ENOLINK; the caller then creates a new one.
    Ok(bpf::link_update(link.as_fd(), program).is_ok())
}

/// Pins the link under a temporary name first: the rename drops the old pin, if any, only once the new link
/// works.
fn attach_new(
    programs: &mut Programs,
    name: &'static str,
    cgroup: &Cgroup,
    pin: &Path,
) -> Result<(), AttachError> {
    link_and_pin(programs, name, &cgroup.dir, pin).map_err(|source| AttachError::Attach {
        name,
        cgroup: cgroup.path.clone(),
        source,
    })
}

fn link_and_pin(
    programs: &mut Programs,
    name: &'static str,
    cgroup: &File,
    pin: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Links always use multi mode; the kernel refuses the flag for them.
    let mode = CgroupAttachMode::Single;
    let link = if name == SOCK_OPS {
        let program = programs.sock_ops()?;
        let id = program.attach(cgroup, mode)?;
        FdLink::try_from(program.take_link(id)?)?
    } else {
        let program = programs.get(name)?;
        let id = program.attach(cgroup, mode)?;
        FdLink::try_from(program.take_link(id)?)?
    };
    let fresh = unfinished(pin);
    drop_link(&fresh)?;
    link.pin(&fresh)?;
    fs::rename(&fresh, pin)?;
    Ok(())
}
