//! Attaches the packet plane's programs to devices, and keeps them attached.
//!
//! With tcx each hook has a pinned link, and a new program replaces the old one behind it. Without it the
//! hook is a filter of a clsact qdisc, replaced in place as well. In both cases our program runs before all
//! others at its hook, in both directions: most programs end the chain with their verdict, and if one of ours
//! is skipped for replies, an untranslated reply leaves the node. Ours pass packets that they do not handle
//! on to the next program.
//!
//! Programs of others are never replaced or detached, and a qdisc of others stays.

use std::{collections::BTreeSet, io};

use proxy_ebpf::abi::{Direction, TC_PROGRAMS, TcProgram};

use super::{
    devices::Device,
    load::{LoadedProgram, Programs},
};
use crate::{
    config::TcHooks,
    datapath::{kernel::bpf, pins::Pins},
};

mod clsact;
mod hook;
mod tcx;

use clsact::Clsact;
pub use hook::TcError;
use hook::{Hook, Hooks};
use tcx::Tcx;

/// The programs at the hooks of devices.
#[derive(Debug)]
pub struct DeviceHooks {
    hooks: Box<dyn Hooks>,
    /// The mechanism that is not used; an earlier agent may have used it.
    other: Box<dyn Hooks>,
    /// Hooks with our program at the end of the last pass.
    attached: BTreeSet<Hook>,
}

/// The result of a pass.
#[derive(Debug, Default)]
pub struct TcPass {
    /// Program and device of hooks that had lost our program and have it again.
    pub repaired: Vec<(&'static str, String)>,
    pub failed: Vec<TcError>,
    /// Failures for devices that disappeared during the pass; the next pass has a new list.
    pub gone: Vec<TcError>,
    /// The number of hooks with our program.
    pub attached: usize,
}

impl TcPass {
    fn record(&mut self, error: TcError) {
        let errors = if error.is_device_gone() { &mut self.gone } else { &mut self.failed };
        errors.push(error);
    }
}

impl DeviceHooks {
    pub fn new(how: TcHooks, pins: &Pins) -> Result<Self, TcError> {
        let tcx: Box<dyn Hooks> = Box::new(Tcx::new(pins.links()));
        let clsact: Box<dyn Hooks> = Box::new(Clsact::new(pins.links()));
        let has_tcx = bpf::has_tcx();
        let (hooks, other) = match how {
            TcHooks::Tcx if !has_tcx => return Err(TcError::NoTcx),
            TcHooks::Auto if has_tcx => (tcx, clsact),
            TcHooks::Tcx => (tcx, clsact),
            TcHooks::Auto | TcHooks::Clsact => (clsact, tcx),
        };
        Ok(Self { hooks, other, attached: BTreeSet::new() })
    }

    /// The programs that are at a device since the last pass.
    pub fn attached_to(&self, device: u32) -> impl Iterator<Item = &'static str> {
        self.attached.iter().filter(move |hook| hook.device == device).map(|hook| hook.program)
    }

    /// Whether there are programs of an earlier agent at hooks of the mechanism that is not used.
    pub fn has_others(&self) -> bool {
        // Where they cannot be listed, `keep` reports it.
        self.other.attached().is_ok_and(|hooks| !hooks.is_empty())
    }

    /// Attaches the programs before those of an earlier agent, which stay until the next pass of `keep`.
    pub fn add(&self, programs: &Programs, devices: &[Device]) -> Vec<TcError> {
        let mut failed = Vec::new();
        for device in devices {
            for hook in hooks_of(device) {
                let added =
                    attach(programs, hook, device, |program| self.hooks.attach_before_earlier(hook, program));
                failed.extend(added.err());
            }
        }
        failed
    }

    /// Attaches missing programs to these devices, and detaches ours from others. To be repeated when the
    /// devices change and at intervals: another process may detach or replace a program.
    pub fn keep(&mut self, programs: &Programs, devices: &[Device]) -> TcPass {
        let mut pass = TcPass::default();
        let mut attached = BTreeSet::new();
        for device in devices {
            self.keep_device(programs, device, &mut attached, &mut pass);
        }
        // The old mechanism goes last, so that a hook is never without a program.
        self.detach_others(devices, &mut pass);
        self.attached = attached;
        pass.attached = self.attached.len();
        pass
    }

    /// Stops at the first failure: half of a device's hooks are worse than none.
    fn keep_device(
        &self,
        programs: &Programs,
        device: &Device,
        attached: &mut BTreeSet<Hook>,
        pass: &mut TcPass,
    ) {
        for program in wanted(device) {
            let hook = Hook { device: device.index, program: program.name };
            match self.ensure(programs, hook, device) {
                Ok(false) => {}
                Ok(true) if !self.attached.contains(&hook) => {}
                Ok(true) => pass.repaired.push((program.name, device.name.clone())),
                Err(error) => return pass.record(error),
            }
            attached.insert(hook);
        }
    }

    /// Returns whether the program had to be attached.
    fn ensure(&self, programs: &Programs, hook: Hook, device: &Device) -> Result<bool, TcError> {
        if self.hooks.is_attached(hook, programs.info(hook.program)?.id()) {
            return Ok(false);
        }
        attach(programs, hook, device, |program| self.hooks.attach(hook, program)).map(|()| true)
    }

    fn detach_others(&self, devices: &[Device], pass: &mut TcPass) {
        let wanted: BTreeSet<Hook> = devices.iter().flat_map(hooks_of).collect();
        let dropped = detach_all(&*self.hooks, |hook| !wanted.contains(&hook))
            .and_then(|()| detach_all(&*self.other, |_| true));
        pass.failed.extend(dropped.err());
    }
}

fn attach(
    programs: &Programs,
    hook: Hook,
    device: &Device,
    attach: impl FnOnce(LoadedProgram<'_>) -> io::Result<()>,
) -> Result<(), TcError> {
    let Hook { program, .. } = hook;
    attach(programs.loaded(program)?).map_err(|source| TcError::Attach {
        program,
        device: device.name.clone(),
        source,
    })
}

fn wanted(device: &Device) -> impl Iterator<Item = TcProgram> {
    let role = device.role;
    TC_PROGRAMS.into_iter().filter(move |program| program.role == role)
}

fn hooks_of(device: &Device) -> impl Iterator<Item = Hook> {
    let index = device.index;
    wanted(device).map(move |program| Hook { device: index, program: program.name })
}

/// Detaches all of our programs from every device, including those of earlier agents.
pub fn detach_devices(pins: &Pins) -> Result<(), TcError> {
    detach_all(&Tcx::new(pins.links()), |_| true)?;
    let clsact = Clsact::new(pins.links());
    detach_all(&clsact, |_| true)?;
    clsact.remove_qdiscs().map_err(TcError::Qdisc)
}

fn detach_all(hooks: &dyn Hooks, is_doomed: impl Fn(Hook) -> bool) -> Result<(), TcError> {
    let attached = hooks.attached().map_err(TcError::List)?;
    for hook in attached.into_iter().filter(|hook| is_doomed(*hook)) {
        let Hook { program, device } = hook;
        hooks.detach(hook).map_err(|source| TcError::Detach { program, device, source })?;
    }
    Ok(())
}

/// All programs at a hook of a device, in the order in which they run. tcx programs are listed by the
/// kernel's name for them, which is cut after 15 characters, clsact programs by the name of their filter.
pub fn programs_at(device: &str, direction: Direction) -> Result<Vec<String>, TcError> {
    let index = nix::net::if_::if_nametoindex(device).map_err(|errno| TcError::List(errno.into()))?;
    let mut names = if bpf::has_tcx() { tcx::programs_at(device, direction)? } else { Vec::new() };
    names.extend(clsact::programs_at(index, direction).map_err(TcError::List)?);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_is_no_failure() {
        let mut pass = TcPass::default();
        for errno in [libc::ENODEV, libc::EPERM, libc::ENODEV] {
            let source = std::io::Error::from_raw_os_error(errno);
            pass.record(TcError::Attach { program: "tc", device: "veth1".to_owned(), source });
        }
        assert_eq!((pass.failed.len(), pass.gone.len()), (1, 2), "{pass:?}");
    }
}
