//! A sorted set that has one element in nearly all cases, and takes no more memory than that one then.

use std::{mem, slice};

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three: the rare variant does not enlarge the common one"
)]
pub enum SmallSet<T> {
    One(T),
    /// At least two, in order.
    More(Box<Vec<T>>),
}

impl<T: Ord> SmallSet<T> {
    pub fn new(only: T) -> Self {
        Self::One(only)
    }

    pub fn first(&self) -> &T {
        match self {
            Self::One(only) => only,
            Self::More(all) => all.first().expect("there are at least two"),
        }
    }

    pub fn iter(&self) -> slice::Iter<'_, T> {
        match self {
            Self::One(only) => slice::from_ref(only).iter(),
            Self::More(all) => all.iter(),
        }
    }

    /// Adds an element, unless the set contains it.
    pub fn insert(&mut self, new: T) {
        let nothing = Self::More(Box::default());
        let mut all = mem::replace(self, nothing).into_vec();
        if let Err(position) = all.binary_search(&new) {
            all.insert(position, new);
        }
        *self = Self::from_vec(all).expect("an element was added");
    }

    /// The set without some elements. Returns `None` if none is left.
    pub fn without(self, is_unwanted: impl Fn(&T) -> bool) -> Option<Self> {
        let mut all = self.into_vec();
        all.retain(|element| !is_unwanted(element));
        Self::from_vec(all)
    }

    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(only) => vec![only],
            Self::More(all) => *all,
        }
    }

    fn from_vec(mut all: Vec<T>) -> Option<Self> {
        match all.len() {
            0 | 1 => all.pop().map(Self::One),
            _ => Some(Self::More(Box::new(all))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_element_comes_first_whatever_the_order() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 2]] {
            let mut set = SmallSet::new(order[0]);
            order.iter().for_each(|number| set.insert(*number));
            assert_eq!(*set.first(), 1, "{order:?}");
            let left = set.without(|number| *number == 1).unwrap();
            assert_eq!(*left.first(), 2, "{order:?}");
            assert_eq!(left.without(|_| true), None);
        }
    }
}
