//! The bytes that are being taken apart on this thread, so that a large piece of them can be kept without a copy.
//!
//! Never keeps more than twice what was asked for: a small piece of a large buffer is copied. Never makes a piece longer
//! than it was.
//!
//! Set by whoever holds the bytes counted (`io::inbound`, a kept answer); asked by `Payload` and by `Blob`.

use std::cell::RefCell;

use bytes::Bytes;

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

struct Current {
    bytes: Bytes,
    /// What keeping any piece of them costs.
    held_bytes: usize,
}

/// Runs `work`, during which pieces of `bytes` may be kept. `held_bytes` is the size of the allocation behind them.
pub(crate) fn within<T>(bytes: &Bytes, held_bytes: usize, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Current>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.replace(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(Some(Current { bytes: bytes.clone(), held_bytes })));
    work()
}

/// `piece`, kept: shared if it is most of the current bytes, else copied.
pub(crate) fn keep(piece: &[u8]) -> Bytes {
    let shared = CURRENT.with_borrow(|current| {
        let Current { bytes, held_bytes } = current.as_ref()?;
        let (all, part) = (bytes.as_ptr_range(), piece.as_ptr_range());
        let inside = all.start <= part.start && part.end <= all.end;
        (inside && !piece.is_empty() && piece.len() >= held_bytes / 2).then(|| bytes.slice_ref(piece))
    });
    shared.unwrap_or_else(|| Bytes::copy_from_slice(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_is_shared_if_it_is_most_of_the_current_bytes_and_copied_if_not() {
        let bytes = Bytes::from(vec![7; 1000]);
        let other = vec![7; 1000];
        within(&bytes, 1000, || {
            assert_eq!(keep(&bytes[100..900]).as_ptr(), bytes[100..].as_ptr());
            assert_ne!(keep(&bytes[100..500]).as_ptr(), bytes[100..].as_ptr());
            assert_ne!(keep(&other).as_ptr(), other.as_ptr());
        });
        within(&bytes, 4000, || assert_ne!(keep(&bytes).as_ptr(), bytes.as_ptr()));
        assert_ne!(keep(&bytes).as_ptr(), bytes.as_ptr(), "outside");
    }

    #[test]
    fn bytes_within_others_come_back_when_the_inner_ones_are_done() {
        let (outer, inner) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; 100]));
        within(&outer, 100, || {
            within(&inner, 100, || assert_eq!(keep(&inner).as_ptr(), inner.as_ptr()));
            assert_eq!(keep(&outer).as_ptr(), outer.as_ptr());
        });
    }
}
