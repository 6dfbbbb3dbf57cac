//! A link to a device, pinned as `<prefix>-<ifindex>`. It outlives the agent.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::load::LoadedProgram;
use crate::datapath::{kernel::bpf, pins::drop_link};

#[derive(Debug)]
pub struct DeviceLink {
    pin: PathBuf,
    device: u32,
}

impl DeviceLink {
    pub fn new(links: &Path, prefix: &str, device: u32) -> Self {
        Self { pin: links.join(pin_of(prefix, device)), device }
    }

    /// The temporary pin of a link that is not in use yet, or is attached beside that of an earlier program. An agent that died
    /// before the rename left it attached.
    fn unfinished(&self) -> PathBuf {
        let name = self.pin.file_name().unwrap_or_default().display();
        self.pin.with_file_name(format!("{name}{UNFINISHED}"))
    }

    /// Whether the program is attached to the device through this link.
    pub fn is_attached(&self, program_id: u32) -> bool {
        self.is_link_of(&self.pin, program_id)
    }

    fn is_link_of(&self, pin: &Path, program_id: u32) -> bool {
        let link = bpf::object_get(pin).and_then(|link| bpf::device_link(link.as_fd()));
        link.is_ok_and(|link| link.device == self.device && link.program_id == program_id)
    }

    /// Updates the pinned link to the program, or creates a link if there is none or its device is gone. The link of
    /// `attach_beside` takes the place of the earlier one, which ends.
    pub fn attach(
        &self,
        program: LoadedProgram<'_>,
        create: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        let fresh = self.unfinished();
        if self.is_link_of(&fresh, program.id) {
            // Without this the kernel detaches the earlier program some time later.
            drop_link(&self.pin)?;
            return fs::rename(&fresh, &self.pin);
        }
        if fresh.exists() && !self.pin.exists() {
            fs::rename(&fresh, &self.pin)?;
        }
        drop_link(&fresh)?;
        if self.replace(&self.pin, program) {
            return Ok(());
        }
        bpf::object_pin(create()?.as_fd(), &fresh)?;
        fs::rename(&fresh, &self.pin)
    }

    /// Attaches the program through a link beside that of an earlier one.
    pub fn attach_beside(
        &self,
        program: LoadedProgram<'_>,
        create: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        let fresh = self.unfinished();
        if self.replace(&fresh, program) {
            return Ok(());
        }
        drop_link(&fresh)?;
        bpf::object_pin(create()?.as_fd(), &fresh)
    }

    fn replace(&self, pin: &Path, program: LoadedProgram<'_>) -> bool {
        let Ok(link) = bpf::object_get(pin) else { return false };
        let is_same_device = bpf::device_link(link.as_fd()).is_ok_and(|link| link.device == self.device);
        is_same_device && bpf::link_update(link.as_fd(), program.fd).is_ok()
    }

    /// Detaches the program, if it is attached.
    pub fn detach(&self) -> io::Result<()> {
        drop_link(&self.unfinished())?;
        drop_link(&self.pin)
    }
}

const UNFINISHED: &str = "-new";

/// The name of a pin: a prefix and an ifindex.
pub fn pin_of(prefix: &str, device: u32) -> String {
    format!("{prefix}-{device}")
}

/// The ifindexes of the pins with this prefix.
pub fn devices_of<'a>(pins: &'a BTreeSet<String>, prefix: &'a str) -> impl Iterator<Item = u32> + 'a {
    let index = move |pin: &String| {
        pin.strip_prefix(prefix)?.strip_prefix('-')?.trim_end_matches(UNFINISHED).parse().ok()
    };
    pins.iter().filter_map(index)
}
