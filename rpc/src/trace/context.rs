//! W3C trace context: which trace a call belongs to, and which span caused it.
//!
//! Values and text. Never trusts a text: what is not exactly a trace context is refused whole, and its bound is
//! checked before anything is kept.
//!
//! Travels as TLVs of a request; `mod` decides which context a call gets. SPEC: PROTOCOL §3.1; W3C Trace Context,
//! <https://www.w3.org/TR/trace-context-2/>.

use std::cell::Cell;
use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;
use std::sync::Arc;

use crate::id::random_u64;
use crate::limits::{TRACESTATE_BYTES_MAX, TRACESTATE_MEMBERS_MAX};

/// Bytes of a traceparent of version 00.
pub(crate) const TRACEPARENT_BYTES: usize = 55;

/// The caller keeps this trace.
const SAMPLED: u8 = 0b01;
/// The trace id is random in its lower seven bytes.
const RANDOM: u8 = 0b10;

/// Which trace something belongs to, and which span of it comes next above.
///
/// A `TraceContext` is what a *traceparent* header says, and the *tracestate* beside it: a trace id, the id of a span,
/// and whether the trace is kept. Cheap to clone.
///
/// ```
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context: rpc::TraceContext = text.parse()?;
/// assert_eq!(context.to_string(), text);
/// let child = context.child();
/// assert_eq!(child.trace_id(), context.trace_id());
/// assert_ne!(child.span_id(), context.span_id());
/// # Ok::<(), rpc::TraceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: NonZeroU128,
    span_id: NonZeroU64,
    flags: u8,
    state: Option<Arc<str>>,
}

/// Why a text is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// Its length is not that of its version.
    #[error("a traceparent of {bytes} bytes; version 00 has 55")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// Version `ff`, which is forbidden, or no version at all.
    #[error("the version of the traceparent is forbidden")]
    Version,
    /// A dash is missing, or a digit is not lower-case hexadecimal.
    #[error("the traceparent is not lower-case hexadecimal between dashes")]
    Digits,
    /// A trace id or span id of zeros only.
    #[error("an id of the traceparent is zero")]
    Zero,
    /// The tracestate is too long or not a list of `key=value`.
    #[error("the tracestate is too long, or no list of key=value")]
    State,
}

impl TraceContext {
    /// The root of a new trace, which is to be kept.
    pub fn root() -> Self {
        let high = u128::from(random_id().get());
        let low = u128::from(random_id().get());
        // Never zero: its low half is not.
        let trace_id = NonZeroU128::new((high << 64) | low).unwrap_or(NonZeroU128::MIN);
        Self { trace_id, span_id: random_id(), flags: SAMPLED | RANDOM, state: None }
    }

    /// A context from its parts, as another library has them. `None` if an id is zero.
    pub fn from_parts(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        let flags = if sampled { SAMPLED } else { 0 };
        Some(Self { trace_id: NonZeroU128::new(trace_id)?, span_id: NonZeroU64::new(span_id)?, flags, state: None })
    }

    /// Reads a traceparent. A later version than 00 is read as far as 00 goes.
    ///
    /// # Errors
    /// [`TraceError`] says what is wrong with it.
    pub fn parse(traceparent: &str) -> Result<Self, TraceError> {
        Self::from_bytes(traceparent.as_bytes())
    }

    pub(crate) fn from_bytes(text: &[u8]) -> Result<Self, TraceError> {
        let length = TraceError::Length { bytes: text.len() };
        let (fixed, rest) = text.split_at_checked(TRACEPARENT_BYTES).ok_or(length)?;
        let mut fields = fixed.split(|byte| *byte == b'-');
        let mut field = |digits: usize| {
            let text = fields.next().filter(|text| text.len() == digits).ok_or(TraceError::Digits)?;
            hex(text).ok_or(TraceError::Digits)
        };
        let version = field(2)?;
        let (trace_id, span_id, flags) = (field(32)?, field(16)?, field(2)?);
        if version == 0xff {
            return Err(TraceError::Version);
        }
        // A later version may go on, behind a dash.
        if !rest.is_empty() && (version == 0 || rest.first() != Some(&b'-')) {
            return Err(length);
        }
        let span_id = u64::try_from(span_id).map_err(|_| TraceError::Digits)?;
        Ok(Self {
            trace_id: NonZeroU128::new(trace_id).ok_or(TraceError::Zero)?,
            span_id: NonZeroU64::new(span_id).ok_or(TraceError::Zero)?,
            flags: u8::try_from(flags).map_err(|_| TraceError::Digits)? & (SAMPLED | RANDOM),
            state: None,
        })
    }

    /// This context with what vendors say about it: a tracestate, of at most 512 bytes and 32 members. An empty one is
    /// none.
    ///
    /// # Errors
    /// [`TraceError::State`]; it is not a list of `key=value` as W3C writes it.
    pub fn with_state(mut self, tracestate: &str) -> Result<Self, TraceError> {
        if !is_state(tracestate.as_bytes()) {
            return Err(TraceError::State);
        }
        self.state = (!tracestate.is_empty()).then(|| Arc::from(tracestate));
        Ok(self)
    }

    /// The same trace, one span further down.
    pub fn child(&self) -> Self {
        Self { span_id: random_id(), ..self.clone() }
    }

    /// The trace's id.
    pub fn trace_id(&self) -> u128 {
        self.trace_id.get()
    }

    /// The span's id.
    pub fn span_id(&self) -> u64 {
        self.span_id.get()
    }

    /// Whether whoever began the trace keeps it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// What vendors say about the trace; empty if nothing.
    pub fn state(&self) -> &str {
        self.state.as_deref().unwrap_or("")
    }
}

/// The traceparent, in version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        Self::parse(text)
    }
}

/// At most 32 lower-case hexadecimal digits.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0_u128, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte.wrapping_sub(b'0'),
            b'a'..=b'f' => byte.wrapping_sub(b'a').wrapping_add(10),
            _ => return None,
        };
        Some((number << 4) | u128::from(digit))
    })
}

/// Whether this is a list of members, `key=value`, separated by commas and spaces; empty members are allowed.
fn is_state(text: &[u8]) -> bool {
    if text.len() > TRACESTATE_BYTES_MAX {
        return false;
    }
    let members: Vec<&[u8]> =
        text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect();
    let key_of = |member: &&[u8]| member.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let keys: Vec<_> = members.iter().map(key_of).collect();
    let twice = keys.iter().enumerate().any(|(at, key)| keys.get(..at).is_some_and(|before| before.contains(key)));
    members.len() <= TRACESTATE_MEMBERS_MAX && !twice && members.iter().all(|member| is_member(member))
}

fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = member.split_at(at);
    let value = value.strip_prefix(b"=").unwrap_or(value);
    let begins = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let key_byte = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let value_byte = |byte: &u8| (0x20..=0x7e).contains(byte) && !b",=".contains(byte);
    begins
        && key.len() <= 256
        && key.iter().all(key_byte)
        && !value.is_empty()
        && value.len() <= 256
        && value.iter().all(value_byte)
}

thread_local! {
    /// The state of this thread's sequence of ids; 0 before its first.
    static SEQUENCE: Cell<u64> = const { Cell::new(0) };
}

/// An id that nobody else has: a sequence per thread (SplitMix64, Steele et al. 2014) that the kernel seeds. Spans
/// need ids that differ, not secrets.
fn random_id() -> NonZeroU64 {
    loop {
        let seed = match SEQUENCE.get() {
            0 => random_u64(),
            seed => seed,
        };
        let next = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        SEQUENCE.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if let Some(id) = NonZeroU64::new(mixed ^ (mixed >> 31)) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn refused(text: &str, why: TraceError) {
        assert_eq!(TraceContext::parse(text), Err(why), "{text}");
    }

    #[test]
    fn traceparent_that_is_read_is_written_as_it_was() {
        let context = TraceContext::parse(TEXT).unwrap();
        assert_eq!(context.to_string(), TEXT);
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!(TraceContext::from_parts(context.trace_id(), context.span_id(), true), Some(context));
    }

    #[test]
    fn traceparent_that_is_not_exact_is_refused() {
        refused("", TraceError::Length { bytes: 0 });
        refused(&TEXT[..54], TraceError::Length { bytes: 54 });
        refused(&format!("{TEXT}-"), TraceError::Length { bytes: 56 });
        refused(&format!("{TEXT}0"), TraceError::Length { bytes: 56 });
        refused(&TEXT.replacen("00", "ff", 1), TraceError::Version);
        refused(&TEXT.replacen("00", "0x", 1), TraceError::Digits);
        refused(&TEXT.replace("bf", "BF"), TraceError::Digits);
        refused(&TEXT.replace('-', "_"), TraceError::Digits);
        refused(&TEXT.replacen("4b", "é", 1), TraceError::Digits);
        refused("00-00000000000000000000000000000000-00f067aa0ba902b7-01", TraceError::Zero);
        refused("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", TraceError::Zero);
        refused("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", TraceError::Digits);
        refused("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0-", TraceError::Digits);
    }

    #[test]
    fn traceparent_of_a_later_version_is_read_as_far_as_this_one_goes() {
        for later in [TEXT.replacen("00", "01", 1), format!("{}-more", TEXT.replacen("00", "fe", 1))] {
            assert_eq!(TraceContext::parse(&later).unwrap().to_string(), TEXT, "{later}");
        }
        refused(&format!("{}x", TEXT.replacen("00", "01", 1)), TraceError::Length { bytes: 56 });
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        let context = TraceContext::parse(&TEXT.replace("-01", "-fe")).unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.to_string(), TEXT.replace("-01", "-02"));
    }

    #[test]
    fn tracestate_is_kept_whole_or_refused() {
        let context = TraceContext::parse(TEXT).unwrap();
        let long = format!("k={}", "v".repeat(256));
        let many = (0..32).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for good in ["", "rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE, rojo=1 2,", "a@b=c", &long, &many] {
            assert_eq!(context.clone().with_state(good).unwrap().child().state(), good);
        }
        let (longer, more) = (format!("{long}v"), format!("{many},k=v"));
        let longest = [long.as_str(); 2].join(",");
        for bad in ["k", "=v", "k=", "K=v", "k=v=w", "k=v,k=w", "k=\u{e9}", "k=\n", &longer, &more, &longest] {
            assert_eq!(context.clone().with_state(bad), Err(TraceError::State), "{bad}");
        }
    }

    #[test]
    fn ids_differ_and_children_keep_their_trace() {
        let roots: std::collections::HashSet<_> = (0..1000).map(|_| TraceContext::root().trace_id()).collect();
        assert_eq!(roots.len(), 1000);
        let root = TraceContext::root();
        let child = root.child();
        assert_eq!(child.trace_id(), root.trace_id());
        assert_ne!(child.span_id(), root.span_id());
    }
}
