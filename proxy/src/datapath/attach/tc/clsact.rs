//! clsact: one filter per hook, for kernels without tcx.
//!
//! A filter is not a link, so the kernel keeps it when the agent dies, and it is found again by its name. It
//! is replaced under its priority and handle. Two marker pins record what a link would: `filters-7` means
//! that device 7 may have filters of ours, `clsact-7` that its qdisc was created by us. The qdisc stays until `cleanup`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
};

use proxy_ebpf::abi::{Direction, TC_PROGRAMS};

use super::hook::{Hook, Hooks};
use crate::datapath::{
    attach::{
        device_link::{devices_of, pin_of},
        load::LoadedProgram,
    },
    kernel::bpf,
    pins::{names_in, remove_if_there},
};

mod request;

use request::Filter;

/// The highest priority; filters of one priority run newest first.
const PRIORITY: u16 = 1;
const FILTERS: &str = "filters";
const QDISC: &str = "clsact";

#[derive(Debug)]
pub struct Clsact {
    links: PathBuf,
}

impl Clsact {
    pub fn new(links: PathBuf) -> Self {
        Self { links }
    }

    fn mark(&self, prefix: &str, device: u32) -> io::Result<()> {
        let pin = self.links.join(pin_of(prefix, device));
        if pin.exists() { Ok(()) } else { bpf::object_pin(bpf::marker_map()?.as_fd(), &pin) }
    }

    fn unmark(&self, prefix: &str, device: u32) -> io::Result<()> {
        remove_if_there(&self.links.join(pin_of(prefix, device)))
    }

    /// Sets the marker first: an agent that dies in between leaves a marker without a qdisc, which is
    /// harmless.
    fn ensure_qdisc(&self, device: u32) -> io::Result<()> {
        if request::has_qdisc(device)? {
            return Ok(());
        }
        self.mark(QDISC, device)?;
        request::add_qdisc(device)
    }

    fn unmark_filters(&self, device: u32) -> io::Result<()> {
        let is_used = filters(device)?.iter().any(is_ours);
        if is_used { Ok(()) } else { self.unmark(FILTERS, device) }
    }

    /// Removes the qdiscs that are ours and unused. Not done when the last filter goes: the kernel deactivates a device while it
    /// adds or removes a qdisc, and drops what is sent there meanwhile (`qdisc_graft`).
    pub fn remove_qdiscs(&self) -> io::Result<()> {
        let pins = names_in(&self.links)?;
        for device in devices_of(&pins, QDISC) {
            if filters(device)?.is_empty() {
                unless_gone(request::delete_qdisc(device))?;
            }
            self.unmark(QDISC, device)?;
        }
        Ok(())
    }
}

impl Hooks for Clsact {
    fn is_attached(&self, hook: Hook, program_id: u32) -> bool {
        let filters = find(hook).unwrap_or_default();
        matches!(&*filters, [filter] if filter.program_id == program_id)
    }

    fn attach(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()> {
        self.mark(FILTERS, hook.device)?;
        let mut filters = find(hook)?;
        let is_before = |filter: &Filter| filter.program_id == program.id;
        if let Some(at) = filters.iter().position(is_before) {
            filters.remove(at);
        } else if filters.is_empty() {
            self.attach_before_earlier(hook, program)?;
        } else {
            let earlier = Filter { program_id: 0, ..filters.remove(0) };
            request::change_filter(hook.device, hook.direction(), &earlier, program.fd.as_raw_fd())?;
        }
        filters.iter().try_for_each(|earlier| delete(hook, earlier))
    }

    fn attach_before_earlier(&self, hook: Hook, program: LoadedProgram<'_>) -> io::Result<()> {
        self.mark(FILTERS, hook.device)?;
        self.ensure_qdisc(hook.device)?;
        let filter = Filter { name: name_of(hook.program), priority: PRIORITY, handle: 0, program_id: 0 };
        request::add_filter(hook.device, hook.direction(), &filter, program.fd.as_raw_fd())
    }

    fn detach(&self, hook: Hook) -> io::Result<()> {
        find(hook)?.iter().try_for_each(|filter| delete(hook, filter))?;
        self.unmark_filters(hook.device)
    }

    fn attached(&self) -> io::Result<Vec<Hook>> {
        let names = names_in(&self.links)?;
        let devices: Vec<u32> = devices_of(&names, FILTERS).collect();
        let at = |device| TC_PROGRAMS.iter().map(move |program| Hook { device, program: program.name });
        Ok(devices.into_iter().flat_map(at).collect())
    }
}

/// Our filters at a hook, found by their name: one, unless an agent is replacing another's program.
fn find(hook: Hook) -> io::Result<Vec<Filter>> {
    let name = name_of(hook.program);
    let mut filters = request::filters(hook.device, hook.direction())?;
    filters.retain(|filter| filter.name == name);
    Ok(filters)
}

/// All filters of a device, also those of others.
fn filters(device: u32) -> io::Result<Vec<Filter>> {
    let mut filters = request::filters(device, Direction::Ingress)?;
    filters.extend(request::filters(device, Direction::Egress)?);
    Ok(filters)
}

fn delete(hook: Hook, filter: &Filter) -> io::Result<()> {
    unless_gone(request::delete_filter(hook.device, hook.direction(), filter))
}

fn name_of(program: &str) -> String {
    format!("portreeve:{program}")
}

fn is_ours(filter: &Filter) -> bool {
    TC_PROGRAMS.iter().any(|program| filter.name == name_of(program.name))
}

/// A device that is gone took its qdisc and filters with it.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

pub fn programs_at(device: u32, direction: Direction) -> io::Result<Vec<String>> {
    Ok(request::filters(device, direction)?.into_iter().map(|filter| filter.name).collect())
}
