//! Safetensors headers of any bytes: refused, or tensors that cover the data in order. The first four bytes of an input
//! are the size of the data behind the header, the rest is its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use m2cache_rs::store::parse_header;

fuzz_target!(|input: &[u8]| {
    let Some((size, text)) = input.split_first_chunk() else { return };
    let data = u64::from(u32::from_le_bytes(*size));
    let Ok(header) = parse_header(text, data) else { return };
    let mut at = 8 + text.len() as u64;
    for tensor in &header.tensors {
        assert_eq!(tensor.begin, at);
        at += tensor.bytes;
    }
    assert_eq!(at, 8 + text.len() as u64 + data);
});
