//! Paging: every list is returned in pages, so that no reply outgrows a message.
//!
//! A request carries `after`, the key of the last item already seen, and `limit`; a reply carries the items and
//! `next`, the `after` of the following page, absent on the last one.

/// The most items a page holds, whatever the request's `limit` says.
pub const MAX_PAGE: u32 = 100;

/// The number of items to return for a requested `limit`: between 1 and [`MAX_PAGE`].
pub fn page_size(limit: u32) -> usize {
    limit.clamp(1, MAX_PAGE) as usize
}

/// Cuts a page out of `items`, which start after the request's `after`; returns the page and the key of its last
/// item if more items follow.
pub fn page<T, K>(items: impl Iterator<Item = T>, limit: u32, key: impl Fn(&T) -> K) -> (Vec<T>, Option<K>) {
    let size = page_size(limit);
    let mut page: Vec<T> = items.take(size + 1).collect();
    let more = page.len() > size;
    page.truncate(size);
    let next = if more { page.last().map(key) } else { None };
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_concatenate_to_the_list(len in 0u32..450, limit in 0u32..200) {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let rest = (0..len).filter(|i| after.is_none_or(|a| *i > a));
                let (items, next) = page(rest, limit, |i| *i);
                prop_assert!(items.len() <= MAX_PAGE as usize);
                seen.extend(items);
                if next.is_none() { break }
                after = next;
            }
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }
    }
}
