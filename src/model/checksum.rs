//! CRC-32 (IEEE 802.3, as in zlib and PNG) of image sections.

/// The CRC-32 of `bytes`.
#[cfg(feature = "std")]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The CRC-32 of `bytes`, four bits at a time: a table of 64 bytes, where the usual one takes a kilobyte of flash.
#[cfg(not(feature = "std"))]
pub fn crc32(bytes: &[u8]) -> u32 {
    bitwise(bytes)
}

#[cfg(any(test, not(feature = "std")))]
fn bitwise(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 4 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= byte as u32;
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_check_value_of_the_standard() {
        assert_eq!(bitwise(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
