//! Names that many objects repeat, kept once: namespaces, nodes, zones, ports, and a Service in the names of its slices.

use std::{cell::RefCell, collections::HashSet};

use arcstr::ArcStr;

/// Unused names are looked for whenever this many more than last time are known.
const SWEEP: usize = 1024;

#[derive(Default)]
struct Names {
    known: HashSet<ArcStr>,
    /// How many names may be known before the unused ones are let go.
    limit: usize,
}

thread_local! {
    /// One table for each thread that reads objects: which copy of a name is used changes nothing but memory.
    static NAMES: RefCell<Names> = RefCell::default();
}

/// The one copy of a name.
pub fn intern(name: &str) -> ArcStr {
    NAMES.with_borrow_mut(|names| names.intern(name))
}

impl Names {
    fn intern(&mut self, name: &str) -> ArcStr {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| ArcStr::strong_count(known).is_some_and(|count| count > 1));
            self.limit = 2 * self.known.len() + SWEEP;
        }
        let new: ArcStr = name.into();
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_their_memory_and_unused_ones_go() {
        let mut names = Names::default();
        let kept = names.intern("kept");
        assert!(ArcStr::ptr_eq(&kept, &names.intern("kept")));
        for n in 0..10 * SWEEP {
            names.intern(&n.to_string());
        }
        assert!(names.known.len() <= 2 * SWEEP, "{} names", names.known.len());
        assert!(ArcStr::ptr_eq(&kept, &names.intern("kept")));
    }
}
