//! Bytes as binutils 2.40 assembles and disassembles them, whose reading of the manual is not ours.

use super::decode::{Address, Instruction, LONGEST, Operation, decode};
use super::tiles::Signs;

fn decoded(bytes: &[u8]) -> Option<Instruction> {
    let mut all = [0; LONGEST];
    all[..bytes.len()].copy_from_slice(bytes);
    decode(&all)
}

/// `base + index * scale + displacement`.
fn at(base: usize, index: Option<(usize, usize)>, displacement: isize) -> Address {
    Address { base, index, displacement }
}

fn product(first: bool, second: bool, tiles: [usize; 3]) -> Operation {
    Operation::Multiply(Signs { first, second }, tiles)
}

#[test]
fn instructions_are_those_that_binutils_reads() {
    use Operation::{Configure, Load, Release, Save, Store, Zero};
    let known: [(&str, &[u8], Operation); 16] = [
        ("ldtilecfg [rsp+0x40]", &[0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0x40], Configure(at(4, None, 0x40))),
        ("ldtilecfg [rdi]", &[0xc4, 0xe2, 0x78, 0x49, 0x07], Configure(at(7, None, 0))),
        ("ldtilecfg [r13+0x8]", &[0xc4, 0xc2, 0x78, 0x49, 0x45, 0x08], Configure(at(13, None, 8))),
        (
            "ldtilecfg [rax+r9*4-0x100]",
            &[0xc4, 0xa2, 0x78, 0x49, 0x84, 0x88, 0x00, 0xff, 0xff, 0xff],
            Configure(at(0, Some((9, 4)), -0x100)),
        ),
        ("sttilecfg [rdi]", &[0xc4, 0xe2, 0x79, 0x49, 0x07], Save(at(7, None, 0))),
        ("tilerelease", &[0xc4, 0xe2, 0x78, 0x49, 0xc0], Release),
        ("tilezero tmm7", &[0xc4, 0xe2, 0x7b, 0x49, 0xf8], Zero(7)),
        ("tileloadd tmm4,[rsi+rax*1]", &[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x06], Load(4, at(6, Some((0, 1)), 0))),
        (
            "tileloadd tmm7,[rsi+rax*2+0x40]",
            &[0xc4, 0xe2, 0x7b, 0x4b, 0x7c, 0x46, 0x40],
            Load(7, at(6, Some((0, 2)), 0x40)),
        ),
        (
            "tileloadd tmm6,[r14+r15*1-0x400]",
            &[0xc4, 0x82, 0x7b, 0x4b, 0xb4, 0x3e, 0x00, 0xfc, 0xff, 0xff],
            Load(6, at(14, Some((15, 1)), -0x400)),
        ),
        (
            "tileloadd tmm1,[r13+rcx*8+0x0]",
            &[0xc4, 0xc2, 0x7b, 0x4b, 0x4c, 0xcd, 0x00],
            Load(1, at(13, Some((1, 8)), 0)),
        ),
        (
            "tilestored [r8+rbp*1+0x400],tmm3",
            &[0xc4, 0xc2, 0x7a, 0x4b, 0x9c, 0x28, 0x00, 0x04, 0x00, 0x00],
            Store(at(8, Some((5, 1)), 0x400), 3),
        ),
        ("tdpbusd tmm0,tmm4,tmm7", &[0xc4, 0xe2, 0x41, 0x5e, 0xc4], product(false, true, [0, 4, 7])),
        ("tdpbsud tmm1,tmm5,tmm6", &[0xc4, 0xe2, 0x4a, 0x5e, 0xcd], product(true, false, [1, 5, 6])),
        ("tdpbuud tmm2,tmm3,tmm4", &[0xc4, 0xe2, 0x58, 0x5e, 0xd3], product(false, false, [2, 3, 4])),
        ("tdpbssd tmm7,tmm6,tmm0", &[0xc4, 0xe2, 0x7b, 0x5e, 0xfe], product(true, true, [7, 6, 0])),
    ];
    for (text, bytes, operation) in known {
        assert_eq!(decoded(bytes), Some(Instruction { operation, bytes: bytes.len() }), "{text}");
    }
}

#[test]
fn what_is_no_such_instruction_is_none() {
    let others: [(&str, &[u8]); 11] = [
        ("tileloaddt1 tmm4,[rsi+rax*1]", &[0xc4, 0xe2, 0x79, 0x4b, 0x24, 0x06]),
        ("tdpbf16ps tmm0,tmm4,tmm7", &[0xc4, 0xe2, 0x42, 0x5c, 0xc4]),
        ("vaddps ymm0,ymm1,ymm2", &[0xc5, 0xf4, 0x58, 0xc2]),
        ("ud2", &[0x0f, 0x0b]),
        ("tilerelease of map 0F", &[0xc4, 0xe1, 0x78, 0x49, 0xc0]),
        ("tilerelease with W", &[0xc4, 0xe2, 0xf8, 0x49, 0xc0]),
        ("tilerelease with L", &[0xc4, 0xe2, 0x7c, 0x49, 0xc0]),
        ("tilezero of tile 8", &[0xc4, 0x62, 0x7b, 0x49, 0xc0]),
        ("tilezero with a vvvv", &[0xc4, 0xe2, 0x73, 0x49, 0xc0]),
        ("tileloadd without SIB", &[0xc4, 0xe2, 0x7b, 0x4b, 0x26]),
        ("tdpbusd with tile 15", &[0xc4, 0xe2, 0x01, 0x5e, 0xc4]),
    ];
    for (text, bytes) in others {
        assert_eq!(decoded(bytes), None, "{text}");
    }
}
