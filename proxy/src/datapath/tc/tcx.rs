//! tcx: a link per hook, pinned as `<program>-<index of the device>`.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
};

use aya::programs::{SchedClassifier, TcAttachType};
use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use super::{Hook, Hooks, TcError, devices_of, pin_of};
use crate::datapath::{
    pins::{drop_link, names_in},
    sys::{self, TcxHook},
};

#[derive(Debug)]
pub struct Tcx {
    links: PathBuf,
}

impl Tcx {
    pub fn new(links: PathBuf) -> Self {
        Self { links }
    }

    fn pin(&self, hook: Hook) -> PathBuf {
        self.links.join(pin_of(hook.program, hook.device))
    }

    /// Where a link is pinned until it works. An agent that died before the renaming left it attached.
    fn unfinished(&self, hook: Hook) -> PathBuf {
        self.links.join(format!("{}-new", pin_of(hook.program, hook.device)))
    }

    /// Puts the program behind the pinned link; `false` where there is none, or one whose device is gone.
    fn replace(&self, hook: Hook, program: BorrowedFd<'_>) -> bool {
        let Ok(link) = sys::object_get(&self.pin(hook)) else { return false };
        let leads_there = sys::tcx_link(link.as_fd()).is_ok_and(|link| link.device == hook.device);
        leads_there && sys::link_update(link.as_fd(), program).is_ok()
    }
}

impl Hooks for Tcx {
    fn holds(&self, hook: Hook, program_id: u32) -> bool {
        let link = sys::object_get(&self.pin(hook)).and_then(|link| sys::tcx_link(link.as_fd()));
        link.is_ok_and(|link| link.device == hook.device && link.program_id == program_id)
    }

    fn put(&self, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
        let fresh = self.unfinished(hook);
        drop_link(&fresh)?;
        if self.replace(hook, program) {
            return Ok(());
        }
        let direction = match hook.direction() {
            Direction::Ingress => TcxHook::Ingress,
            Direction::Egress => TcxHook::Egress,
        };
        let link = sys::link_tcx(program, hook.device, direction)?;
        sys::object_pin(link.as_fd(), &fresh)?;
        fs::rename(&fresh, self.pin(hook))
    }

    fn take(&self, hook: Hook) -> io::Result<()> {
        drop_link(&self.unfinished(hook))?;
        drop_link(&self.pin(hook))
    }

    fn held(&self) -> io::Result<Vec<Hook>> {
        let names = names_in(&self.links)?;
        let names = names.iter().map(|name| name.trim_end_matches("-new").to_owned()).collect();
        let of =
            |program: &'static str| devices_of(&names, program).map(move |device| Hook { device, program });
        Ok(TC_PROGRAMS.iter().flat_map(|program| of(program.name)).collect())
    }
}

pub fn standing_at(device: &str, direction: Direction) -> Result<Vec<String>, TcError> {
    let attach_type = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let (_, programs) = SchedClassifier::query_tcx(device, attach_type)
        .map_err(|source| TcError::Standing(device.to_owned(), source))?;
    Ok(programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect())
}
