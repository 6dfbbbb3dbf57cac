//! A list that is empty in nearly all objects, and takes one word then instead of two or three.

use std::ops::Deref;

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three: an empty list, the common case, takes no more than that"
)]
pub struct SmallList<T>(Option<Box<Vec<T>>>);

impl<T> Default for SmallList<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<Vec<T>> for SmallList<T> {
    fn from(list: Vec<T>) -> Self {
        Self((!list.is_empty()).then(|| Box::new(list)))
    }
}

impl<T> Deref for SmallList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |list| list)
    }
}

#[cfg(test)]
mod tests {
    use super::SmallList;

    #[test]
    fn empty_lists_are_equal_and_one_word_long() {
        assert_eq!(SmallList::<u64>::from(Vec::new()), SmallList::default());
        assert_eq!(size_of::<SmallList<u64>>(), size_of::<usize>());
        assert_eq!(*SmallList::from(vec![1, 2]), [1, 2]);
    }
}
