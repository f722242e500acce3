//! The instructions of AMX in int8, from their bytes: VEX.128.0F38.W0 with opcodes 49, 4B and 5E.

use super::tiles::Signs;

/// Where an operand lies in memory: `base + index * scale + displacement`, registers by their numbers in the encoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Address {
    pub base: usize,
    /// With its scale; for tiles, whose rows lie that far apart, it is not part of the address.
    pub index: Option<(usize, usize)>,
    pub displacement: isize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Configure(Address),
    Save(Address),
    Release,
    Zero(usize),
    Load(usize, Address),
    Store(Address, usize),
    /// Sums, first operand, second.
    Multiply(Signs, [usize; 3]),
}

/// An operation, and the bytes it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruction {
    pub operation: Operation,
    pub bytes: usize,
}

/// The longest: prefix, opcode, ModRM, SIB and a displacement.
pub const LONGEST: usize = 10;

/// What the three bytes of a VEX prefix say.
struct Vex {
    /// Added to the numbers of registers in ModRM's `reg`, an index and a base.
    reg: usize,
    index: usize,
    base: usize,
    /// The register that ModRM has no room for.
    vvvv: usize,
    /// None, 66, F3, F2.
    prefix: u8,
}

/// None for bytes that are none of these instructions, or one that faults whatever the tiles are.
pub fn decode(bytes: &[u8; LONGEST]) -> Option<Instruction> {
    let vex = vex(bytes)?;
    let (mode, reg, rm) = (bytes[4] >> 6, usize::from(bytes[4] >> 3 & 7), usize::from(bytes[4] & 7));
    let memory = || address(&bytes[4..], &vex);
    let (operation, more) = match (bytes[3], mode, vex.prefix) {
        (0x49, 3, 0) if reg == 0 && rm == 0 => (Operation::Release, 0),
        (0x49, 3, 3) if rm == 0 => (Operation::Zero(reg), 0),
        (0x49, 0..=2, 0) if reg == 0 => memory().map(|(at, more)| (Operation::Configure(at), more))?,
        (0x49, 0..=2, 1) if reg == 0 => memory().map(|(at, more)| (Operation::Save(at), more))?,
        (0x4b, 0..=2, 3) => tile_memory(memory()?).map(|(at, more)| (Operation::Load(reg, at), more))?,
        (0x4b, 0..=2, 2) => tile_memory(memory()?).map(|(at, more)| (Operation::Store(at, reg), more))?,
        (0x5e, 3, prefix) if vex.vvvv < 8 && vex.base == 0 => {
            (Operation::Multiply(signs(prefix), [reg, rm, vex.vvvv]), 0)
        }
        _ => return None,
    };
    let unused = matches!(operation, Operation::Multiply(..)) || vex.vvvv == 0;
    (unused && vex.reg == 0).then_some(Instruction { operation, bytes: 5 + more })
}

/// By the prefix: `uud`, `usd`, `sud`, `ssd`.
fn signs(prefix: u8) -> Signs {
    Signs { first: prefix >= 2, second: prefix % 2 == 1 }
}

/// The prefix, where it says map 0F38, W 0, L 0. Its bits for registers are inverted.
fn vex(bytes: &[u8; LONGEST]) -> Option<Vex> {
    let [first, second, third, ..] = *bytes;
    let high = |bit: u8| if second >> bit & 1 == 0 { 8 } else { 0 };
    let fits = first == 0xc4 && second & 0x1f == 2 && third >> 7 == 0 && third >> 2 & 1 == 0;
    fits.then(|| Vex {
        reg: high(7),
        index: high(6),
        base: high(5),
        vvvv: usize::from(!third >> 3 & 0xf),
        prefix: third & 3,
    })
}

/// Tiles want SIB: without it there is no stride.
fn tile_memory(found: (Address, usize)) -> Option<(Address, usize)> {
    found.0.index.is_some().then_some(found)
}

/// The address in ModRM and what follows, and how many bytes do. Those that are relative to code or to nothing are not
/// known here.
fn address(bytes: &[u8], vex: &Vex) -> Option<(Address, usize)> {
    let (mode, rm) = (bytes[0] >> 6, bytes[0] & 7);
    let (base, index, sib) = match rm {
        4 => {
            let (scale, index) = (1 << (bytes[1] >> 6), vex.index + usize::from(bytes[1] >> 3 & 7));
            (usize::from(bytes[1] & 7), (index != 4).then_some((index, scale)), 1)
        }
        _ => (usize::from(rm), None, 0),
    };
    let rest = &bytes[1 + sib..];
    let (displacement, size) = match mode {
        0 if base == 5 => return None,
        0 => (0, 0),
        1 => (isize::from(rest[0] as i8), 1),
        _ => (i32::from_le_bytes(*rest.first_chunk()?) as isize, 4),
    };
    Some((Address { base: base + vex.base, index, displacement }, sib + size))
}
