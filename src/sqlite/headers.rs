//! A message's headers as one BLOB: a version byte, then for each header its name and its value,
//! each behind its length (4 bytes, big endian; `ffffffff` for a value that is null). Names may
//! repeat, the order is kept. No headers at all are stored as NULL.

use crate::message::Header;

const VERSION: u8 = 1;
const NULL_LENGTH: u32 = u32::MAX;

/// The headers' bytes, None where there are none. Lengths fit: a message's size is limited.
pub(crate) fn encode(headers: &[Header]) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let mut bytes = vec![VERSION];
    for (name, value) in headers {
        put(&mut bytes, Some(name.as_bytes()));
        put(&mut bytes, value.as_deref());
    }
    Some(bytes)
}

fn put(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    let length = part.map_or(NULL_LENGTH, |part| part.len() as u32);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part.unwrap_or_default());
}

/// Reads what [`encode`] wrote; otherwise says what is wrong with it.
#[cfg(feature = "relay")]
pub(crate) fn decode(bytes: Option<&[u8]>) -> Result<Vec<Header>, &'static str> {
    let mut headers = Vec::new();
    let Some(bytes) = bytes else { return Ok(headers) };
    let mut rest = match bytes.split_first() {
        Some((&VERSION, rest)) => rest,
        _ => return Err("its headers were written in another format, by a later release of onecommit"),
    };
    while !rest.is_empty() {
        let name = take(&mut rest)?.ok_or("a header has no name")?;
        let name = std::str::from_utf8(name).map_err(|_| "a header's name is not UTF-8")?;
        headers.push((name.to_string(), take(&mut rest)?.map(<[u8]>::to_vec)));
    }
    Ok(headers)
}

#[cfg(feature = "relay")]
fn take<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    const CUT: &str = "its headers are cut short";
    let (length, behind) = rest.split_first_chunk::<4>().ok_or(CUT)?;
    let length = u32::from_be_bytes(*length);
    if length == NULL_LENGTH {
        *rest = behind;
        return Ok(None);
    }
    let (part, behind) = behind.split_at_checked(length as usize).ok_or(CUT)?;
    *rest = behind;
    Ok(Some(part))
}

#[cfg(all(test, feature = "relay"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(headers in prop::collection::vec(any::<(String, Option<Vec<u8>>)>(), 0..8)) {
            prop_assert_eq!(decode(encode(&headers).as_deref()), Ok(headers));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(headers) = decode(Some(&bytes)) && !headers.is_empty() {
                prop_assert_eq!(encode(&headers), Some(bytes));
            }
        }

        #[test]
        fn what_is_cut_anywhere_but_behind_a_header_is_refused(
            headers in prop::collection::vec(any::<(String, Option<Vec<u8>>)>(), 1..4), cut in 0usize..200
        ) {
            let bytes = encode(&headers).unwrap();
            let cut = cut % bytes.len();
            match decode(Some(&bytes[..cut])) {
                Ok(found) => prop_assert!(found.len() < headers.len() && headers.starts_with(&found)),
                Err(_) => prop_assert!(cut != 1),
            }
        }
    }

    #[test]
    fn the_format_never_changes() {
        let headers = [("a".to_string(), None), ("a".to_string(), Some(vec![0xff, 0]))];
        let expected = b"\x01\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x01a\0\0\0\x02\xff\0";
        assert_eq!(encode(&headers).as_deref(), Some(&expected[..]));
        assert_eq!(encode(&[]), None);
        assert!(decode(Some(b"\x02")).unwrap_err().contains("later release"));
    }
}
