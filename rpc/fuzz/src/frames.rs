//! Frames as a peer may send them: well-formed in most cases, in any order, with any numbers; sometimes only bytes.
//!
//! Laid by hand after PROTOCOL, sections 2 and 3, so that a mistake of the writer under test is none of these frames.

use super::choices::Choices;

pub const REQUEST: u8 = 3;
pub const PING: u8 = 14;
pub const VOID: u8 = 18;
pub const PARK: u8 = 19;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const CANCEL: u8 = 7;
const RESOLVE: u8 = 8;
const CREDIT: u8 = 13;
const PONG: u8 = 15;
const GOODBYE: u8 = 17;

/// One frame without its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub kind: u8,
    pub flags: u8,
    pub aux: u32,
    pub id: u64,
    pub floor: u64,
    pub method: u16,
    pub credit: Option<(u32, u32)>,
    pub body: Vec<u8>,
    /// Not a frame of that kind at all: these bytes.
    pub raw: Option<Vec<u8>>,
}

impl Said {
    /// The frame's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut tlvs = Vec::new();
        if let Some((items, bytes)) = self.credit {
            tlvs.extend_from_slice(&1_u16.to_le_bytes());
            tlvs.extend_from_slice(&8_u16.to_le_bytes());
            tlvs.extend_from_slice(&items.to_le_bytes());
            tlvs.extend_from_slice(&bytes.to_le_bytes());
        }
        let mut out = vec![self.kind, self.flags];
        out.extend_from_slice(&(tlvs.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.aux.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        if matches!(self.kind, REQUEST | VOID | PING) {
            out.extend_from_slice(&self.floor.to_le_bytes());
        }
        if matches!(self.kind, REQUEST | VOID) {
            out.extend_from_slice(&self.method.to_le_bytes());
            out.extend_from_slice(&1_u16.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        out.extend_from_slice(&tlvs);
        out.extend_from_slice(&self.body);
        out
    }

    /// With its length before it.
    pub fn with_length(&self) -> Vec<u8> {
        let bytes = self.bytes();
        [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
    }

    fn of(kind: u8, aux: u32, id: u64, body: Vec<u8>) -> Self {
        Self { kind, aux, id, body, ..Self::default() }
    }
}

fn body(choices: &mut Choices<'_>) -> Vec<u8> {
    let len = match choices.byte() {
        255 => 1 << 12,
        254 => 500,
        byte => usize::from(byte % 32),
    };
    vec![choices.byte(); len]
}

fn raw(choices: &mut Choices<'_>) -> Said {
    let len = usize::from(choices.below(64));
    Said { raw: Some(choices.bytes(len).to_vec()), ..Said::default() }
}

/// What a client may say. `next` is around the highest id so far.
pub fn of_client(choices: &mut Choices<'_>, next: u64) -> Said {
    match choices.below(20) {
        0..=7 => {
            let (id, floor) = (choices.near(next), choices.near(next.saturating_sub(4)));
            let flags = choices.byte();
            let credit = (flags & 1 != 0).then(|| (u32::from(choices.byte()), choices.u32() >> (choices.byte() % 32)));
            let aux = if flags & 2 != 0 { choices.u32() } else { u32::from(flags >> 2) };
            // A floor above the request's id is a violation; most are not.
            let floor = if flags & 0x80 == 0 { floor.min(id) } else { floor };
            let kind = if flags & 0x60 == 0x60 { VOID } else { REQUEST };
            let method = u16::from(choices.below(4));
            Said { kind, aux, id, floor, method, credit, body: body(choices), ..Said::default() }
        }
        8 => Said::of(CANCEL, 0, choices.near(next), Vec::new()),
        9 | 10 => Said::of(RESOLVE, 0, choices.near(next), Vec::new()),
        11 | 12 => {
            let floor = choices.near(next.saturating_sub(4));
            let ids: Vec<u8> = (0..choices.below(6)).flat_map(|_| choices.near(floor).to_le_bytes()).collect();
            Said::of(PARK, 0, floor, ids)
        }
        13 | 14 => {
            Said::of(CREDIT, u32::from(choices.byte()), choices.near(next), choices.u32().to_le_bytes().to_vec())
        }
        15 => Said { floor: choices.near(next.saturating_sub(4)), ..Said::of(PING, 0, choices.near(0), Vec::new()) },
        16 => Said::of(PONG, 0, choices.near(0), Vec::new()),
        17 => Said::of(GOODBYE, choices.u32(), 0, Vec::new()),
        18 => Said::of(HELLO, 0, 0, body(choices)),
        _ => raw(choices),
    }
}

/// What a server may say. `next` is around the highest id that the client has used, `epoch` its last connection.
pub fn of_server(choices: &mut Choices<'_>, next: u64, epoch: u64) -> Said {
    let id = choices.near(next.saturating_sub(4));
    let code = |choices: &mut Choices<'_>| u32::from(choices.below(16));
    match choices.below(20) {
        0..=2 => welcome(choices, epoch),
        3..=5 => Said::of(4, 0, id, body(choices)),
        6 | 7 => Said::of(5, code(choices), id, body(choices)),
        8 => Said::of(6, code(choices), id, Vec::new()),
        9 | 10 => Said::of(9, code(choices), id, body(choices)),
        11 => Said::of(10, 0, id, Vec::new()),
        12 | 13 => Said::of(11, 0, id, body(choices)),
        14 => Said::of(12, code(choices), id, Vec::new()),
        15 => Said { floor: id, ..Said::of(PING, 0, id, Vec::new()) },
        16 => Said::of(16, 0, id, Vec::new()),
        17 => Said::of(GOODBYE, code(choices), id, Vec::new()),
        18 => of_client(choices, next),
        _ => raw(choices),
    }
}

fn welcome(choices: &mut Choices<'_>, epoch: u64) -> Said {
    let shape = choices.byte();
    let born = match shape & 3 {
        0 => choices.near(epoch),
        1 => epoch,
        _ => 1,
    };
    let mut body = vec![1, 0, 0, 0];
    body.extend_from_slice(&[shape & 4; 16]);
    body.extend_from_slice(&u64::from(shape & 8).to_le_bytes());
    body.extend_from_slice(&born.to_le_bytes());
    body.extend_from_slice(&(if shape & 16 == 0 { 1 << 20 } else { choices.u32() }).to_le_bytes());
    body.extend_from_slice(&u32::from(choices.byte()).to_le_bytes());
    Said::of(WELCOME, 0, 0, body)
}
