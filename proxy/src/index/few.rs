//! A sorted set that nearly always has one element, and then costs no more than that.

use std::iter::once;

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "one word instead of three, for what is nearly always absent")]
pub struct Few<T> {
    first: T,
    /// The rest, in order; nearly always empty.
    rest: Option<Box<Vec<T>>>,
}

impl<T: Ord> Few<T> {
    pub fn new(first: T) -> Self {
        Self { first, rest: None }
    }

    pub fn first(&self) -> &T {
        &self.first
    }

    pub fn insert(&mut self, new: T) {
        if self.iter().any(|known| *known == new) {
            return;
        }
        let later = if new < self.first { std::mem::replace(&mut self.first, new) } else { new };
        let rest = self.rest.get_or_insert_default();
        let place = rest.partition_point(|known| *known < later);
        rest.insert(place, later);
    }

    /// What is left of it.
    pub fn without(self, is_unwanted: impl Fn(&T) -> bool) -> Option<Self> {
        let all = once(self.first).chain(self.rest.map(|rest| *rest).unwrap_or_default());
        let mut kept = all.filter(|element| !is_unwanted(element));
        let first = kept.next()?;
        let rest: Vec<T> = kept.collect();
        Some(Self { first, rest: (!rest.is_empty()).then(|| Box::new(rest)) })
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        once(&self.first).chain(self.rest.iter().flat_map(|rest| rest.iter()))
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
