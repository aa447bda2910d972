//! One frame in words.
//!
//! Pure; reads any bytes. Never fails and never shows a secret: what cannot be read is said to be broken, and its bytes
//! are shown.
//!
//! Fed by `conversation`, or by whoever has a frame.

use std::fmt;

use crate::limits::INSPECT_BYTES_SHOWN_MAX;
use crate::request::{MethodInfo, Protocol};
use crate::trace::{TraceContext, TraceError};
use crate::wire::header::{
    self, EndCode, FailedCode, Frame, Gap, GoodbyeCode, IGNORABLE, Kind, LOSSY, NackCode, REVERSE, ResolutionCode,
    TLV_CREDIT, TLV_TRACEPARENT, TLV_TRACESTATE, parse_ids, split_u32,
};
use crate::wire::hello::{Hello, Welcome};

/// Names for the numbers of methods.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<&'static MethodInfo>);

/// What a frame says: its kind, and its parts in their order.
///
/// `Display` gives one line, `Request  id 7, method `add` version 1, ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The kind's name; `Broken` and `Unknown` for what is none.
    pub kind: String,
    /// What it says besides: name and value.
    pub parts: Vec<(&'static str, String)>,
}

impl Names {
    /// The methods of a protocol.
    pub fn of<P: Protocol>() -> Self {
        Self::default().and::<P>()
    }

    /// These, and the methods of another one. Where two have the same number, the first is meant.
    #[must_use]
    pub fn and<P: Protocol>(mut self) -> Self {
        self.0.extend(P::METHODS);
        self
    }

    pub(super) fn method(&self, id: u16, version: u16) -> String {
        match self.0.iter().find(|known| (known.id, known.version) == (id, version)) {
            Some(known) => format!("`{}` version {version}", known.name),
            None => format!("{id} version {version}"),
        }
    }
}

/// Says what a frame means. `frame` is without its length.
pub fn describe(frame: &[u8], names: &Names) -> Description {
    let mut says = Description { kind: String::new(), parts: Vec::new() };
    match header::parse(frame) {
        Err(error) => {
            says.kind = "Broken".to_owned();
            says.put("why", error);
            says.bytes("bytes", frame);
        }
        Ok(None) => {
            says.kind = "Unknown".to_owned();
            says.put("kind", frame.first().copied().unwrap_or_default());
            says.put("flags", "ignorable");
            says.bytes("bytes", frame);
        }
        Ok(Some(frame)) => {
            says.kind = format!("{:?}", frame.kind);
            says.frame(&frame, names);
        }
    }
    says
}

impl Description {
    pub(super) fn put(&mut self, name: &'static str, value: impl fmt::Display) {
        self.parts.push((name, value.to_string()));
    }

    fn frame(&mut self, frame: &Frame<'_>, names: &Names) {
        match frame.kind {
            Kind::Hello | Kind::Welcome => {}
            Kind::Ping | Kind::Pong => self.put("nonce", frame.id),
            Kind::Received | Kind::Drain | Kind::Goodbye => self.put("up to id", frame.id),
            Kind::Park => self.put("floor", frame.id),
            _ => self.put("id", frame.id),
        }
        self.flags(frame);
        match frame.kind {
            Kind::Hello => self.hello(frame.body),
            Kind::Welcome => self.welcome(frame.body),
            Kind::Request | Kind::Void => {
                self.put("method", names.method(frame.method, frame.version));
                match frame.aux {
                    _ if frame.kind == Kind::Void => {}
                    0 => self.put("deadline", "passed"),
                    ms => self.put("deadline", format_args!("in {ms} ms")),
                }
                self.put("floor", frame.floor);
                self.tlvs(frame);
                self.bytes("body", frame.body);
            }
            Kind::Nack => {
                let code = NackCode::from_number(frame.aux);
                self.put("because", words(code));
                self.refusal(code, frame.body);
            }
            Kind::Failed => self.put("because", words(FailedCode::from_number(frame.aux))),
            Kind::Resolution => self.resolution(frame),
            Kind::Received => match <[u8; 8]>::try_from(frame.body) {
                Ok(started) => self.put("started up to id", u64::from_le_bytes(started)),
                Err(_) if frame.body.is_empty() => {}
                Err(_) => self.bytes("body", frame.body),
            },
            Kind::Resync => match Gap::parse(frame.body) {
                Some((cursor, missed)) => {
                    self.put("next item", cursor);
                    self.put("missing", format_args!("{} lossless, {} lossy", missed.lossless, missed.lossy));
                }
                None => self.bytes("body", frame.body),
            },
            Kind::End => self.put("because", words(EndCode::from_number(frame.aux))),
            Kind::Goodbye => {
                self.put("because", words(GoodbyeCode::from_number(frame.aux)));
                self.text(frame.body);
            }
            Kind::Credit => {
                self.put("items", frame.aux);
                match split_u32(frame.body) {
                    Some((bytes, [])) => self.put("bytes", bytes),
                    _ => self.bytes("body", frame.body),
                }
            }
            Kind::Ping => {
                self.put("floor", frame.floor);
                self.rest(frame.body);
            }
            Kind::Park => match parse_ids(frame.body) {
                Some(ids) => {
                    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
                    self.put("holds", if ids.is_empty() { "nothing".to_owned() } else { ids.join(" ") });
                }
                None => self.bytes("body", frame.body),
            },
            Kind::Cancel | Kind::Resolve | Kind::Pong | Kind::Drain => self.rest(frame.body),
            _ => self.bytes("body", frame.body),
        }
    }

    fn flags(&mut self, frame: &Frame<'_>) {
        if frame.flags & REVERSE != 0 {
            self.put("direction", "reverse");
        }
        // A Void always is.
        if frame.flags & IGNORABLE != 0 && frame.kind != Kind::Void {
            self.put("flags", "ignorable");
        }
        if frame.flags & LOSSY != 0 {
            self.put("item", "lossy");
        }
        let unknown = frame.flags & !(IGNORABLE | REVERSE | LOSSY);
        if unknown != 0 {
            self.put("further flags", format_args!("{unknown:#04x}"));
        }
    }

    fn hello(&mut self, body: &[u8]) {
        let hello = match Hello::parse(body) {
            Ok(hello) => hello,
            Err(error) => {
                self.put("broken", error);
                return self.bytes("body", body);
            }
        };
        self.put("service", format_args!("`{}` version {}", printable(hello.service), hello.service_version));
        self.put("wire", format_args!("{} to {}", hello.wire_min, hello.wire_max));
        self.put("peer", hello.peer);
        self.put("incarnation", hello.incarnation);
        self.put("lane", hello.lane);
        self.put("epoch", hello.epoch);
        self.put("frames", format_args!("up to {} bytes", hello.frame_bytes_max));
        self.put("window", format_args!("{} ids", hello.window));
        self.put("methods", hello.methods().count());
        if let Some(serves) = hello.serves() {
            self.put("serves", format_args!("`{}` version {}", printable(serves.name), serves.version));
        }
        if let Some(secret) = hello.secret() {
            self.put("secret", format_args!("{} bytes, not shown", secret.len()));
        }
    }

    fn welcome(&mut self, body: &[u8]) {
        match Welcome::parse(body) {
            Ok(welcome) => {
                self.put("wire", welcome.wire);
                self.put("peer", welcome.peer);
                self.put("incarnation", welcome.incarnation);
                self.put("born", format_args!("with epoch {}", welcome.born));
                self.put("frames", format_args!("up to {} bytes", welcome.frame_bytes_max));
                self.put("window", format_args!("{} ids", welcome.window));
            }
            Err(error) => {
                self.put("broken", error);
                self.bytes("body", body);
            }
        }
    }

    fn tlvs(&mut self, frame: &Frame<'_>) {
        for field in frame.tlvs {
            let Ok((kind, value)) = field else { return };
            match kind {
                TLV_CREDIT if frame.tlvs.credit().is_some() => {
                    let (items, bytes) = frame.tlvs.credit().unwrap_or_default();
                    self.put("opens a stream", format_args!("{items} items or {bytes} bytes at first"));
                }
                TLV_TRACEPARENT => match TraceContext::from_bytes(value) {
                    Ok(context) => self.put("trace", context),
                    Err(error) => self.put("bad trace", error),
                },
                TLV_TRACESTATE => match std::str::from_utf8(value).map_err(|_| TraceError::State) {
                    Ok(state) => self.put("trace state", printable(state)),
                    Err(error) => self.put("bad trace", error),
                },
                kind => self.put("TLV", format_args!("type {kind}, {} bytes", value.len())),
            }
        }
    }

    fn refusal(&mut self, code: NackCode, body: &[u8]) {
        match (code, split_u32(body)) {
            (NackCode::Rejected, _) => self.bytes("body", body),
            (NackCode::Overloaded, Some((ms, []))) => self.put("again after", format_args!("{ms} ms")),
            _ => self.text(body),
        }
    }

    /// A reason in words, if there is one.
    fn text(&mut self, body: &[u8]) {
        match std::str::from_utf8(body) {
            Ok("") => {}
            Ok(text) => self.put("text", format_args!("\"{}\"", printable(text))),
            Err(_) => self.bytes("body", body),
        }
    }

    fn resolution(&mut self, frame: &Frame<'_>) {
        let code = ResolutionCode::from_number(frame.aux);
        self.put("became", words(code));
        match (code, split_u32(frame.body)) {
            (ResolutionCode::Nacked, Some((nack, body))) => {
                let code = NackCode::from_number(nack);
                self.put("because", words(code));
                self.refusal(code, body);
            }
            (ResolutionCode::Failed, Some((failed, rest))) => {
                self.put("because", words(FailedCode::from_number(failed)));
                self.rest(rest);
            }
            (ResolutionCode::Applied, _) => self.bytes("body", frame.body),
            _ => self.rest(frame.body),
        }
    }

    /// Bytes where none belong.
    fn rest(&mut self, body: &[u8]) {
        if !body.is_empty() {
            self.bytes("body", body);
        }
    }

    fn bytes(&mut self, name: &'static str, bytes: &[u8]) {
        self.put(name, Excerpt(bytes));
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for (at, (name, value)) in self.parts.iter().enumerate() {
            write!(f, "{} {name} {value}", if at == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// How many bytes, and the first of them in hexadecimal and as text.
struct Excerpt<'a>(&'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..INSPECT_BYTES_SHOWN_MAX).unwrap_or(self.0);
        write!(f, "{} bytes", self.0.len())?;
        if shown.is_empty() {
            return Ok(());
        }
        f.write_str(":")?;
        shown.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        let more = if shown.len() < self.0.len() { ".." } else { "" };
        let text: String =
            shown.iter().map(|byte| if matches!(byte, 0x20..=0x7e) { char::from(*byte) } else { '.' }).collect();
        write!(f, "{more} |{text}{more}|")
    }
}

/// A code's name as people write it: `UnknownMethod` is *unknown method*.
fn words(code: impl fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Text of a peer must not steer the terminal of whoever looks at it.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}
