//! What decoding allocates, counted: announced lengths cost nothing, arrived elements what they are.
//!
//! Counted per thread, because tests run side by side.

use rpc::wire::body;
use rpc::{Blob, List, Wire};
use serde::de::DeserializeOwned;

use crate::counting::own_peak;
use crate::encoded;
use crate::samples::{Everything, Leaf, Random};

/// The most bytes that were live at once while `bytes` was decoded, and whether it was a `T`.
fn peak_of<T: Wire + DeserializeOwned>(bytes: &[u8]) -> (usize, bool) {
    let (peak, decoded) = own_peak(|| body::decode::<T>(bytes));
    (usize::try_from(peak).expect("the peak is not below the start"), decoded.is_ok())
}

/// What an error's text, or a list's first reservation, may cost.
const SMALL: usize = 4096 + 512;

#[track_caller]
fn check_lie<T: Wire + DeserializeOwned>(bytes: &[u8]) {
    let (peak, decoded) = peak_of::<T>(bytes);
    assert!(!decoded, "{bytes:?} was decoded");
    assert!(peak <= SMALL, "{} bytes made the decoder allocate {peak}", bytes.len());
}

/// A length in nine bytes, with a few bytes behind it.
fn announced(len: u64) -> Vec<u8> {
    [&[253][..], &len.to_le_bytes(), &[1, 1, 1]].concat()
}

#[test]
fn counter_sees_an_allocation() {
    let bytes = encoded(&Blob::from(vec![1; 100_000]));
    let (peak, decoded) = peak_of::<Blob>(&bytes);
    assert!(decoded && peak >= 100_000, "{peak}");
}

#[test]
fn lying_length_of_a_string_allocates_nothing() {
    for len in [4, 1 << 20, 1 << 26, 1 << 28, (8 << 26) - 64, 1 << 40, u64::MAX] {
        check_lie::<String>(&announced(len));
        check_lie::<Blob>(&announced(len));
        check_lie::<Option<String>>(&[&[1][..], &announced(len)].concat());
        check_lie::<(u8, Blob)>(&[&[1][..], &announced(len)].concat());
        check_lie::<List<String, 4>>(&[&[1][..], &announced(len)].concat());
        check_lie::<Result<u8, String>>(&[&[1][..], &announced(len)].concat());
        check_lie::<Box<String>>(&announced(len));
        // A newtype, a tuple and a struct variant of an enum.
        check_lie::<Option<Result<String, u8>>>(&[&[1, 0][..], &announced(len)].concat());
        check_lie::<Leaf>(&[&[2, 1][..], &announced(len)].concat());
        check_lie::<Leaf>(&[&[3, 0, 1][..], &announced(len)].concat());
    }
}

#[test]
fn lying_length_of_a_list_allocates_a_page_at_most() {
    for len in [4, 12, 13, 1 << 16, 1 << 20, 1 << 40, u64::MAX] {
        check_lie::<List<u64, { 1 << 20 }>>(&announced(len));
        check_lie::<List<Option<[u64; 8]>, { 1 << 20 }>>(&announced(len));
        check_lie::<List<String, { usize::MAX }>>(&announced(len));
    }
    // A whole mebibyte of body behind the length, of which the first element is already wrong.
    let mut bytes = announced(1 << 20);
    bytes.resize(1 << 20, 2);
    check_lie::<List<Option<[u64; 8]>, { usize::MAX }>>(&bytes);
}

#[test]
fn list_above_its_maximum_is_refused_before_it_is_read() {
    let bytes = encoded(&List::<u64, 100_000>::try_from(vec![1; 100_000]).expect("it fits"));
    check_lie::<List<u64, 99_999>>(&bytes);
    let (_, decoded) = peak_of::<List<u64, 100_000>>(&bytes);
    assert!(decoded);
}

#[test]
fn list_costs_no_more_than_three_times_what_arrived() {
    let (len, element) = (100_000, size_of::<Option<[u64; 8]>>());
    let mut bytes = announced(len);
    bytes.truncate(9);
    bytes.resize(9 + len as usize, 0);
    let (peak, decoded) = peak_of::<List<Option<[u64; 8]>, 100_000>>(&bytes);
    assert!(decoded);
    // While it grows, the old block and one of twice its size are live at once.
    assert!(peak <= 3 * len as usize * element, "{peak}");
    // The same bytes with the end missing: what had arrived, and nothing for what had not.
    let (peak, decoded) = peak_of::<List<Option<[u64; 8]>, 200_000>>(&[&announced(200_000)[..9], &[0; 1000]].concat());
    assert!(!decoded && peak <= SMALL, "{peak}");
}

#[test]
fn damaged_bytes_allocate_in_proportion_to_the_body() {
    let mut random = Random(3);
    let element = size_of::<Everything>().max(size_of::<Leaf>());
    for _ in 0..200 {
        let mut bytes = encoded(&random.everything());
        let damage = random.below(4) + 1;
        for _ in 0..damage {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        let (peak, _) = peak_of::<Everything>(&bytes);
        assert!(peak <= SMALL + 3 * element * 8 + 2 * bytes.len(), "{} bytes: {peak}", bytes.len());
    }
}
