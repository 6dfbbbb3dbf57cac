//! String interning for names that many objects repeat: namespaces, nodes, zones, ports, the Service of slices.

use std::{cell::RefCell, collections::HashSet};

use arcstr::ArcStr;

/// Unused names are removed each time the table has grown by this many.
const SWEEP: usize = 1024;

#[derive(Default)]
struct Names {
    known: HashSet<ArcStr>,
    /// Table size at which unused names are removed.
    limit: usize,
}

thread_local! {
    /// One table per thread: a second copy of a name only costs memory.
    static NAMES: RefCell<Names> = RefCell::default();
}

/// Returns the shared copy of a name.
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
    fn equal_names_share_memory_and_unused_names_are_removed() {
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
