//! CRC-32 (IEEE 802.3, as in zlib and PNG) of image sections.

/// The CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    extend_crc32(0, bytes)
}

/// The CRC-32 of what has the CRC-32 `crc` with `bytes` after it; that of nothing is 0.
#[cfg(feature = "std")]
pub fn extend_crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// The CRC-32 of what has the CRC-32 `crc` with `bytes` after it, four bits at a time: a table of
/// 64 bytes, where the usual one takes a kilobyte of flash.
#[cfg(not(feature = "std"))]
pub fn extend_crc32(crc: u32, bytes: &[u8]) -> u32 {
    bitwise(crc, bytes)
}

#[cfg(any(test, not(feature = "std")))]
fn bitwise(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 4 {
                crc = if crc & 1 == 1 {
                    (crc >> 1) ^ 0xedb8_8320
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    let mut crc = !crc;
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
        assert_eq!(bitwise(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(bitwise(bitwise(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(extend_crc32(crc32(b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
