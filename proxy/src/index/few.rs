//! A sorted set that nearly always has one element, and then costs no more than that.

use std::{mem, slice};

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three, so that the rare case costs the other nothing"
)]
pub enum Few<T> {
    One(T),
    /// At least two, in order.
    More(Box<Vec<T>>),
}

impl<T: Ord> Few<T> {
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

    /// Adds an element, unless it is there.
    pub fn insert(&mut self, new: T) {
        let nothing = Self::More(Box::default());
        let mut all = mem::replace(self, nothing).into_vec();
        if let Err(place) = all.binary_search(&new) {
            all.insert(place, new);
        }
        *self = Self::from_vec(all).expect("an element was added to it");
    }

    /// What is left of it.
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
            let mut few = Few::new(order[0]);
            order.iter().for_each(|number| few.insert(*number));
            assert_eq!(*few.first(), 1, "{order:?}");
            let left = few.without(|number| *number == 1).unwrap();
            assert_eq!(*left.first(), 2, "{order:?}");
            assert_eq!(left.without(|_| true), None);
        }
    }
}
