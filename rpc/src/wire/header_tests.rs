//! Golden bytes of every kind, and what becomes of frames that are cut, longer, or flipped in one bit.

use super::*;

/// One frame of each kind as the writers of this crate make it, and its bytes. A change here is a change of the wire.
#[rustfmt::skip]
const GOLDEN: &[(Kind, &str)] = &[
    (Kind::Hello, "01 00 0000 00000000 0000000000000000"),
    (Kind::Welcome, "02 00 0000 00000000 0000000000000000"),
    (Kind::Request, "03 00 0c00 e8030000 0201000000000000 0101000000000000 0700 0200 00000000 0100 0800 05000000 00040000"),
    (Kind::Ack, "04 00 0000 04030201 0807060504030201"),
    (Kind::Nack, "05 00 0000 04030201 0807060504030201"),
    (Kind::Failed, "06 00 0000 04030201 0807060504030201"),
    (Kind::Cancel, "07 00 0000 04030201 0807060504030201"),
    (Kind::Resolve, "08 00 0000 04030201 0807060504030201"),
    (Kind::Resolution, "09 00 0000 04030201 0807060504030201"),
    (Kind::Received, "0a 00 0000 04030201 0807060504030201"),
    (Kind::Item, "0b 00 0000 04030201 0807060504030201"),
    (Kind::End, "0c 00 0000 04030201 0807060504030201"),
    (Kind::Credit, "0d 00 0000 04030201 0807060504030201"),
    (Kind::Ping, "0e 00 0000 00000000 0807060504030201 0900000000000000"),
    (Kind::Pong, "0f 00 0000 04030201 0807060504030201"),
    (Kind::Drain, "10 00 0000 04030201 0807060504030201"),
    (Kind::Goodbye, "11 00 0000 04030201 0807060504030201"),
    (Kind::Void, "12 01 0c00 e8030000 0201000000000000 0101000000000000 0700 0200 00000000 0100 0800 05000000 00040000"),
    (Kind::Park, "13 00 0000 04030201 0807060504030201"),
    (Kind::Resync, "14 00 0000 04030201 0807060504030201"),
];

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn request() -> RequestHeader {
    RequestHeader {
        flags: 0,
        id: 0x102,
        floor: 0x101,
        method: 7,
        version: 2,
        remaining_ms: 1000,
        credit: Some((5, 1024)),
    }
}

/// The frame of `kind` that this crate writes, without a body.
fn written(kind: Kind) -> Vec<u8> {
    let mut out = BytesMut::new();
    match kind {
        Kind::Hello | Kind::Welcome => put_common(&mut out, kind, 0, 0, 0),
        Kind::Request => put_request(&mut out, &request()),
        Kind::Void => {
            // As a client takes a request back: in place.
            put_request(&mut out, &request());
            out[KIND_AT] = Kind::Void.number();
            out[FLAGS_AT] = IGNORABLE;
        }
        Kind::Ping => put_ping(&mut out, 0x0102_0304_0506_0708, 9),
        _ => put_common(&mut out, kind, 0, 0x0102_0304, 0x0102_0304_0506_0708),
    }
    out.to_vec()
}

#[test]
fn frames_of_every_kind_have_their_golden_bytes() {
    assert_eq!(GOLDEN.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), Kind::ALL);
    for (kind, golden) in GOLDEN {
        assert_eq!(written(*kind), unhex(golden), "{kind:?}");
    }
}

#[test]
fn frames_of_every_kind_are_read_as_they_were_written() {
    for (kind, golden) in GOLDEN {
        let mut bytes = unhex(golden);
        bytes.extend_from_slice(b"body");
        let frame = parse(&bytes).unwrap().unwrap();
        assert_eq!((frame.kind, frame.body), (*kind, &b"body"[..]));
        match kind {
            Kind::Request | Kind::Void => {
                assert_eq!((frame.id, frame.floor, frame.aux), (0x102, 0x101, 1000));
                assert_eq!((frame.method, frame.version, frame.tlvs.credit()), (7, 2, Some((5, 1024))));
            }
            Kind::Ping => assert_eq!((frame.id, frame.floor), (0x0102_0304_0506_0708, 9)),
            Kind::Hello | Kind::Welcome => assert_eq!((frame.id, frame.aux), (0, 0)),
            _ => assert_eq!((frame.id, frame.aux, frame.floor), (0x0102_0304_0506_0708, 0x0102_0304, 0)),
        }
    }
}

#[test]
fn numbers_of_kinds_are_stable() {
    let kinds = [
        "Hello",
        "Welcome",
        "Request",
        "Ack",
        "Nack",
        "Failed",
        "Cancel",
        "Resolve",
        "Resolution",
        "Received",
        "Item",
        "End",
        "Credit",
        "Ping",
        "Pong",
        "Drain",
        "Goodbye",
        "Void",
        "Park",
        "Resync",
    ];
    for number in 0..=u8::MAX {
        let name = number.checked_sub(1).and_then(|at| kinds.get(usize::from(at)).copied());
        let kind = Kind::from_number(number);
        assert_eq!(kind.map(|kind| format!("{kind:?}")).as_deref(), name, "{number}");
        assert_eq!(kind.map_or(number, Kind::number), number);
    }
}

#[test]
fn numbers_of_codes_are_stable() {
    #[track_caller]
    fn check<C: std::fmt::Debug>(from: impl Fn(u32) -> C, number: impl Fn(C) -> u32, names: &[&str]) {
        for code in 0..=40_u32 {
            let name = code.checked_sub(1).and_then(|at| names.get(at as usize).copied());
            let expected = name.map_or(format!("Other({code})"), str::to_owned);
            assert_eq!(format!("{:?}", from(code)), expected);
            assert_eq!(number(from(code)), code);
        }
    }
    let nack = [
        "Rejected",
        "UnknownMethod",
        "SchemaMismatch",
        "BadBody",
        "Unauthorized",
        "Overloaded",
        "WindowFull",
        "Draining",
        "Expired",
        "Burnt",
        "Unavailable",
    ];
    check(NackCode::from_number, NackCode::number, &nack);
    let failed = ["Panicked", "Dropped", "Aborted", "Deadline", "AnswerTooLarge"];
    check(FailedCode::from_number, FailedCode::number, &failed);
    let resolution = ["Applied", "Nacked", "Failed", "Running", "NeverSeen", "Forgotten"];
    check(ResolutionCode::from_number, ResolutionCode::number, &resolution);
    let goodbye = [
        "Done",
        "NotThisProtocol",
        "WireVersion",
        "Service",
        "StaleEpoch",
        "Unauthorized",
        "TooMany",
        "Draining",
        "HandshakeTimeout",
        "FrameTooLarge",
        "Violation",
        "Stalled",
    ];
    check(GoodbyeCode::from_number, GoodbyeCode::number, &goodbye);
    check(EndCode::from_number, EndCode::number, &["Finished", "Aborted", "TooSlow"]);
}

#[test]
fn gap_has_its_golden_bytes_and_is_not_read_from_fewer() {
    let gap = Gap { lossless: 2, lossy: 3 };
    let bytes = unhex("0100000000000000 0200000000000000 0300000000000000");
    assert_eq!(gap.to_bytes(1)[..], bytes);
    assert_eq!(Gap::parse(&bytes), Some((1, gap)));
    for end in 0..bytes.len() {
        assert_eq!(Gap::parse(&bytes[..end]), None);
    }
}

#[test]
fn header_cut_at_every_byte_is_short() {
    for (kind, golden) in GOLDEN {
        let whole = unhex(golden);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Err(HeaderError::Short { bytes: end }), "{kind:?} cut at {end}");
        }
    }
}

#[test]
fn frame_with_more_bytes_has_a_longer_body_and_the_same_header() {
    for (kind, golden) in GOLDEN {
        let whole = unhex(golden);
        let plain = parse(&whole).unwrap().unwrap();
        for more in 1..40 {
            let longer = [&whole[..], &vec![0xa5; more]].concat();
            let frame = parse(&longer).unwrap().unwrap();
            assert_eq!(frame.body, vec![0xa5; more], "{kind:?}");
            assert_eq!(Frame { body: &[], ..frame }, plain);
        }
    }
}

#[test]
fn header_with_any_bit_flipped_is_another_frame_a_skip_or_a_typed_error() {
    for (kind, golden) in GOLDEN {
        let whole = unhex(golden);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&flipped);
            let known = Kind::from_number(flipped[KIND_AT]);
            let flags = flipped[FLAGS_AT];
            match parsed {
                Ok(None) => assert!(known.is_none() && flags & IGNORABLE != 0, "{kind:?} bit {bit}"),
                Ok(Some(frame)) => {
                    assert_eq!(Some(frame.kind), known);
                    let reserved = matches!(kind, Kind::Request | Kind::Void) && (28..32).contains(&(bit / 8));
                    assert_eq!(Some(frame) == parse(&whole).unwrap(), reserved, "{kind:?} bit {bit}");
                }
                Err(HeaderError::UnknownKind(number)) => assert_eq!((known, number), (None, flipped[KIND_AT])),
                // TLVs longer than the frame, or not what their size says; or a kind with a longer header.
                Err(HeaderError::Short { bytes }) => assert_eq!(bytes, whole.len()),
                Err(HeaderError::Tlv) => assert!((2..4).contains(&(bit / 8)) || bit / 8 >= REQUEST_BYTES || bit < 8),
            }
        }
    }
}

#[test]
fn any_bytes_are_parsed_without_a_panic_and_within_themselves() {
    let mut state = 1_u64;
    for _ in 0..200_000 {
        let mut bytes = Vec::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
        }
        // Mostly plausible, or nothing would get past the first bytes.
        bytes[0] %= 24;
        bytes[1] &= 1;
        bytes[3] = 0;
        bytes.truncate((state >> 40) as usize % 49);
        if let Ok(Some(frame)) = parse(&bytes) {
            assert!(frame.body.len() + COMMON_BYTES <= bytes.len());
            assert!(frame.tlvs.into_iter().all(|field| field.is_ok()));
        }
    }
}

#[test]
fn unknown_kind_is_skipped_only_if_it_says_so() {
    let frame = |kind, flags| [&[kind, flags][..], &[0; 20]].concat();
    assert_eq!(parse(&frame(200, IGNORABLE)), Ok(None));
    assert_eq!(parse(&[200, IGNORABLE]), Ok(None));
    assert_eq!(parse(&frame(200, 0)), Err(HeaderError::UnknownKind(200)));
    let bytes = frame(4, REVERSE);
    let reverse = parse(&bytes).unwrap().unwrap();
    assert_eq!((reverse.kind, reverse.flags), (Kind::Ack, REVERSE));
    assert!(is_reverse(&frame(4, REVERSE)) && !is_reverse(&frame(4, IGNORABLE)) && !is_reverse(&[4]));
    assert_eq!(parse(&frame(4, 0b1000_0000)).unwrap().unwrap().kind, Kind::Ack, "later flags are no error");
}

/// An Ack with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_common_with(&mut out, Kind::Ack, 0, u16::try_from(tlvs.len()).unwrap(), 0, 1);
    out.put_slice(tlvs);
    out.put_slice(b"body");
    out.to_vec()
}

#[test]
fn unknown_tlvs_are_skipped_and_the_first_of_a_type_counts() {
    let tlvs = [
        &[0xff, 0x7f, 3, 0, 1, 2, 3][..],
        &[1, 0, 8, 0, 5, 0, 0, 0, 6, 0, 0, 0],
        &[2, 0, 0, 0],
        &[1, 0, 8, 0, 9, 0, 0, 0, 9, 0, 0, 0],
    ]
    .concat();
    let bytes = with_tlvs(&tlvs);
    let frame = parse(&bytes).unwrap().unwrap();
    assert_eq!(frame.tlvs.credit(), Some((5, 6)));
    assert_eq!(frame.tlvs.find(TLV_TRACEPARENT), Some(&[][..]));
    assert_eq!(frame.tlvs.find(0x7fff), Some(&[1, 2, 3][..]));
    assert_eq!(frame.tlvs.find(3), None);
    assert_eq!(frame.body, b"body");
}

#[test]
fn tlvs_that_end_within_one_are_an_error() {
    for broken in [&[1][..], &[1, 0], &[1, 0, 8], &[1, 0, 8, 0, 5], &[2, 0, 0, 0, 1], &[2, 0, 0xff, 0xff, 1]] {
        assert_eq!(parse(&with_tlvs(broken)), Err(HeaderError::Tlv), "{broken:?}");
    }
    let mut beyond = with_tlvs(&[]);
    beyond[2] = 5;
    assert_eq!(parse(&beyond), Err(HeaderError::Short { bytes: 20 }));
}

#[test]
fn credit_that_is_too_short_is_no_credit() {
    let bytes = with_tlvs(&[1, 0, 4, 0, 5, 0, 0, 0]);
    assert_eq!(parse(&bytes).unwrap().unwrap().tlvs.credit(), None);
}

#[test]
fn ids_of_a_park_are_whole_or_nothing() {
    let ids = |body: &[u8]| parse_ids(body).map(Iterator::collect::<Vec<_>>);
    assert_eq!(ids(&[]), Some(vec![]));
    assert_eq!(ids(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), Some(vec![1, 256]));
    for length in (1..24).filter(|length| length % 8 != 0) {
        assert_eq!(ids(&vec![0; length]), None, "{length}");
    }
}

#[test]
fn number_at_the_front_of_a_body_needs_four_bytes() {
    assert_eq!(split_u32(&[1, 2, 0]), None);
    assert_eq!(split_u32(&[1, 2, 0, 0]), Some((513, &[][..])));
    assert_eq!(split_u32(&[1, 2, 0, 0, 9]), Some((513, &[9][..])));
}
