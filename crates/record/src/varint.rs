//! Unsigned numbers in LEB128: seven bits a byte, the lowest first.

/// The longest encoding of a `u64`, in bytes.
const BYTES_MAX: usize = 10;

/// How many bytes `value` takes, 1 to 10.
pub(crate) fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value`.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `bytes`; none if it is cut off or exceeds 64 bits.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn a_number_over_64_bits_is_refused() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert_eq!(super::read(&mut bytes), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            super::write(&mut out, value);
            prop_assert_eq!(out.len(), super::len(value));
            let mut rest = &out[..];
            prop_assert_eq!(super::read(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }
}
