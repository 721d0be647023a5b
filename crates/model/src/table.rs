//! Field tables: AMQP's named, typed values, with the type tags RabbitMQ uses.
//!
//! The specification's own tags differ (`s`, `U`, `l` and more); every client follows RabbitMQ's
//! errata instead. An unsigned 64-bit `L` is read as the signed `l`, and written so.

use crate::limits::TABLE_DEPTH_MAX;
use crate::name::ShortString;

/// Named values, in the order in which they came. A name sent twice is kept twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldTable(Vec<(ShortString, FieldValue)>);

/// A value in a [`FieldTable`]. Two are equal if they are written as the same bytes.
#[derive(Clone, Debug)]
pub enum FieldValue {
    /// `S`: text or bytes.
    LongString(Vec<u8>),
    /// `x`: bytes.
    Binary(Vec<u8>),
    /// `t`; any octet but zero is read as true.
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` when read.
    I64(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// How many decimal places.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `A`
    Array(Vec<FieldValue>),
    /// `V`: no value.
    Void,
}

/// Bytes that are not a field table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A length or a type asks for more than there is.
    #[error("field table ends early: {needed} bytes needed, {left} left")]
    Truncated {
        /// How many bytes the next item takes.
        needed: usize,
        /// How many there were.
        left: usize,
    },
    /// A type tag that RabbitMQ does not know either.
    #[error("unknown field type {0:#04x}")]
    UnknownType(u8),
    /// Tables and arrays nested too deep to be walked safely.
    #[error("field table nested deeper than {TABLE_DEPTH_MAX}")]
    TooDeep,
}

impl FieldTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of that name.
    #[must_use]
    pub fn get<N: AsRef<[u8]> + ?Sized>(&self, name: &N) -> Option<&FieldValue> {
        let name = name.as_ref();
        self.0.iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value)
    }

    /// Sets a value: in place of the first of that name, or at the end.
    pub fn insert(&mut self, name: ShortString, value: impl Into<FieldValue>) {
        let value = value.into();
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes the first value of that name out.
    pub fn remove<N: AsRef<[u8]> + ?Sized>(&mut self, name: &N) -> Option<FieldValue> {
        let name = name.as_ref();
        let index = self.0.iter().position(|(key, _)| key.as_bytes() == name)?;
        Some(self.0.remove(index).1)
    }

    /// Its names and values in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (ShortString, FieldValue)> {
        self.0.iter()
    }

    /// How many values it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a table with its length in front and moves `input` behind it.
    ///
    /// # Errors
    /// [`TableError`] if the bytes are not a table; `input` is then where it was or further on.
    pub fn decode(input: &mut &[u8]) -> Result<Self, TableError> {
        Self::decode_content(read_long(input)?)
    }

    /// Reads a table whose content is all of `content`, without a length in front.
    ///
    /// # Errors
    /// [`TableError`] if the bytes are not a table.
    pub fn decode_content(content: &[u8]) -> Result<Self, TableError> {
        read_table(content, 1)
    }

    /// Checks the content of a table without building it, and says whether it has a value of one
    /// of these names. It refuses what [`FieldTable::decode_content`] refuses.
    ///
    /// # Errors
    /// [`TableError`] if the bytes are not a table.
    pub fn check_content(mut content: &[u8], names: &[&[u8]]) -> Result<bool, TableError> {
        let mut found = false;
        while !content.is_empty() {
            let [len] = read(&mut content)?;
            let name = take(&mut content, len.into())?;
            found |= names.contains(&name);
            check_value(&mut content, 1)?;
        }
        Ok(found)
    }

    /// Appends the table with its length in front.
    ///
    /// # Panics
    /// If it takes more than 4 GiB.
    pub fn encode(&self, out: &mut Vec<u8>) {
        with_length(out, |out| self.encode_content(out));
    }

    /// Appends the table's content without a length.
    ///
    /// # Panics
    /// If a value takes more than 4 GiB.
    pub fn encode_content(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            // A short string holds at most 255 bytes.
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            value.encode(out);
        }
    }
}

impl FromIterator<(ShortString, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortString, FieldValue)>>(entries: I) -> Self {
        FieldTable(entries.into_iter().collect())
    }
}

impl IntoIterator for FieldTable {
    type Item = (ShortString, FieldValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = &'a (ShortString, FieldValue);
    type IntoIter = std::slice::Iter<'a, (ShortString, FieldValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FieldValue {
    /// RabbitMQ's word for the type, as its error texts have it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            FieldValue::LongString(_) => "longstr",
            FieldValue::Binary(_) => "binary",
            FieldValue::Bool(_) => "bool",
            FieldValue::I8(_) => "byte",
            FieldValue::U8(_) => "unsignedbyte",
            FieldValue::I16(_) => "short",
            FieldValue::U16(_) => "unsignedshort",
            FieldValue::I32(_) => "signedint",
            FieldValue::U32(_) => "unsignedint",
            FieldValue::I64(_) => "long",
            FieldValue::Float(_) => "float",
            FieldValue::Double(_) => "double",
            FieldValue::Decimal { .. } => "decimal",
            FieldValue::Timestamp(_) => "timestamp",
            FieldValue::Table(_) => "table",
            FieldValue::Array(_) => "array",
            FieldValue::Void => "void",
        }
    }

    /// The value of an integer of any width; a timestamp is none.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            FieldValue::I8(value) => Some(value.into()),
            FieldValue::U8(value) => Some(value.into()),
            FieldValue::I16(value) => Some(value.into()),
            FieldValue::U16(value) => Some(value.into()),
            FieldValue::I32(value) => Some(value.into()),
            FieldValue::U32(value) => Some(value.into()),
            FieldValue::I64(value) => Some(value),
            _ => None,
        }
    }

    /// The bytes of a long string.
    #[must_use]
    pub fn as_long_string(&self) -> Option<&[u8]> {
        if let FieldValue::LongString(bytes) = self { Some(bytes) } else { None }
    }

    /// The value of a bool.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let FieldValue::Bool(value) = self { Some(*value) } else { None }
    }

    /// The table of a table.
    #[must_use]
    pub fn as_table(&self) -> Option<&FieldTable> {
        if let FieldValue::Table(table) = self { Some(table) } else { None }
    }

    /// The values of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[FieldValue]> {
        if let FieldValue::Array(values) = self { Some(values) } else { None }
    }

    /// Appends the type tag and the value.
    ///
    /// # Panics
    /// If it takes more than 4 GiB.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FieldValue::LongString(bytes) => write_long(out, b'S', bytes),
            FieldValue::Binary(bytes) => write_long(out, b'x', bytes),
            FieldValue::Bool(value) => write(out, b't', [u8::from(*value)]),
            FieldValue::I8(value) => write(out, b'b', value.to_be_bytes()),
            FieldValue::U8(value) => write(out, b'B', value.to_be_bytes()),
            FieldValue::I16(value) => write(out, b's', value.to_be_bytes()),
            FieldValue::U16(value) => write(out, b'u', value.to_be_bytes()),
            FieldValue::I32(value) => write(out, b'I', value.to_be_bytes()),
            FieldValue::U32(value) => write(out, b'i', value.to_be_bytes()),
            FieldValue::I64(value) => write(out, b'l', value.to_be_bytes()),
            FieldValue::Float(value) => write(out, b'f', value.to_be_bytes()),
            FieldValue::Double(value) => write(out, b'd', value.to_be_bytes()),
            FieldValue::Decimal { scale, value } => {
                write(out, b'D', [*scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            FieldValue::Timestamp(value) => write(out, b'T', value.to_be_bytes()),
            FieldValue::Table(table) => {
                out.push(b'F');
                table.encode(out);
            }
            FieldValue::Array(values) => {
                out.push(b'A');
                with_length(out, |out| values.iter().for_each(|value| value.encode(out)));
            }
            FieldValue::Void => out.push(b'V'),
        }
    }
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        use FieldValue as V;
        match (self, other) {
            (V::LongString(a), V::LongString(b)) | (V::Binary(a), V::Binary(b)) => a == b,
            (V::Bool(a), V::Bool(b)) => a == b,
            (V::I8(a), V::I8(b)) => a == b,
            (V::U8(a), V::U8(b)) => a == b,
            (V::I16(a), V::I16(b)) => a == b,
            (V::U16(a), V::U16(b)) => a == b,
            (V::I32(a), V::I32(b)) => a == b,
            (V::U32(a), V::U32(b)) => a == b,
            (V::I64(a), V::I64(b)) => a == b,
            // By their bits, so that a table with a NaN equals itself.
            (V::Float(a), V::Float(b)) => a.to_bits() == b.to_bits(),
            (V::Double(a), V::Double(b)) => a.to_bits() == b.to_bits(),
            (V::Decimal { scale: a, value: x }, V::Decimal { scale: b, value: y }) => {
                a == b && x == y
            }
            (V::Timestamp(a), V::Timestamp(b)) => a == b,
            (V::Table(a), V::Table(b)) => a == b,
            (V::Array(a), V::Array(b)) => a == b,
            (V::Void, V::Void) => true,
            _ => false,
        }
    }
}

impl Eq for FieldValue {}

macro_rules! from {
    ($($type:ty => $variant:ident)*) => {
        $(impl From<$type> for FieldValue {
            fn from(value: $type) -> Self {
                FieldValue::$variant(value.into())
            }
        })*
    };
}

from! {
    &str => LongString
    String => LongString
    bool => Bool
    i32 => I32
    i64 => I64
    f64 => Double
    FieldTable => Table
    Vec<FieldValue> => Array
}

fn read_table(mut content: &[u8], depth: usize) -> Result<FieldTable, TableError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(TableError::TooDeep);
    }
    let mut entries = Vec::new();
    while !content.is_empty() {
        let [len] = read(&mut content)?;
        // A length of one byte always fits; the error cannot happen.
        let name = ShortString::try_from(take(&mut content, len.into())?).unwrap_or_default();
        entries.push((name, read_value(&mut content, depth)?));
    }
    Ok(FieldTable(entries))
}

fn read_array(mut content: &[u8], depth: usize) -> Result<Vec<FieldValue>, TableError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(TableError::TooDeep);
    }
    let mut values = Vec::new();
    while !content.is_empty() {
        values.push(read_value(&mut content, depth)?);
    }
    Ok(values)
}

/// Reads a tag and its value; `depth` is that of the table or array it is in.
fn read_value(input: &mut &[u8], depth: usize) -> Result<FieldValue, TableError> {
    let [tag] = read(input)?;
    Ok(match tag {
        b'S' => FieldValue::LongString(read_long(input)?.to_vec()),
        b'x' => FieldValue::Binary(read_long(input)?.to_vec()),
        b't' => FieldValue::Bool(read::<1>(input)? != [0]),
        b'b' => FieldValue::I8(i8::from_be_bytes(read(input)?)),
        b'B' => FieldValue::U8(u8::from_be_bytes(read(input)?)),
        b's' => FieldValue::I16(i16::from_be_bytes(read(input)?)),
        b'u' => FieldValue::U16(u16::from_be_bytes(read(input)?)),
        b'I' => FieldValue::I32(i32::from_be_bytes(read(input)?)),
        b'i' => FieldValue::U32(u32::from_be_bytes(read(input)?)),
        b'l' | b'L' => FieldValue::I64(i64::from_be_bytes(read(input)?)),
        b'f' => FieldValue::Float(f32::from_be_bytes(read(input)?)),
        b'd' => FieldValue::Double(f64::from_be_bytes(read(input)?)),
        b'D' => {
            let [scale] = read(input)?;
            FieldValue::Decimal { scale, value: u32::from_be_bytes(read(input)?) }
        }
        b'T' => FieldValue::Timestamp(u64::from_be_bytes(read(input)?)),
        b'F' => FieldValue::Table(read_table(read_long(input)?, depth + 1)?),
        b'A' => FieldValue::Array(read_array(read_long(input)?, depth + 1)?),
        b'V' => FieldValue::Void,
        unknown => return Err(TableError::UnknownType(unknown)),
    })
}

fn check_table(mut content: &[u8], depth: usize) -> Result<(), TableError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(TableError::TooDeep);
    }
    while !content.is_empty() {
        let [len] = read(&mut content)?;
        take(&mut content, len.into())?;
        check_value(&mut content, depth)?;
    }
    Ok(())
}

fn check_array(mut content: &[u8], depth: usize) -> Result<(), TableError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(TableError::TooDeep);
    }
    while !content.is_empty() {
        check_value(&mut content, depth)?;
    }
    Ok(())
}

/// Passes over what [`read_value`] reads.
fn check_value(input: &mut &[u8], depth: usize) -> Result<(), TableError> {
    let [tag] = read(input)?;
    match tag {
        b'S' | b'x' => read_long(input).map(drop),
        b't' | b'b' | b'B' => read::<1>(input).map(drop),
        b's' | b'u' => read::<2>(input).map(drop),
        b'I' | b'i' | b'f' => read::<4>(input).map(drop),
        b'l' | b'L' | b'd' | b'T' => read::<8>(input).map(drop),
        b'D' => read::<1>(input).and_then(|_| read::<4>(input)).map(drop),
        b'F' => check_table(read_long(input)?, depth + 1),
        b'A' => check_array(read_long(input)?, depth + 1),
        b'V' => Ok(()),
        unknown => Err(TableError::UnknownType(unknown)),
    }
}

/// Bytes behind a four byte length, borrowed: nothing is allocated for a length alone.
fn read_long<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], TableError> {
    let len = u32::from_be_bytes(read(input)?);
    take(input, usize::try_from(len).unwrap_or(usize::MAX))
}

fn read<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], TableError> {
    let error = TableError::Truncated { needed: N, left: input.len() };
    let (head, rest) = input.split_first_chunk::<N>().ok_or(error)?;
    *input = rest;
    Ok(*head)
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], TableError> {
    let error = TableError::Truncated { needed: len, left: input.len() };
    let (head, rest) = input.split_at_checked(len).ok_or(error)?;
    *input = rest;
    Ok(head)
}

fn write<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&bytes);
}

fn write_long(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    with_length(out, |out| out.extend_from_slice(bytes));
}

/// Writes a four byte length in front of what `content` writes.
fn with_length(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let len = u32::try_from(out.len() - start - 4).expect("a field value takes less than 4 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub(crate) mod tests;
