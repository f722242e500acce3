//! Tiles of AMX: eight registers of sixteen rows of 64 bytes, and products of bytes with exact sums in i32.
//!
//! Every tile is whole here: what a shape lacks is filled with zeros, or with anything that meets zeros. The bytes of a
//! product's first operand lie row by row; of its second, a row holds four of each of sixteen columns.

use super::product::Packed;
use std::arch::asm;
use std::marker::PhantomData;

/// Columns (activations or factors) from which tiles are used. By the counts in benches/NOTES.md a task then takes 0.6 of
/// the cycles of AVX-512 VNNI; at 5 to 7 it would gain as well, but less, and what memory takes hides it.
pub const FEWEST: usize = 8;

/// Rows of a tile, and dwords of a row.
pub const ROWS: usize = 16;

/// A tile of bytes.
pub type Bytes<T> = [[T; 64]; ROWS];

/// A tile of sums. Lines of the cache, since a row that straddles two costs twice.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Ints(pub [[i32; ROWS]; ROWS]);

impl Ints {
    pub const ZERO: Ints = Ints([[0; ROWS]; ROWS]);
}

/// Factors of sixteen columns for 64 records, in two bytes: `256 * high + low`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Words {
    pub high: Bytes<i8>,
    pub low: Bytes<u8>,
}

/// Codes of 64 records: sixteen weights in each of four tiles.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Codes(pub [Bytes<u8>; 4]);

/// Sums of `high` and `low` apart, of two times sixteen weights.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Halves {
    pub high: [Ints; 2],
    pub low: [Ints; 2],
}

impl Halves {
    pub const ZERO: Halves = Halves { high: [Ints::ZERO; 2], low: [Ints::ZERO; 2] };
}

/// What `ldtilecfg` reads: palette 1, all eight tiles whole.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const WHOLE: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

const _: () = assert!(size_of::<Config>() == 64 && size_of::<Words>() == 2048 && size_of::<Codes>() == 4096);

/// The tiles of this thread, as long as they are configured: while they are, every switch of tasks keeps 8 KiB more, and the
/// core does not sleep deeply. No value crosses from one product to the next in them, since the compiler knows of none.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Configures them for products of whole tiles.
    ///
    /// # Safety
    /// The machine has tiles of int8 and this process may use them ([`super::amx_host`]); this thread has none configured.
    pub unsafe fn configure() -> Tiles {
        // SAFETY: the caller says that the instruction is there; it reads the 64 bytes of a constant that it accepts.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                config = in(reg) &WHOLE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
        Tiles(PhantomData)
    }

    /// Exact dots of sixteen columns, 64 activations each, with 64 codes of the records in two micropanels' lanes:
    /// `[micropanel][column][record]`.
    #[inline]
    pub fn dots(&self, columns: &Bytes<i8>, codes: &[Packed<2>; ROWS], out: &mut [Ints; 2]) {
        // SAFETY: `self` says that all tiles are whole, so that a load reads, and a store writes, sixteen rows of 64 bytes:
        // rows of `columns` and `out` lie 64 bytes apart, those of a micropanel's codes 128.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{columns} + 1*{row}]",
                "tileloadd tmm6, [{codes} + 2*{row}]",
                "tileloadd tmm7, [{codes} + 2*{row} + 64]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tdpbsud tmm1, tmm4, tmm7",
                "tilestored [{out} + 1*{row}], tmm0",
                "tilestored [{out} + 1*{row} + 1024], tmm1",
                columns = in(reg) columns,
                codes = in(reg) codes,
                out = in(reg) out,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags)
            );
        }
    }

    /// Exact sums over records of factors times codes, for sixteen columns and the codes' tiles `2 * half` and the next:
    /// `[tile][column][weight]` of both halves of the factors.
    ///
    /// # Panics
    /// Without records, or if there are factors or codes of fewer than the others.
    #[inline]
    pub fn sums(&self, factors: &[Words], codes: &[Codes], half: usize, out: &mut Halves) {
        assert!(!factors.is_empty() && factors.len() == codes.len() && half < 2, "products of no whole tiles");
        // SAFETY: as in `dots`; the loop steps through `depth` factors and as many codes, checked above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{factors} + 1*{row}]",
                "tileloadd tmm5, [{factors} + 1*{row} + 1024]",
                "tileloadd tmm6, [{codes} + 1*{row}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tdpbuud tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{codes} + 1*{row} + 1024]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tdpbuud tmm3, tmm5, tmm7",
                "add {factors}, 2048",
                "add {codes}, 4096",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{out} + 1*{row}], tmm0",
                "tilestored [{out} + 1*{row} + 1024], tmm1",
                "tilestored [{out} + 1*{row} + 2048], tmm2",
                "tilestored [{out} + 1*{row} + 3072], tmm3",
                factors = inout(reg) factors.as_ptr() => _,
                codes = inout(reg) codes.as_ptr().cast::<u8>().wrapping_add(2048 * half) => _,
                depth = inout(reg) factors.len() => _,
                out = in(reg) out,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever configured tiles may release them.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}
