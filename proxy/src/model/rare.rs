//! A list that nearly always is empty, and then costs a word where others cost two or three.

use std::ops::Deref;

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three, so that the rare case costs the other nothing"
)]
pub struct Rare<T>(Option<Box<Vec<T>>>);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<Vec<T>> for Rare<T> {
    fn from(list: Vec<T>) -> Self {
        Self((!list.is_empty()).then(|| Box::new(list)))
    }
}

impl<T> Deref for Rare<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |list| list)
    }
}

#[cfg(test)]
mod tests {
    use super::Rare;

    #[test]
    fn empty_lists_are_equal_and_one_word_long() {
        assert_eq!(Rare::<u64>::from(Vec::new()), Rare::default());
        assert_eq!(size_of::<Rare<u64>>(), size_of::<usize>());
        assert_eq!(*Rare::from(vec![1, 2]), [1, 2]);
    }
}
