//! The references of flows under all interleavings of up to three CPUs: insertion, deletion, reuse, lookup. The protocol is the
//! programs' own (`proxy_ebpf::bucket`); records and lookups are modelled as in `ct/table.rs`.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
    thread,
};
use proxy_ebpf::{
    abi::{FlowDirection, FlowRef, FlowState, TupleHash, TupleKind},
    bucket::{self, BucketWords, Inserted, Relation},
};

/// Tuples are numbers, and all have one fingerprint: that is the worst case.
const HASH: TupleHash = TupleHash(5);
const T: u32 = 1;
const U: u32 = 2;

struct Record {
    state: AtomicU64,
    tuple: AtomicU32,
}

/// A bucket of `N` words, and three records.
struct Table<const N: usize> {
    words: [AtomicU64; N],
    records: [Record; 3],
}

impl<const N: usize> BucketWords for &Table<N> {
    const COUNT: u32 = N as u32;

    fn load(&self, at: u32) -> FlowRef {
        FlowRef(self.words[at as usize].load(Ordering::Acquire))
    }

    fn compare_exchange(&self, at: u32, old: FlowRef, new: FlowRef) -> FlowRef {
        FlowRef(exchange(&self.words[at as usize], old.0, new.0))
    }
}

/// BPF's compare-and-swap is ordered before and after all other accesses. Loom takes `SeqCst` for that at fences only.
fn exchange(word: &AtomicU64, old: u64, new: u64) -> u64 {
    fence(Ordering::SeqCst);
    let found =
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found);
    fence(Ordering::SeqCst);
    found
}

impl<const N: usize> Table<N> {
    fn new() -> Self {
        let record = || Record { state: AtomicU64::new(0), tuple: AtomicU32::new(0) };
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)), records: [record(), record(), record()] }
    }

    fn state(&self, slot: u32) -> FlowState {
        FlowState(self.records[slot as usize].state.load(Ordering::Acquire))
    }

    fn change(&self, slot: u32, old: FlowState, new: FlowState) -> bool {
        exchange(&self.records[slot as usize].state, old.0, new.0) == old.0
    }

    fn relation(&self, reference: FlowRef, tuple: u32) -> Relation {
        let state = self.state(reference.slot());
        if state.tag() != reference.tag() || !state.has(FlowState::ALIVE) {
            Relation::Stale
        } else if self.records[reference.slot() as usize].tuple.load(Ordering::Acquire) != tuple {
            Relation::Other
        } else if state.has(FlowState::DYING) {
            Relation::Dying
        } else {
            Relation::Same
        }
    }

    fn reference(&self, slot: u32) -> FlowRef {
        FlowRef::new(slot, self.state(slot).tag(), TupleKind::Original, HASH)
    }

    /// Creates a flow in a record that is free. If the tuple is in use, the record is free again.
    fn create(&self, slot: u32, tuple: u32) -> Inserted {
        let free = self.state(slot);
        assert!(self.change(slot, free, free.successor(0)), "nobody else allocates it");
        self.records[slot as usize].tuple.store(tuple, Ordering::Release);
        let reference = self.reference(slot);
        let inserted = bucket::insert(self, 0, reference, |other| self.relation(other, tuple));
        if inserted != Inserted::NEW {
            let state = self.state(slot);
            assert!(self.change(slot, state, state.dying()), "nobody else knows of it");
            self.free(slot);
        }
        inserted
    }

    /// Deletes the flow as its owner.
    fn free(&self, slot: u32) {
        bucket::remove(self, self.reference(slot));
        let dying = self.state(slot);
        assert!(self.change(slot, dying, dying.free()), "the owner of a dying record is alone");
    }

    /// Deletes the flow, as the sweep does, unless it was refreshed since its state was read.
    fn end(&self, slot: u32, state: FlowState) -> bool {
        let is_ended = self.change(slot, state, state.dying());
        if is_ended {
            self.free(slot);
        }
        is_ended
    }

    /// The slot of a tuple's flow, as a packet finds it. Checks that all that was read is this flow's.
    fn find(&self, tuple: u32) -> Option<u32> {
        let confirmed =
            (0..N as u32).map(|at| self.load(at)).filter(|found| found.is_confirmed_for(HASH) == 1);
        let found = confirmed
            .into_iter()
            .find(|found| matches!(self.relation(*found, tuple), Relation::Same | Relation::Dying))?;
        let state = self.state(found.slot());
        if state.tag() != found.tag() || !state.is_alive() {
            return None;
        }
        let translation = self.records[found.slot() as usize].tuple.load(Ordering::Acquire);
        if self.state(found.slot()).tag() != state.tag() {
            return None;
        }
        assert_eq!(translation, tuple, "a packet was translated by another flow");
        Some(found.slot())
    }

    /// At rest: each live flow is found under its tuple and has one reference, and no tentative reference is left.
    fn check(&self) {
        let words: Vec<_> = (0..N as u32).map(|at| self.load(at)).collect();
        assert!(words.iter().all(|word| !word.is_tentative()), "{words:?}");
        for slot in 0..3 {
            let references = words.iter().filter(|word| **word == self.reference(slot)).count();
            if self.state(slot).is_alive() {
                assert_eq!(references, 1, "a live flow: {words:?}");
                let tuple = self.records[slot as usize].tuple.load(Ordering::Acquire);
                assert_eq!(self.find(tuple), Some(slot), "it has its tuple alone: {words:?}");
            }
        }
    }
}

/// Explores all interleavings, or, with a bound, those with so many preemptions.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(model);
}

#[test]
fn of_two_flows_with_one_tuple_one_exists() {
    explore(None, || {
        let table = Arc::new(Table::<2>::new());
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.create(1, T))
        };
        let results = [table.create(0, T), other.join().unwrap()];
        assert_eq!(results.iter().filter(|result| **result == Inserted::NEW).count(), 1, "{results:?}");
        table.check();
    });
}

#[test]
fn of_three_flows_with_one_tuple_one_exists() {
    explore(Some(3), || {
        let table = Arc::new(Table::<4>::new());
        let others = [1, 2].map(|slot| {
            let table = Arc::clone(&table);
            thread::spawn(move || table.create(slot, T))
        });
        let first = table.create(0, T);
        let [second, third] = others.map(|thread| thread.join().unwrap());
        let results = [first, second, third];
        assert_eq!(results.iter().filter(|result| **result == Inserted::NEW).count(), 1, "{results:?}");
        table.check();
    });
}

/// A flow ends, and its record and word are used for another tuple, while a flow with the same tuple is created and a packet of it
/// looks for one.
#[test]
fn reuse_is_never_taken_for_the_former_flow() {
    explore(Some(3), || {
        let table = Arc::new(Table::<2>::new());
        assert_eq!(table.create(0, T), Inserted::NEW);
        let state = table.state(0);
        let reuse = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                assert!(table.end(0, state));
                table.create(0, U)
            })
        };
        let packet = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.find(T))
        };
        let created = table.create(1, T);
        assert!(matches!(packet.join().unwrap(), None | Some(0 | 1)));
        assert_eq!(reuse.join().unwrap(), Inserted::NEW);
        assert!(
            created == Inserted::NEW || created == Inserted::DYING || created == Inserted(0),
            "{created:?}"
        );
        table.check();
    });
}

/// Stale references fill the bucket, two flows replace them, and a third is refused.
#[test]
fn stale_references_are_replaced_once() {
    explore(Some(3), || {
        let table = Arc::new(Table::<2>::new());
        assert_eq!(table.create(2, U), Inserted::NEW);
        let stale = table.reference(2);
        let state = table.state(2);
        assert!(table.end(2, state));
        (&*table).compare_exchange(0, FlowRef::NONE, stale);
        (&*table).compare_exchange(1, FlowRef::NONE, stale);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.create(1, U))
        };
        assert_eq!(table.create(0, T), Inserted::NEW);
        assert_eq!(other.join().unwrap(), Inserted::NEW);
        assert_eq!(table.create(2, 3), Inserted::FULL);
        table.check();
    });
}

#[test]
fn a_refreshed_flow_is_not_removed() {
    explore(None, || {
        let table = Arc::new(Table::<2>::new());
        assert_eq!(table.create(0, T), Inserted::NEW);
        let idle = table.state(0);
        let sweep = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.end(0, idle))
        };
        let is_refreshed = table.change(0, idle, idle.after(FlowDirection::Reply, 0, 1));
        assert_ne!(sweep.join().unwrap(), is_refreshed, "one of the two wins");
        assert_eq!(table.find(T), is_refreshed.then_some(0));
        table.check();
    });
}
