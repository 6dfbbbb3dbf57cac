//! Puts the programs of the packet plane at the hooks of devices, and keeps them there.
//!
//! Where the kernel has tcx, each hook holds a pinned link, and a new program takes the place of the old one behind it.
//! Elsewhere it is a filter of a clsact queueing discipline, replaced in place as well. Either way our program stands
//! before all others at its hook, in both directions: most programs end the chain with their verdict, and one of ours
//! that is skipped on the way back would let an untranslated reply out. Ours hand on what they do not decide.
//!
//! Nobody else's program is ever replaced or detached, and a queueing discipline that we did not make stays.

use std::collections::BTreeSet;

use proxy_ebpf::abi::{Direction, TC_PROGRAMS, TcProgram};

use super::{devices::Device, load::Programs};
use crate::{
    config::TcHooks,
    datapath::{kernel::sys, pins::Pins},
};

mod clsact;
mod hook;
mod tcx;

use clsact::Clsact;
pub use hook::TcError;
use hook::{Hook, Hooks};
use tcx::Tcx;

/// What holds the programs at the hooks of devices.
#[derive(Debug)]
pub struct DeviceHooks {
    hooks: Box<dyn Hooks>,
    /// The way that is not used: an earlier agent may have used it.
    other: Box<dyn Hooks>,
    /// What attached our program at the end of the last pass.
    attached: BTreeSet<Hook>,
}

/// What a pass found and did.
#[derive(Debug, Default)]
pub struct TcPass {
    /// Names of program and device of hooks that had lost our program, and have it again.
    pub repaired: Vec<(&'static str, String)>,
    /// A device may go while we attach to it; the next pass knows.
    pub failed: Vec<TcError>,
    /// Hooks that hold our program now.
    pub attached: usize,
}

impl DeviceHooks {
    pub fn new(how: TcHooks, pins: &Pins) -> Result<Self, TcError> {
        let tcx: Box<dyn Hooks> = Box::new(Tcx::new(pins.links()));
        let clsact: Box<dyn Hooks> = Box::new(Clsact::new(pins.links()));
        let has_tcx = sys::has_tcx();
        let (hooks, other) = match how {
            TcHooks::Tcx if !has_tcx => return Err(TcError::NoTcx),
            TcHooks::Auto if has_tcx => (tcx, clsact),
            TcHooks::Tcx => (tcx, clsact),
            TcHooks::Auto | TcHooks::Clsact => (clsact, tcx),
        };
        Ok(Self { hooks, other, attached: BTreeSet::new() })
    }

    /// Attaches what is missing to these devices, and detaches what is ours elsewhere. To be repeated whenever the
    /// devices change, and every now and then: somebody may have detached a program or put another in its place.
    pub fn keep(&mut self, programs: &Programs, devices: &[Device]) -> TcPass {
        let mut pass = TcPass::default();
        let mut attached = BTreeSet::new();
        for device in devices {
            self.keep_device(programs, device, &mut attached, &mut pass);
        }
        // What stood there before goes last, so that no packet meets a moment without a program.
        self.detach_others(devices, &mut pass);
        self.attached = attached;
        pass.attached = self.attached.len();
        pass
    }

    /// Half of a device's hooks are worse than none, so its first failure is its last.
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
                Err(error) => return pass.failed.push(error),
            }
            attached.insert(hook);
        }
    }

    /// Whether something had to be done.
    fn ensure(&self, programs: &Programs, hook: Hook, device: &Device) -> Result<bool, TcError> {
        if self.hooks.is_attached(hook, programs.info(hook.program)?.id()) {
            return Ok(false);
        }
        let attached = self.hooks.attach(hook, programs.fd(hook.program)?);
        attached.map(|()| true).map_err(|source| TcError::Attach {
            program: hook.program,
            device: device.name.clone(),
            source,
        })
    }

    fn detach_others(&self, devices: &[Device], pass: &mut TcPass) {
        let wanted: BTreeSet<Hook> = devices.iter().flat_map(hooks_of).collect();
        let dropped = detach_all(&*self.hooks, |hook| !wanted.contains(&hook))
            .and_then(|()| detach_all(&*self.other, |_| true));
        pass.failed.extend(dropped.err());
    }
}

fn wanted(device: &Device) -> impl Iterator<Item = TcProgram> {
    let role = device.role;
    TC_PROGRAMS.into_iter().filter(move |program| program.role == role)
}

fn hooks_of(device: &Device) -> impl Iterator<Item = Hook> {
    let index = device.index;
    wanted(device).map(move |program| Hook { device: index, program: program.name })
}

/// Takes every program of ours from every device, as any agent may have attached them.
pub fn detach_devices(pins: &Pins) -> Result<(), TcError> {
    detach_all(&Tcx::new(pins.links()), |_| true)?;
    detach_all(&Clsact::new(pins.links()), |_| true)
}

fn detach_all(hooks: &dyn Hooks, is_doomed: impl Fn(Hook) -> bool) -> Result<(), TcError> {
    let attached = hooks.attached().map_err(TcError::List)?;
    for hook in attached.into_iter().filter(|hook| is_doomed(*hook)) {
        let Hook { program, device } = hook;
        hooks.detach(hook).map_err(|source| TcError::Detach { program, device, source })?;
    }
    Ok(())
}

/// Everybody's programs at a hook of a device, in the order in which packets meet them: those of tcx by the names that
/// the kernel keeps, which are cut after 15 characters, then those of clsact by the names of their filters.
pub fn programs_at(device: &str, direction: Direction) -> Result<Vec<String>, TcError> {
    let index = nix::net::if_::if_nametoindex(device).map_err(|errno| TcError::List(errno.into()))?;
    let mut names = if sys::has_tcx() { tcx::programs_at(device, direction)? } else { Vec::new() };
    names.extend(clsact::programs_at(index, direction).map_err(TcError::List)?);
    Ok(names)
}
