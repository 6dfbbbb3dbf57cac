//! Passive health: what connections find out about backends, and the choice that leaves out suspected ones. Rules X; their arithmetic is in `abi::health`.
//!
//! Connections report: sockets in `hook::sock_ops`, flows in `ct`. Per connection, never per packet. A decision reads one word while
//! nothing is suspected.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_get_prandom_u32, generated::bpf_loop},
    macros::btf_map,
};
use proxy_ebpf::abi::{
    BackendHealth, BackendRef, ConfigFlags, EventHook, EventKind, HealthChange, HealthFault, HealthWord,
    Standing, map,
};

use super::{Backends, frontend};
use crate::{
    atomic, clock, config,
    events::{self, What},
    family::{Family as _, V4, V6},
    packet::header::TCP,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static BACKEND_HEALTH: Array<BackendHealth, { map::MAX_BACKEND_HEALTH as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SUSPICION: Array<u64, 1, MMAPABLE> = Array::new();
#[btf_map]
static HEALTH_CHANGES: PerCpuArray<u64, { HealthChange::COUNT as usize }> = PerCpuArray::new();

/// Limit of the slots of a set among which another backend is searched: of larger sets a random run.
const SEARCHED: u32 = 256;

/// Whether some backend is suspected, or was a minute ago. Most of the time the answer is one read.
#[inline(always)]
pub fn is_current() -> bool {
    is_suspicion_current() != 0
}

/// With external linkage, as those below: verified once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_suspicion_current() -> u32 {
    is_suspicion_read().into()
}

#[inline(always)]
fn is_suspicion_read() -> bool {
    // SAFETY: a pointer into an array map, which lives as long as the program; volatile because other CPUs write it.
    let until = SUSPICION.get_ptr(0).map_or(0, |until| unsafe { until.read_volatile() });
    until != 0 && (until as u32).wrapping_sub(clock::ticks()) as i32 > 0
}

/// Whether decisions leave out suspected backends now.
#[inline(always)]
pub fn is_decisive() -> bool {
    config::flags().contains(ConfigFlags::ACTS_ON_HEALTH) && is_current()
}

/// Extends the time in which health is read, to that of a word.
#[inline(always)]
fn extend(word: HealthWord) {
    let Some(until) = SUSPICION.get_ptr_mut(0) else { return };
    // SAFETY: as in `is_current`.
    let known = unsafe { until.read_volatile() };
    let wanted = word.until().wrapping_add(HealthWord::MEMORY);
    if known == 0 || wanted.wrapping_sub(known as u32) as i32 > 0 {
        // If another CPU is first, the memory of one word is a little shorter.
        atomic::compare_exchange(until, known, wanted.into());
    }
}

#[inline(always)]
fn entry(is_v6: u32, index: u32) -> Option<*mut BackendHealth> {
    BACKEND_HEALTH.get_ptr_mut(BackendHealth::index(is_v6, index))
}

#[inline(always)]
fn load(entry: *mut BackendHealth) -> HealthWord {
    // SAFETY: `entry` points into an array map; one aligned word, volatile because other CPUs write it.
    HealthWord(unsafe { entry.cast::<u64>().read_volatile() })
}

#[inline(always)]
fn change(entry: *mut BackendHealth, old: HealthWord, new: HealthWord) -> bool {
    atomic::compare_exchange(entry.cast(), old.0, new.0) == old.0
}

/// Counts a change, by its index in `HealthChange`.
#[inline(always)]
pub fn count(at: u32) {
    if let Some(count) = HEALTH_CHANGES.get_ptr_mut(at) {
        // SAFETY: the element is this CPU's own. A program that preempts this one may lose one count.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

/// A connection has found a fault of a backend.
#[inline(always)]
pub fn failed(is_v6: bool, backend: BackendRef, fault: HealthFault, hook: EventHook) {
    if config::flags().contains(ConfigFlags::RECORDS_HEALTH) {
        backend_failed(backend.to_bits(), is_v6.into(), fault as u32, hook as u32);
    }
}

/// A backend has answered a connection.
#[inline(always)]
pub fn answered(is_v6: bool, backend: BackendRef, hook: EventHook) {
    if config::flags().contains(ConfigFlags::RECORDS_HEALTH) && is_current() {
        backend_answered(backend.to_bits(), is_v6.into(), hook as u32);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_failed(backend: u64, is_v6: u32, fault: u32, hook: u32) -> u32 {
    let backend = BackendRef::from_bits(backend);
    let (Some(entry), Some(fault)) = (entry(is_v6, backend.index), HealthFault::of(fault as u8)) else {
        return 0;
    };
    let now = clock::ticks();
    let known = load(entry);
    let next = known.failed(backend.generation, fault, now);
    if next == known || backend.generation == 0 {
        return 0;
    }
    let is_new = !known.is_suspected(backend.generation, now);
    if !change(entry, known, next) {
        // Another connection has just said the same, or that the backend answers.
        return 0;
    }
    if is_new {
        // SAFETY: as in `load`; a half-word that only commands read.
        unsafe { (&raw mut (*entry).since).write_volatile(now) };
        count(HealthChange::suspected(fault));
        report(is_v6, backend, What::new(EventKind::Suspected, EventHook::Conntrack, fault as u8), hook);
    }
    extend(next);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_answered(backend: u64, is_v6: u32, hook: u32) -> u32 {
    let backend = BackendRef::from_bits(backend);
    let Some(entry) = entry(is_v6, backend.index) else { return 0 };
    let known = load(entry);
    if !known.is_suspected(backend.generation, clock::ticks()) || !change(entry, known, HealthWord::default())
    {
        return 0;
    }
    count(HealthChange::RESTORED);
    report(is_v6, backend, What::new(EventKind::Restored, EventHook::Conntrack, 0), hook);
    0
}

/// Reports a change of a backend's health.
#[inline(always)]
fn report(is_v6: u32, backend: BackendRef, what: What, hook: u32) {
    if events::has_listener() {
        report_health(backend.to_bits(), is_v6, what.0 & !0xff00 | hook << 8);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn report_health(backend: u64, is_v6: u32, what: u32) -> u32 {
    let backend = BackendRef::from_bits(backend);
    let found = if is_v6 != 0 {
        V6::known(backend).map(|backend| (backend.address, backend.port, backend.service))
    } else {
        V4::known(backend).map(|backend| (V4::mapped(backend.address), backend.port, backend.service))
    };
    let Some((address, port, service)) = found else { return 0 };
    events::write(What(what), |event| {
        event.set_destination(address, port);
        event.set_backend(address, port);
        event.set_service(service);
        event.set_protocol(TCP);
    });
    0
}

/// Whether a decision leaves out a backend. If its time is up, the decision makes its connection the trial; one that `writes`
/// nothing only answers as if it did.
#[inline(always)]
pub fn leaves_out<F: Backends>(backend: BackendRef, writes: bool) -> bool {
    is_left_out(backend.to_bits(), F::IS_V6.into(), writes.into()) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_left_out(backend: u64, is_v6: u32, writes: u32) -> u32 {
    // Not by a call: this is the end of one of the deepest call chains.
    if !config::flags().contains(ConfigFlags::ACTS_ON_HEALTH) || !is_suspicion_read() {
        return 0;
    }
    let backend = BackendRef::from_bits(backend);
    let Some(entry) = entry(is_v6, backend.index) else { return 0 };
    let now = clock::ticks();
    let known = load(entry);
    match known.standing(backend.generation, now) {
        Standing::Sound => 0,
        Standing::LeftOut => 1,
        Standing::HalfOpen if writes == 0 => 0,
        Standing::HalfOpen => {
            let tried = known.tried(now);
            let is_first = change(entry, known, tried);
            if is_first {
                extend(tried);
            }
            (!is_first).into()
        }
    }
}

/// A uniformly random backend of some slots; generation 0 if there is none. If the one that was drawn is left out, another one of them
/// that is not, if there is one.
#[inline(always)]
pub fn draw<F: Backends>(first: u32, count: u32, writes: bool) -> BackendRef {
    BackendRef::from_bits(draw_backend(first, count, F::IS_V6.into(), writes.into()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn draw_backend(first: u32, count: u32, is_v6: u32, writes: u32) -> u64 {
    let Some(drawn) = frontend::slot(first.wrapping_add(below(count))) else { return 0 };
    let drawn = drawn.to_bits();
    if count < 2 || is_left_out(drawn, is_v6, writes) == 0 {
        return drawn;
    }
    let other = admissible(first, count, is_v6);
    if other == 0 { drawn } else { other }
}

/// A walk over slots that draws a backend of each standing, uniformly.
#[repr(C)]
struct Walk {
    first: u32,
    count: u32,
    /// The slot of the first step, relative to `first`.
    start: u32,
    now: u32,
    /// Not 0 for IPv6.
    is_v6: u32,
    zero: u32,
    /// Backends that were met: sound ones, and those with other faults than silence.
    sound: u32,
    failing: u32,
    /// One of each, as bits.
    sound_one: u64,
    failing_one: u64,
}

/// A random number below `limit`. Multiplication instead of a remainder: no zero check, and as uniform.
#[inline(always)]
fn below(limit: u32) -> u32 {
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    ((u64::from(random) * u64::from(limit)) >> 32) as u32
}

/// A backend of these slots that is not left out, drawn uniformly; 0 if there is none. At most half of the slots are left out for
/// faults other than silence: as many as are more stay, others in each decision.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn admissible(first: u32, count: u32, is_v6: u32) -> u64 {
    let (start, now) = (below(count), clock::ticks());
    let mut walk =
        Walk { first, count, start, now, is_v6, zero: 0, sound: 0, failing: 0, sound_one: 0, failing_one: 0 };
    let steps = if count < SEARCHED { count } else { SEARCHED };
    let callback: extern "C" fn(u64, *mut c_void) -> i64 = step;
    // SAFETY: the callback has the signature the kernel expects, and the walk outlives the loop.
    unsafe { bpf_loop(steps, callback as *mut c_void, (&raw mut walk).cast(), 0) };
    let Walk { sound, failing, sound_one, failing_one, .. } = walk;
    let all = sound.wrapping_add(failing.saturating_sub(steps / 2));
    if all != 0 && below(all) >= sound { failing_one } else { sound_one }
}

/// `new` if `is_new` is 1, `old` if it is 0.
#[inline(always)]
fn selected(is_new: u32, new: u64, old: u64) -> u64 {
    let mask = 0_u64.wrapping_sub(is_new.into());
    new & mask | old & !mask
}

extern "C" fn step(step: u64, walk: *mut c_void) -> i64 {
    // SAFETY: the kernel passes the pointer given to `bpf_loop` in `admissible`.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let at = walk.start.wrapping_add(step as u32);
    let at = if at < walk.count { at } else { at.wrapping_sub(walk.count) };
    let Some(backend) = frontend::slot(walk.first.wrapping_add(at)) else { return 1 };
    let Some(entry) = entry(walk.is_v6, backend.index) else { return 0 };
    let word = load(entry);
    // Without branches, as the verifier follows each of them in each turn.
    let is_sound = u32::from(!word.is_suspected(backend.generation, walk.now));
    let is_failing = !is_sound & u32::from(!word.is_silent());
    walk.sound = walk.sound.wrapping_add(is_sound);
    walk.failing = walk.failing.wrapping_add(is_failing);
    // Each sound one replaces the one before with the right probability. Of the others it is the last: the walk begins anywhere.
    let is_taken = is_sound & u32::from(below(walk.sound) == 0);
    walk.sound_one = selected(is_taken, backend.to_bits(), walk.sound_one);
    walk.failing_one = selected(is_failing, backend.to_bits(), walk.failing_one);
    0
}
