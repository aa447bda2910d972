//! What this process allocates, and this thread: an allocator that counts, for the test binary that has this module.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]
#![allow(dead_code, reason = "each binary asks for what it measures")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static OWN: Cell<isize> = const { Cell::new(0) };
    static OWN_PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
    // A thread that is ending has no counter any more; nothing is measured there.
    let _ = OWN.try_with(|own| {
        own.set(own.get() + bytes);
        let _ = OWN_PEAK.try_with(|peak| peak.set(peak.get().max(own.get())));
    });
}

// SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those of this method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    // `realloc` and `alloc_zeroed` come by default from these two: old and new block count at once.
}

/// Allocations of the process so far; to grow a block is one, too.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Bytes that live in the process now.
pub(crate) fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

/// The most that lived at once since this was last asked.
pub(crate) fn take_peak() -> isize {
    PEAK.swap(live(), Ordering::Relaxed)
}

/// Bytes that this thread has allocated and not freed.
pub(crate) fn own() -> isize {
    OWN.get()
}

/// The most that this thread has allocated at once during `work`, beyond what it had before.
pub(crate) fn own_peak<T>(work: impl FnOnce() -> T) -> (isize, T) {
    let before = OWN.get();
    OWN_PEAK.set(before);
    let result = work();
    (OWN_PEAK.get() - before, result)
}
