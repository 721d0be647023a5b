//! How the arguments of a method are packed: one after another, runs of bits sharing octets.

use leveret_model::{FieldTable, ShortString};

use crate::error::ArgumentError;

/// Reads arguments from the front of a payload.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    bits: u8,
    /// How many of `bits` were read; 0 also when the last argument was not a bit.
    bits_read: u8,
    /// Whether short strings must be UTF-8.
    utf8: bool,
}

/// Appends arguments.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// How many bits the last octet holds; 0 also when the last argument was not a bit.
    bits_written: u8,
}

/// A type of argument.
pub(crate) trait Field: Sized {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError>;
    fn write(&self, writer: &mut Writer<'_>);
}

impl<'a> Reader<'a> {
    /// RabbitMQ checks that short strings are UTF-8, but not those of methods that carry content,
    /// for speed.
    #[inline]
    pub(crate) fn new(arguments: &'a [u8], has_content: bool) -> Self {
        Reader { rest: arguments, bits: 0, bits_read: 0, utf8: !has_content }
    }

    /// Nothing may be left over.
    #[inline]
    pub(crate) fn end(self) -> Result<(), ArgumentError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(ArgumentError::TrailingBytes(left)),
        }
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], ArgumentError> {
        self.bits_read = 0;
        let error = ArgumentError::Truncated { needed: N, left: self.rest.len() };
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(error)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], ArgumentError> {
        self.bits_read = 0;
        let error = ArgumentError::Truncated { needed: len, left: self.rest.len() };
        let (head, rest) = self.rest.split_at_checked(len).ok_or(error)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn bit(&mut self) -> Result<bool, ArgumentError> {
        if self.bits_read.is_multiple_of(8) {
            [self.bits] = self.chunk()?;
        }
        let bit = self.bits & (1 << self.bits_read) != 0;
        self.bits_read += 1;
        Ok(bit)
    }
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out, bits_written: 0 }
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.bits_written = 0;
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    fn bit(&mut self, bit: bool) {
        if self.bits_written.is_multiple_of(8) {
            self.bytes(&[0]);
        }
        if let Some(last) = self.out.last_mut() {
            *last |= u8::from(bit) << self.bits_written;
        }
        self.bits_written += 1;
    }
}

impl Field for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError> {
        reader.bit()
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bit(*self);
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl Field for $type {
            fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError> {
                reader.chunk().map(<$type>::from_be_bytes)
            }

            fn write(&self, writer: &mut Writer<'_>) {
                writer.bytes(&self.to_be_bytes());
            }
        })*
    };
}

integers!(u8 u16 u32 u64);

impl Field for ShortString {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError> {
        let [len] = reader.chunk()?;
        let bytes = reader.take(len.into())?;
        if reader.utf8 && std::str::from_utf8(bytes).is_err() {
            return Err(ArgumentError::Utf8);
        }
        // A length of one byte always fits; the error cannot happen.
        Ok(ShortString::try_from(bytes).unwrap_or_default())
    }

    fn write(&self, writer: &mut Writer<'_>) {
        // A short string holds at most 255 bytes.
        writer.bytes(&[self.len() as u8]);
        writer.bytes(self.as_bytes());
    }
}

impl Field for Vec<u8> {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError> {
        let len = u32::from_be_bytes(reader.chunk()?);
        Ok(reader.take(usize::try_from(len).unwrap_or(usize::MAX))?.to_vec())
    }

    fn write(&self, writer: &mut Writer<'_>) {
        let len = u32::try_from(self.len()).expect("a long string of less than 4 GiB");
        writer.bytes(&len.to_be_bytes());
        writer.bytes(self);
    }
}

impl Field for FieldTable {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ArgumentError> {
        reader.bits_read = 0;
        Ok(FieldTable::decode(&mut reader.rest)?)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bits_written = 0;
        self.encode(writer.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No method has more than eight bits together, or two runs of them; a new one may.
    #[test]
    fn bits_share_octets_only_with_their_neighbours() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        for bit in [true, false, false, false, false, false, false, true, true] {
            bit.write(&mut writer);
        }
        0xaa_u8.write(&mut writer);
        true.write(&mut writer);
        FieldTable::new().write(&mut writer);
        false.write(&mut writer);
        true.write(&mut writer);
        assert_eq!(out, [0x81, 0x01, 0xaa, 0x01, 0, 0, 0, 0, 0x02]);

        let mut reader = Reader::new(&out, false);
        let bits = [(); 9].map(|()| bool::read(&mut reader).unwrap());
        assert_eq!(bits, [true, false, false, false, false, false, false, true, true]);
        assert_eq!(u8::read(&mut reader), Ok(0xaa));
        assert_eq!(bool::read(&mut reader), Ok(true));
        assert_eq!(FieldTable::read(&mut reader), Ok(FieldTable::new()));
        assert_eq!(bool::read(&mut reader), Ok(false));
        assert_eq!(bool::read(&mut reader), Ok(true));
        assert_eq!(reader.end(), Ok(()));
    }
}
