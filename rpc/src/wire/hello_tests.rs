//! Golden bytes of the handshake, its round trip, and what becomes of foreign, cut, longer and flipped ones.

use super::*;
use crate::wire::header::{COMMON_BYTES, parse};

const fn method(id: u16, version: u16, fingerprint: u64) -> MethodInfo {
    MethodInfo { id, version, name: "m", fingerprint, ack_bytes_max: 4096, stream: false }
}

const SERVICE: ServiceInfo = ServiceInfo {
    name: "calc",
    version: 3,
    methods: &[method(1, 1, 0x0807_0605_0403_0201), method(0x0102, 2, u64::MAX)],
};

const HELLO: &str = "01 00 0000 00000000 0000000000000000
    8a 72 70 63 31 0d 0a 00  0100 0100  0300 0000
    000102030405060708090a0b0c0d0e0f  0807060504030201  0500000000000000
    09000000  00001000  00040000  0400 0200  63616c63
    0100 0100 0102030405060708  0201 0200 ffffffffffffffff";

const WELCOME: &str = "02 00 0000 00000000 0000000000000000
    0100 0000  000102030405060708090a0b0c0d0e0f  0807060504030201  0300000000000000  00001000  00040000";

fn peer() -> PeerId {
    PeerId(std::array::from_fn(|at| at as u8))
}

fn hello() -> Hello<'static> {
    Hello::new(peer(), Incarnation(0x0102_0304_0506_0708), 9, 5, 1 << 20, 1024, SERVICE.name, SERVICE.version)
}

fn welcome() -> Welcome {
    Welcome {
        wire: 1,
        born: 3,
        peer: peer(),
        incarnation: Incarnation(0x0102_0304_0506_0708),
        frame_bytes_max: 1 << 20,
        window: 1024,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hello_bytes() -> Vec<u8> {
    let mut out = BytesMut::new();
    hello().put(&mut out, &SERVICE, Extras::default());
    out.to_vec()
}

fn welcome_bytes() -> Vec<u8> {
    let mut out = BytesMut::new();
    welcome().put(&mut out);
    out.to_vec()
}

#[test]
fn hello_and_welcome_have_their_golden_bytes() {
    assert_eq!(hello_bytes(), unhex(HELLO));
    assert_eq!(welcome_bytes(), unhex(WELCOME));
}

#[test]
fn hello_is_read_as_it_was_written() {
    let bytes = hello_bytes();
    let frame = parse(&bytes).unwrap().unwrap();
    assert_eq!(frame.kind, Kind::Hello);
    let read = Hello::parse(frame.body).unwrap();
    let claims: Vec<MethodClaim> = read.methods().collect();
    let known = |info: &MethodInfo| MethodClaim { id: info.id, version: info.version, fingerprint: info.fingerprint };
    assert_eq!(claims, SERVICE.methods.iter().map(known).collect::<Vec<_>>());
    assert_eq!(Hello { methods: &[], ..read }, hello());
}

#[test]
fn welcome_is_read_as_it_was_written() {
    let bytes = welcome_bytes();
    let frame = parse(&bytes).unwrap().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    assert_eq!(Welcome::parse(frame.body), Ok(welcome()));
}

#[test]
fn hello_without_methods_and_with_the_longest_name_is_read() {
    let name = "n".repeat(255);
    let hello = Hello::new(peer(), Incarnation(1), 0, 1, 0, 0, &name, 0);
    let mut out = BytesMut::new();
    hello.put(&mut out, &ServiceInfo { name: "", version: 0, methods: &[] }, Extras::default());
    assert_eq!(Hello::parse(&out[COMMON_BYTES..]), Ok(hello));
}

#[test]
fn magic_tells_other_protocols_apart() {
    assert_eq!(MAGIC, [0x8a, b'r', b'p', b'c', b'1', b'\r', b'\n', 0]);
    let body = unhex(HELLO)[COMMON_BYTES..].to_vec();
    #[track_caller]
    fn check(body: &[u8]) {
        assert_eq!(Hello::parse(body), Err(HelloError::Magic), "{body:x?}");
    }
    for foreign in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"{\"jsonrpc\":\"2.0\"}",
        b"l\x01\x00\x01\x00\x00\x00\x00",
        &[0; 64],
        &[0xff; 64],
    ] {
        check(foreign);
    }
    // What a text channel makes of it.
    let translated = |from: &[u8], to: &[u8]| {
        let at = body.windows(from.len()).position(|window| window == from).unwrap();
        [&body[..at], to, &body[at + from.len()..]].concat()
    };
    check(&translated(b"\r\n", b"\n"));
    check(&translated(b"\n", b"\r\n"));
    check(&translated(b"\x8a", b"\x0a"));
    check(&translated(b"\x8a", "\u{8a}".as_bytes()));
    check(&translated(b"rpc1", b"rpc2"));
}

#[test]
fn handshake_cut_at_every_byte_is_a_typed_error() {
    let body = &hello_bytes()[COMMON_BYTES..];
    for end in 0..body.len() {
        let expected = if end < MAGIC.len() { HelloError::Magic } else { HelloError::Malformed };
        assert_eq!(Hello::parse(&body[..end]), Err(expected), "cut at {end}");
    }
    let body = &welcome_bytes()[COMMON_BYTES..];
    for end in 0..body.len() {
        assert_eq!(Welcome::parse(&body[..end]), Err(HelloError::Malformed), "cut at {end}");
    }
}

#[test]
fn handshake_with_more_bytes_is_that_of_a_later_version_and_read() {
    let longer = [&hello_bytes()[COMMON_BYTES..], &unhex("ffff 0400 01020304")[..]].concat();
    let read = Hello::parse(&longer).unwrap();
    assert_eq!((read.serves(), read.secret()), (None, None));
    assert_eq!(Hello { methods: &[], tlvs: Tlvs::default(), ..read }, hello());
    let longer = [&welcome_bytes()[COMMON_BYTES..], b"more"].concat();
    assert_eq!(Welcome::parse(&longer), Ok(welcome()));
}

#[test]
fn hello_with_any_bit_flipped_is_another_hello_or_a_typed_error() {
    let body = hello_bytes()[COMMON_BYTES..].to_vec();
    let whole = Hello::parse(&body).unwrap();
    let reserved = MAGIC.len() + 6..MAGIC.len() + 8;
    for bit in 0..body.len() * 8 {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match Hello::parse(&flipped) {
            Err(HelloError::Magic) => assert!(bit / 8 < MAGIC.len(), "bit {bit}"),
            Err(HelloError::Malformed) => assert!(bit / 8 >= MAGIC.len(), "bit {bit}"),
            Ok(read) => {
                assert!(bit / 8 >= MAGIC.len(), "bit {bit} of the magic was not looked at");
                assert_eq!(read == whole, reserved.contains(&(bit / 8)), "bit {bit}");
                assert!(read.methods().count() <= body.len() / METHOD_BYTES);
            }
        }
    }
}

#[test]
fn welcome_with_any_bit_flipped_is_another_welcome() {
    let body = welcome_bytes()[COMMON_BYTES..].to_vec();
    for bit in 0..body.len() * 8 {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let reserved = (2..4).contains(&(bit / 8));
        assert_eq!(Welcome::parse(&flipped) == Ok(welcome()), reserved, "bit {bit}");
    }
}

const EXTRAS: Extras<'static> = Extras { secret: Some(b"key"), serves: Some(&SERVICE) };

fn hello_bytes_with_extras() -> Vec<u8> {
    let mut out = BytesMut::new();
    hello().put(&mut out, &SERVICE, EXTRAS);
    out.to_vec()
}

#[test]
fn extras_of_a_hello_have_their_golden_bytes_and_are_read_as_written() {
    let bytes = hello_bytes_with_extras();
    let golden = "0100 0300 6b6579
        0200 2200  0300 0400 0200  63616c63  0100 0100 0102030405060708  0201 0200 ffffffffffffffff";
    assert_eq!(bytes[hello_bytes().len()..], unhex(golden));
    let read = Hello::parse(&bytes[COMMON_BYTES..]).unwrap();
    assert_eq!(read.secret(), EXTRAS.secret);
    let serves = read.serves().unwrap();
    assert_eq!((serves.name, serves.version), (SERVICE.name, SERVICE.version));
    assert!(serves.methods().eq(read.methods()));
}

#[test]
fn extras_cut_at_every_byte_are_malformed_or_fewer() {
    let body = &hello_bytes_with_extras()[COMMON_BYTES..];
    let plain = hello_bytes().len() - COMMON_BYTES;
    let whole = [plain, plain + 7, body.len()];
    for end in plain..=body.len() {
        let read = Hello::parse(&body[..end]);
        assert_eq!(read.is_ok(), whole.contains(&end), "cut at {end}");
    }
}

#[test]
fn offered_service_that_lies_about_its_lengths_is_malformed() {
    let body = hello_bytes_with_extras()[COMMON_BYTES..].to_vec();
    let at = body.len() - 34;
    for (offset, number) in [(2, 5), (2, u16::MAX), (4, 3), (4, u16::MAX)] {
        let mut lying = body.clone();
        lying[at + offset..at + offset + 2].copy_from_slice(&u16::to_le_bytes(number));
        assert_eq!(Hello::parse(&lying), Err(HelloError::Malformed), "{offset} {number}");
    }
}

#[test]
fn name_that_is_no_text_is_malformed() {
    let mut body = hello_bytes()[COMMON_BYTES..].to_vec();
    let at = body.windows(4).position(|window| window == b"calc").unwrap();
    body[at] = 0xff;
    assert_eq!(Hello::parse(&body), Err(HelloError::Malformed));
}

#[test]
fn announced_methods_beyond_the_frame_are_malformed_whatever_their_number() {
    let body = hello_bytes()[COMMON_BYTES..].to_vec();
    let at = body.windows(4).position(|window| window == b"calc").unwrap() - 2;
    for count in [3, 100, u16::MAX] {
        let mut longer = body.clone();
        longer[at..at + 2].copy_from_slice(&count.to_le_bytes());
        assert_eq!(Hello::parse(&longer), Err(HelloError::Malformed), "{count}");
    }
}
