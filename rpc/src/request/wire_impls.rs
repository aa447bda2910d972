//! [`Wire`] for the standard types that may travel.
//!
//! `ENCODED_MIN` follows the codec: an integer is one byte or more, whatever its width, a float is fixed, a string or
//! a tagged type at least its length or tag. Never an implementation for a type without a bound or a stated width.

use super::{__private, Wire};

macro_rules! leaf {
    ($($type:ty: $name:literal, $encoded_min:literal;)*) => {$(
        impl Wire for $type {
            const FINGERPRINT: u64 = __private::shape($name, 0);
            const ENCODED_MIN: usize = $encoded_min;
        }
    )*};
}

leaf! {
    (): "unit", 0;
    bool: "bool", 1;
    u8: "u8", 1;
    u16: "u16", 1;
    u32: "u32", 1;
    u64: "u64", 1;
    i8: "i8", 1;
    i16: "i16", 1;
    i32: "i32", 1;
    i64: "i64", 1;
    f32: "f32", 4;
    f64: "f64", 8;
    char: "char", 1;
    String: "string", 1;
}

impl<T: Wire> Wire for Option<T> {
    const FINGERPRINT: u64 = __private::part(__private::shape("option", 1), "some", T::FINGERPRINT);
    const ENCODED_MIN: usize = 1;
    const HEAP_PER_BYTE: usize = T::HEAP_PER_BYTE;
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    const FINGERPRINT: u64 =
        __private::part(__private::part(__private::shape("result", 2), "ok", T::FINGERPRINT), "err", E::FINGERPRINT);
    const ENCODED_MIN: usize = 1 + __private::least(T::ENCODED_MIN, E::ENCODED_MIN);
    const HEAP_PER_BYTE: usize = __private::most(T::HEAP_PER_BYTE, E::HEAP_PER_BYTE);
}

/// A box has the bytes and the shape of what it holds. It does not make a recursive type possible: the fingerprint of
/// such a type is a cycle, which does not compile.
impl<T: Wire> Wire for Box<T> {
    const FINGERPRINT: u64 = T::FINGERPRINT;
    const ENCODED_MIN: usize = T::ENCODED_MIN;
    const HEAP_PER_BYTE: usize = T::HEAP_PER_BYTE + size_of::<T>().div_ceil(__private::most(T::ENCODED_MIN, 1));
}

/// Serde carries arrays of up to 32 elements. For more, [`List`](crate::List) or [`Blob`](crate::Blob).
impl<T: Wire, const N: usize> Wire for [T; N] {
    const FINGERPRINT: u64 = __private::part(__private::shape("array", N as u64), "element", T::FINGERPRINT);
    const ENCODED_MIN: usize = N * T::ENCODED_MIN;
    const HEAP_PER_BYTE: usize = T::HEAP_PER_BYTE;
}

macro_rules! tuple {
    ($count:literal: $($type:ident)+) => {
        impl<$($type: Wire),+> Wire for ($($type,)+) {
            const FINGERPRINT: u64 = {
                let hash = __private::shape("tuple", $count);
                $(let hash = __private::part(hash, "", $type::FINGERPRINT);)+
                hash
            };
            const ENCODED_MIN: usize = 0 $(+ $type::ENCODED_MIN)+;
            const HEAP_PER_BYTE: usize = {
                let heap = 1;
                $(let heap = __private::most(heap, $type::HEAP_PER_BYTE);)+
                heap
            };
        }
    };
}

tuple!(1: A);
tuple!(2: A B);
tuple!(3: A B C);
tuple!(4: A B C D);
tuple!(5: A B C D E);
tuple!(6: A B C D E F);
