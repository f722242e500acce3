//! The emulator against products by hand and every fault of the manual; bodies that release what they configure.

use super::super::amx::Tiles;
use super::super::amx_host;
use super::emulator;
use super::tiles::{Signs, State, TILES};
use crate::config::{Coding, Form};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::cpu::testing::{on, skipped};
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::kernels::records::{Noise, Records};
use crate::kernels::{Arithmetic, Isa, dispatch};
use crate::types::Level;
use half::f16;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const SIGNED: Signs = Signs { first: true, second: true };

/// What `ldtilecfg` reads, for the shapes of the first tiles.
fn config(shapes: &[(usize, usize)]) -> [u8; 64] {
    let mut config = [0; 64];
    config[0] = 1;
    for (tile, (rows, row_bytes)) in shapes.iter().enumerate() {
        config[16 + 2 * tile] = *row_bytes as u8;
        config[48 + tile] = *rows as u8;
    }
    config
}

/// Tiles of these shapes: rows of bytes, or zeros behind them.
fn state(shapes: &[(usize, usize)], data: &[&[&[u8]]]) -> State {
    let mut state = State::RELEASED;
    state.configure(&config(shapes)).unwrap();
    for (tile, rows) in data.iter().enumerate() {
        state.load(tile, 64, |row, to| rows.get(row).into_iter().for_each(|from| to.copy_from_slice(from))).unwrap();
    }
    state
}

/// What a tile stores, row by row.
fn stored(state: &State, tile: usize) -> Vec<Vec<i32>> {
    let rows = std::cell::RefCell::new(vec![]);
    let dwords = |row: &[u8]| row.as_chunks().0.iter().map(|dword| i32::from_le_bytes(*dword)).collect();
    state.store(tile, 64, |_, row| rows.borrow_mut().push(dwords(row))).unwrap();
    rows.into_inner()
}

/// Two rows of eight bytes times two columns: each sum by hand, dword by dword.
#[test]
fn products_are_those_by_hand() {
    let first: [&[u8]; 2] = [&[1, 2, 3, 4, 5, 6, 7, 8], &[0xff, 0x80, 0, 1, 0, 0, 0, 0x7f]];
    // Row k holds bytes 4 k.. of column 0, then of column 1.
    let second: [&[u8]; 2] = [&[1, 1, 1, 1, 0xff, 2, 0xfe, 0], &[2, 0, 0, 1, 0x80, 0x80, 1, 0x81]];
    let shapes = [(2, 8), (2, 8), (2, 8)];
    let sums = |signs| {
        let mut state = state(&shapes, &[&[], &first, &second]);
        state.multiply(signs, 0, 1, 2).unwrap();
        state.multiply(signs, 0, 1, 2).unwrap();
        stored(&state, 0)
    };
    let twice = |rows: [[i32; 2]; 2]| rows.map(|row| row.map(|sum| 2 * sum).to_vec()).to_vec();
    // 1+2+3+4 + 10+8; 1*255+2*2+3*254 + 5*128+6*128+7+8*129. Then 255+128+1 + 127; 255*255+128*2 + 127*129.
    assert_eq!(sums(Signs { first: false, second: false }), twice([[28, 3468], [511, 81664]]));
    // In the second row -1 for 255 and -128 for 128.
    assert_eq!(
        sums(Signs { first: true, second: false }),
        twice([[28, 3468], [-1 - 128 + 1 + 127, -255 - 256 + 16383]])
    );
    // In the second column -1, 2, -2 and -128, -128, 1, -127: -1+4-6 - 640-768+7-1016, and -255+256 - 127*127.
    assert_eq!(sums(Signs { first: false, second: true }), twice([[28, -2420], [511, -255 + 256 - 16129]]));
    assert_eq!(sums(SIGNED), twice([[28, -2420], [-1, 1 - 256 - 16129]]));
}

#[test]
fn loads_fill_a_shape_and_clear_the_rest_and_stores_touch_no_more() {
    let mut state = state(&[(3, 8), (16, 64)], &[]);
    let all: Vec<u8> = (0..=255).collect();
    state.load(0, 16, |row, to| to.copy_from_slice(&all[16 * row..][..to.len()])).unwrap();
    assert_eq!(stored(&state, 0), [[0x03020100, 0x07060504], [0x13121110, 0x17161514], [0x23222120, 0x27262524]]);
    state.zero(0).unwrap();
    assert_eq!(stored(&state, 0), [[0, 0]; 3]);
    assert_eq!(state.saved(), config(&[(3, 8), (16, 64)]));
    state.release();
    assert!(state.zero(0).is_err());
    assert_eq!(state.saved(), [0; 64]);
}

#[test]
fn every_configuration_that_faults_is_refused() {
    let refused = |at: usize, value: u8, why: &str| {
        let mut config = config(&[(16, 64), (1, 4)]);
        config[at] = value;
        let mut state = State::RELEASED;
        let fault = state.configure(&config).unwrap_err();
        assert!(fault.contains(why), "byte {at}: {fault}");
    };
    refused(0, 2, "palette");
    [2, 15, 32, 47, 56, 63].into_iter().for_each(|at| refused(at, 1, "reserved"));
    refused(1, 1, "start");
    refused(16, 65, "too large");
    refused(17, 1, "too large");
    refused(48, 17, "too large");
    refused(49, 0, "bytes of no rows");
    refused(18, 0, "rows of no bytes");
    let mut state = state(&[(16, 64)], &[]);
    assert!(state.configure(&config(&[(16, 64)])).unwrap_err().contains("did not release"));
    // Palette 0 configures none.
    state.release();
    state.configure(&[0; 64]).unwrap();
    assert!(!state.configured());
}

#[test]
fn every_use_of_tiles_that_faults_is_refused() {
    let mut released = State::RELEASED;
    assert!(released.zero(0).unwrap_err().contains("not configured"));
    assert!(released.load(0, 64, |_, _| ()).unwrap_err().contains("not configured"));
    assert!(released.store(0, 64, |_, _| ()).unwrap_err().contains("not configured"));
    assert!(released.multiply(SIGNED, 0, 1, 2).unwrap_err().contains("not configured"));
    let mut some = state(&[(16, 64), (16, 64)], &[]);
    assert!(some.zero(TILES - 1).unwrap_err().contains("no shape"));
    assert!(some.load(0, 63, |_, _| ()).unwrap_err().contains("63 apart"));
    assert!(some.store(1, 0, |_, _| ()).unwrap_err().contains("0 apart"));
    for [sum, first, second] in [[0, 0, 1], [0, 1, 1], [0, 1, 0]] {
        assert!(some.multiply(SIGNED, sum, first, second).unwrap_err().contains("must differ"));
    }
    assert!(some.multiply(SIGNED, 0, 1, 2).unwrap_err().contains("no shape"));
}

#[test]
fn products_of_shapes_that_do_not_fit_are_refused() {
    let product = |shapes: [(usize, usize); 3]| state(&shapes, &[]).multiply(SIGNED, 0, 1, 2);
    // Sums of 3 rows and 5 dwords: 3 rows of 2 dwords times 2 rows of 5 dwords.
    product([(3, 20), (3, 8), (2, 20)]).unwrap();
    for shapes in [[(2, 20), (3, 8), (2, 20)], [(3, 16), (3, 8), (2, 20)], [(3, 20), (3, 8), (3, 20)]] {
        assert!(product(shapes).unwrap_err().contains("do not fit"), "{shapes:?}");
    }
    for shapes in [[(3, 21), (3, 8), (2, 21)], [(3, 20), (3, 9), (2, 20)], [(3, 20), (3, 8), (2, 22)]] {
        assert!(product(shapes).unwrap_err().contains("whole dwords"), "{shapes:?}");
    }
}

/// Where the kernels' other needs are met an emulator gives the tiles, so that nothing skips them unseen.
fn amx() -> Option<Isa> {
    let named = |name: &str| Isa::available().into_iter().find(|isa| isa.name() == name);
    if named("avx512vnni").is_none() {
        skipped("kernels for amx: this machine has no AVX-512 VNNI, which they need beside tiles");
        return None;
    }
    let found = named("amx");
    assert!(found.is_some(), "{:?}", amx_host::refused().map(|refusal| &refusal.why));
    found
}

/// Whether this thread has tiles configured, by what the processor (or its emulator) stores: zeros where not.
fn configured() -> bool {
    let mut config = [0u8; 64];
    // SAFETY: tiles are there wherever the kernels for them are; it writes these 64 bytes.
    unsafe { std::arch::asm!("sttilecfg [{}]", in(reg) &mut config, options(nostack, preserves_flags)) };
    config[0] != 0
}

#[test]
fn what_is_configured_is_seen_and_released_at_the_end() {
    if amx().is_none() {
        return;
    }
    // SAFETY: the machine has tiles or an emulator of them; this thread has none configured.
    let tiles = unsafe { Tiles::configure() };
    assert!(configured());
    drop(tiles);
    assert!(!configured());
}

/// A product of many columns, on this thread.
fn product(isa: Isa) {
    let coding = Coding { form: Form::Affine, group: 64, cells: [1; 3] };
    let records = Records::new(coding, Level::L8, 100, 20, (0, 0)).random(&mut Noise(2), |_| f16::ONE);
    let (cpu, rows) = (on(1, isa, Arithmetic::Integer), records.rows());
    cpu.run(|| {
        let inputs = Inputs::new(&cpu, &[0.5; 1700], 100, &[Level::L8]);
        let mut dots = Panel::new(20, 17);
        project(&cpu, &rows, &inputs, &mut dots);
        ChunkSum::new(17, 100).add(&cpu, &rows, &dots, 1);
        assert!(!configured());
    });
}

#[test]
fn threads_leave_no_tiles_configured() {
    amx().into_iter().for_each(product);
}

#[test]
fn few_columns_leave_tiles_alone() {
    let Some(isa) = amx() else { return };
    assert_eq!([1, 2, 7, 8, 9, 512].map(|n| dispatch::by_sixteen(isa, n)), [false, false, false, true, true, true]);
    assert!(Isa::available().into_iter().filter(|other| *other != isa).all(|other| !dispatch::by_sixteen(other, 512)));
}

/// In a process of its own, which this test is again: what is no instruction of tiles ends it, and says what it was.
#[test]
fn other_illegal_instructions_end_the_process() {
    const WHICH: &str = "M2CACHE_TEST_ILLEGAL";
    if std::env::var_os(WHICH).is_some() {
        emulator::install();
        // SAFETY: never comes back.
        unsafe { std::arch::asm!("ud2") };
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut again = Command::new(std::env::current_exe().unwrap());
    let ended = again.args(["--exact", &name, "--nocapture"]).env(WHICH, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("an illegal instruction that is none of AMX in int8: [0f, 0b"), "{said}");
}
