//! Messages of D-Bus as bytes, as far as the service manager is asked something: calls out, answers in.
//!
//! Little-endian alone, which all processors are that the agent runs on. What comes in is believed in nothing: every length is held to
//! what is there. Deliberately not here: which calls there are, and the connection.

/// The longest answer, in bytes.
pub(super) const LONGEST: usize = 4 << 20;
/// The fixed beginning of a message: up to the length of its fields, inclusive.
pub(super) const BEGINNING: usize = 16;
/// How it says that its numbers are little-endian.
const LITTLE: u8 = b'l';
const CALL: u8 = 1;
const VERSION: u8 = 1;

/// What kind of message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Error,
    /// A signal, or a call of the other side: nothing that was waited for.
    Other,
}

/// Writes values one after another.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn number(mut self, value: u32) -> Writer {
        self.align(4);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn truth(self, value: bool) -> Writer {
        self.number(u32::from(value))
    }

    pub(super) fn text(self, text: &str) -> Writer {
        let mut writer = self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        writer.0.extend(text.as_bytes());
        writer.0.push(0);
        writer
    }

    pub(super) fn texts<S: AsRef<str>>(self, texts: &[S]) -> Writer {
        let mut writer = self.number(0);
        let begin = writer.0.len();
        for text in texts {
            writer = writer.text(text.as_ref());
        }
        writer.set_length(begin);
        writer
    }

    /// A field of a message's head: its number, and a text of this type.
    fn field(mut self, number: u8, kind: u8, text: &str) -> Writer {
        self.align(8);
        self.0.extend([number, 1, kind, 0]);
        if kind == b'g' {
            self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            self.0.extend(text.as_bytes());
            self.0.push(0);
            return self;
        }
        self.text(text)
    }

    /// Writes how long what was begun there is by now, in front of it.
    fn set_length(&mut self, begin: usize) {
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[begin - 4..begin].copy_from_slice(&length.to_le_bytes());
    }
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callee<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// A call as it is sent.
pub(super) fn call(serial: u32, callee: Callee<'_>, member: &str, signature: &str, body: &Writer) -> Vec<u8> {
    let mut head = Writer(vec![LITTLE, CALL, 0, VERSION]);
    head = head.number(u32::try_from(body.0.len()).unwrap_or(u32::MAX)).number(serial).number(0);
    let begin = head.0.len();
    head = head.field(1, b'o', callee.path).field(2, b's', callee.interface);
    head = head.field(3, b's', member).field(6, b's', callee.destination);
    if !signature.is_empty() {
        head = head.field(8, b'g', signature);
    }
    head.set_length(begin);
    head.align(8);
    head.0.extend(&body.0);
    head.0
}

/// How many bytes follow the beginning of a message, and what kind of message it is.
pub(super) fn rest(beginning: &[u8; BEGINNING]) -> Option<(usize, Kind)> {
    if beginning[0] != LITTLE || beginning[3] != VERSION {
        return None;
    }
    let mut reader = Reader { bytes: beginning, at: 4 };
    let (body, _, fields) = (reader.number()?, reader.number()?, reader.number()?);
    let rest = usize::try_from(fields).ok()?.next_multiple_of(8).checked_add(usize::try_from(body).ok()?)?;
    let kind = match beginning[1] {
        2 => Kind::Answer,
        3 => Kind::Error,
        _ => Kind::Other,
    };
    (rest <= LONGEST).then_some((rest, kind))
}

/// Which call a message answers, and what it says.
pub(super) fn answered<'a>(beginning: &[u8; BEGINNING], rest: &'a [u8]) -> Option<(u32, Reader<'a>)> {
    let length = Reader { bytes: beginning, at: 12 }.number()?;
    let length = usize::try_from(length).ok()?;
    // Fields are aligned by their place in the message, of which the beginning takes 16 bytes.
    let mut fields = Reader { bytes: rest.get(..length)?, at: 0 };
    let mut serial = None;
    while fields.at < length {
        fields.align(8);
        let (number, kind) = (fields.byte()?, fields.signature()?);
        match (number, kind) {
            (5, "u") => serial = Some(fields.number()?),
            (_, "s" | "o") => drop(fields.text()?),
            (_, "g") => drop(fields.signature()?),
            (_, "u") => drop(fields.number()?),
            _ => return None,
        }
    }
    let body = rest.get(length.next_multiple_of(8)..)?;
    Some((serial?, Reader { bytes: body, at: 0 }))
}

/// Reads values one after another.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    /// What `one` reads of each structure of an array.
    pub(super) fn structures<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = usize::try_from(self.number()?).ok()?;
        self.align(8);
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let mut all = Vec::new();
        while self.at < end {
            self.align(8);
            all.push(one(self)?);
        }
        (self.at == end).then_some(all)
    }
}
