//! Types that use everything that may travel, and random values of them.

use rpc::{Blob, List, Wire};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
pub(crate) struct Everything {
    pub(crate) flag: bool,
    pub(crate) unsigned: (u8, u16, u32, u64),
    pub(crate) signed: (i8, i16, i32, i64),
    pub(crate) floats: (f32, f64),
    pub(crate) letter: char,
    pub(crate) text: String,
    pub(crate) maybe: Option<Option<u32>>,
    pub(crate) outcome: Result<u8, String>,
    pub(crate) array: [u8; 4],
    pub(crate) boxed: Box<u16>,
    pub(crate) nothing: (),
    pub(crate) blob: Blob,
    pub(crate) leaves: List<Leaf, 8>,
    pub(crate) marker: Marker,
    pub(crate) wrapped: Wrapped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
pub(crate) enum Leaf {
    Unit,
    Newtype(u64),
    Tuple(u8, String),
    Struct { number: i32, bytes: Option<Blob> },
    Nested(List<List<u16, 4>, 4>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
pub(crate) struct Marker;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Wire)]
#[serde(transparent, rename = "w")]
pub(crate) struct Wrapped {
    #[serde(rename = "renamed", alias = "other_name")]
    pub(crate) inner: u32,
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed gives the same values on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Small as often as large, so that every width of a variable-length integer comes up.
    pub(crate) fn integer(&mut self) -> u64 {
        let bits = self.below(65);
        self.next().checked_shr(64 - bits as u32).unwrap_or(0)
    }

    pub(crate) fn bytes(&mut self, bound: u64) -> Vec<u8> {
        (0..self.below(bound)).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        (0..self.below(12)).map(|_| self.letter()).collect()
    }

    fn letter(&mut self) -> char {
        let bound = [0x80, 0x800, 0x1_0000, 0x11_0000][self.below(4) as usize];
        char::from_u32(self.below(bound) as u32).unwrap_or('\u{fffd}')
    }

    fn leaf(&mut self) -> Leaf {
        match self.below(5) {
            0 => Leaf::Unit,
            1 => Leaf::Newtype(self.integer()),
            2 => Leaf::Tuple(self.next() as u8, self.text()),
            3 => {
                let bytes = (self.below(2) == 0).then(|| Blob::from(self.bytes(300)));
                Leaf::Struct { number: self.integer() as i32, bytes }
            }
            _ => {
                let inner = |random: &mut Self| list((0..random.below(5)).map(|_| random.integer() as u16).collect());
                Leaf::Nested(list((0..self.below(5)).map(|_| inner(self)).collect()))
            }
        }
    }

    pub(crate) fn everything(&mut self) -> Everything {
        let number = |float: f64| if float.is_nan() { 0.5 } else { float };
        let number32 = |float: f32| if float.is_nan() { 0.5 } else { float };
        Everything {
            flag: self.below(2) == 0,
            unsigned: (self.integer() as u8, self.integer() as u16, self.integer() as u32, self.integer()),
            signed: (self.next() as i8, self.integer() as i16, self.integer() as i32, self.integer() as i64),
            floats: (number32(f32::from_bits(self.next() as u32)), number(f64::from_bits(self.next()))),
            letter: self.letter(),
            text: self.text(),
            maybe: [None, Some(None), Some(Some(self.integer() as u32))][self.below(3) as usize],
            outcome: if self.below(2) == 0 { Ok(self.next() as u8) } else { Err(self.text()) },
            array: (self.next() as u32).to_le_bytes(),
            boxed: Box::new(self.integer() as u16),
            nothing: (),
            blob: Blob::from(self.bytes(300)),
            leaves: list((0..self.below(9)).map(|_| self.leaf()).collect()),
            marker: Marker,
            wrapped: Wrapped { inner: self.integer() as u32 },
        }
    }
}

fn list<T, const MAX: usize>(elements: Vec<T>) -> List<T, MAX> {
    List::try_from(elements).expect("the sample keeps to the maximum")
}
