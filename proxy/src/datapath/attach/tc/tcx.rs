//! tcx: one link per hook, pinned as `<program>-<ifindex>`.

use std::{io, os::fd::OwnedFd, path::PathBuf};

use aya::programs::{SchedClassifier, TcAttachType};
use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use super::hook::{Hook, Hooks, TcError};
use crate::datapath::{
    attach::{
        device_link::{DeviceLink, devices_of},
        load::LoadedProgram,
    },
    kernel::bpf::{self, TcxHook},
    pins::names_in,
};

#[derive(Debug)]
pub struct Tcx {
    links: PathBuf,
}

impl Tcx {
    pub fn new(links: PathBuf) -> Self {
        Self { links }
    }

    fn link(&self, hook: Hook) -> DeviceLink {
        DeviceLink::new(&self.links, hook.program, hook.device)
    }
}

impl Hooks for Tcx {
    fn is_attached(&self, hook: Hook, program_id: u32) -> bool {
        self.link(hook).is_attached(program_id)
    }

    fn attach(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()> {
        self.link(hook).attach(program, || create(hook, program))
    }

    fn attach_before_earlier(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()> {
        self.link(hook).attach_beside(program, || create(hook, program))
    }

    fn detach(&self, hook: Hook) -> io::Result<()> {
        self.link(hook).detach()
    }

    fn attached(&self) -> io::Result<Vec<Hook>> {
        let names = names_in(&self.links)?;
        let of =
            |program: &'static str| devices_of(&names, program).map(move |device| Hook { device, program });
        Ok(TC_PROGRAMS.iter().flat_map(|program| of(program.name)).collect())
    }
}

/// Links the program before all others at the hook.
fn create(hook: Hook, program: LoadedProgram<'_>) -> io::Result<OwnedFd> {
    let direction = match hook.direction() {
        Direction::Ingress => TcxHook::Ingress,
        Direction::Egress => TcxHook::Egress,
    };
    bpf::link_tcx(program.fd, hook.device, direction)
}

pub fn programs_at(device: &str, direction: Direction) -> Result<Vec<String>, TcError> {
    let attach_type = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let (_, programs) = SchedClassifier::query_tcx(device, attach_type)
        .map_err(|source| TcError::Query(device.to_owned(), source))?;
    Ok(programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect())
}
