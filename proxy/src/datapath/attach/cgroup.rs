//! Puts the programs behind the hooks of a cgroup. Links outlive the agent, and a new program takes the place of the
//! old one behind the same link, so there is no moment without one.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use proxy_ebpf::abi::PROGRAMS;

use super::load::{LoadError, Programs, refused};
use crate::datapath::{
    kernel::sys,
    pins::{Pins, drop_link},
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

/// Attaches every program to the cgroup, or replaces what an earlier agent attached there. What it attached before an
/// error it takes away again: half of the hooks are worse than none.
pub fn attach(programs: &mut Programs, cgroup: &Path, pins: &Pins) -> Result<(), AttachError> {
    detach_unfinished(pins)?;
    let cgroup = Cgroup::open(cgroup)?;
    let mut fresh = Vec::new();
    for name in PROGRAMS {
        let pin = pins.links().join(name);
        if let Err(error) = attach_or_replace(programs, name, &cgroup, &pin, &mut fresh) {
            for pin in &fresh {
                // The error that is told is the first one.
                let _ = drop_link(pin);
            }
            return Err(error);
        }
    }
    Ok(())
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

/// An agent that died between the pinning of a link and its renaming left a program attached under the first name.
fn detach_unfinished(pins: &Pins) -> Result<(), AttachError> {
    for name in PROGRAMS {
        let pin = unfinished(&pins.links().join(name));
        drop_link(&pin).map_err(|source| AttachError::Detach { name, source })?;
    }
    Ok(())
}

/// Where a link is pinned until it works.
fn unfinished(pin: &Path) -> PathBuf {
    pin.with_file_name(format!("{}-new", pin.file_name().unwrap_or_default().display()))
}

/// Attaches again what is no longer as `attach` left it: a link that was detached or whose pin is gone, or a program
/// that somebody put in our place. `repaired`: the names of the hooks where that was so, also before an error.
pub fn repair(
    programs: &mut Programs,
    cgroup: &Path,
    pins: &Pins,
    repaired: &mut Vec<&'static str>,
) -> Result<(), AttachError> {
    let cgroup = Cgroup::open(cgroup)?;
    for name in PROGRAMS {
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

/// A cgroup by its directory, and by the number under which links know it.
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
    let link = sys::object_get(pin).and_then(|link| sys::cgroup_link(link.as_fd()));
    Ok(link.is_ok_and(|link| link.cgroup_id == cgroup.id && link.program_id == info.id()))
}

/// Takes every program from its hook, as an earlier agent may have attached them.
pub fn detach(pins: &Pins) -> Result<(), AttachError> {
    detach_unfinished(pins)?;
    for name in PROGRAMS {
        let pin = pins.links().join(name);
        drop_link(&pin).map_err(|source| AttachError::Detach { name, source })?;
    }
    Ok(())
}

/// Puts the program behind the pinned link; `false` where there is none, or one to another cgroup.
fn replace(
    programs: &mut Programs,
    name: &'static str,
    pin: &Path,
    cgroup: &Cgroup,
) -> Result<bool, AttachError> {
    let Ok(link) = sys::object_get(pin) else { return Ok(false) };
    let is_same_cgroup = sys::cgroup_link(link.as_fd()).is_ok_and(|link| link.cgroup_id == cgroup.id);
    if !is_same_cgroup {
        return Ok(false);
    }
    let program = programs.get(name)?;
    let fd = program.fd().map_err(|error| refused(name, &error))?;
    // A link whose cgroup is gone answers ENOLINK: then a new one takes its place.
    Ok(sys::link_update(link.as_fd(), fd.as_fd()).is_ok())
}

/// Links under a name of its own first: a rename drops the old pin, if any, only once the new link works.
fn attach_new(
    programs: &mut Programs,
    name: &'static str,
    cgroup: &Cgroup,
    pin: &Path,
) -> Result<(), AttachError> {
    let program = programs.get(name)?;
    link_and_pin(program, &cgroup.dir, pin).map_err(|source| AttachError::Attach {
        name,
        cgroup: cgroup.path.clone(),
        source,
    })
}

fn link_and_pin(
    program: &mut CgroupSockAddr,
    cgroup: &File,
    pin: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Links are always of the multi kind; the kernel refuses the flag for it.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    let fresh = unfinished(pin);
    drop_link(&fresh)?;
    link.pin(&fresh)?;
    fs::rename(&fresh, pin)?;
    Ok(())
}
