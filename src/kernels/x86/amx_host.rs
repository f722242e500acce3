//! Whether tiles of int8 may be used here: the processor has them, the kernel keeps their state and lets this process use
//! them, and a product comes out right. Asked once a process.

use super::amx::{Bytes, Codes, Halves, Ints, ROWS, Tiles, Words};
use super::product::Packed;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::LazyLock;

/// In EDX of CPUID leaf 7: tiles, and products of bytes in them.
const TILES_OF_BYTES: u32 = 1 << 24 | 1 << 25;

/// In XCR0: what is configured, and what tiles hold.
const KEPT: u64 = 1 << 17 | 1 << 18;

/// `arch_prctl`: asks for a part of the state that is not given to everyone; the second is what tiles hold.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// What was found.
enum Host {
    Usable,
    /// The processor has none.
    Without,
    /// They are there, but not for us.
    Refused(Refusal),
}

/// Why, and what to do about it.
pub struct Refusal {
    pub why: String,
    pub remedy: &'static str,
}

const NEWER_KERNEL: &str = "Linux 5.16 or newer; in a container or sandbox, one that lets arch_prctl through";
const BROKEN: &str = "Tell who makes the processor or the hypervisor; M2CACHE_ISA=avx512vnni leaves tiles alone";

static HOST: LazyLock<Host> = LazyLock::new(found);

/// Whether bodies for tiles may run. AVX-512 is there.
pub fn usable() -> bool {
    matches!(*HOST, Host::Usable)
}

/// Why tiles that the processor has are not used. AVX-512 is there.
pub fn refused() -> Option<&'static Refusal> {
    match &*HOST {
        Host::Refused(refusal) => Some(refusal),
        Host::Usable | Host::Without => None,
    }
}

/// What the machine has: in tests, whatever it has, tiles that at least an emulator gives.
fn found() -> Host {
    let host = asked();
    #[cfg(test)]
    if !matches!(host, Host::Usable) {
        super::tests::emulator::install();
        return checked();
    }
    host
}

fn asked() -> Host {
    judged(features(), kept_by_the_system(), permission)
}

/// By what the processor has, what the kernel keeps, and then, whether it lets us.
fn judged(features: u32, state: u64, permission: impl FnOnce() -> std::io::Result<()>) -> Host {
    if features & TILES_OF_BYTES != TILES_OF_BYTES {
        return Host::Without;
    }
    if state & KEPT != KEPT {
        return refusal(format!("the kernel does not keep what tiles hold (XCR0 is {state:#x})"), NEWER_KERNEL);
    }
    match permission() {
        Ok(()) => checked(),
        Err(why) => refusal(format!("the kernel does not let this process use tiles ({why})"), NEWER_KERNEL),
    }
}

fn refusal(why: String, remedy: &'static str) -> Host {
    Host::Refused(Refusal { why, remedy })
}

/// EDX of leaf 7.
fn features() -> u32 {
    // SAFETY: leaf 7 is there wherever AVX-512 is. Newer compilers know that the instruction is safe.
    #[allow(unused_unsafe)]
    unsafe {
        __cpuid_count(7, 0).edx
    }
}

fn kept_by_the_system() -> u64 {
    // SAFETY: AVX-512 was detected, which needs this instruction.
    unsafe { _xgetbv(0) }
}

/// For all threads of this process, those that come later too.
fn permission() -> std::io::Result<()> {
    // SAFETY: takes two numbers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Both products by tiles against the same in plain integers: a processor or hypervisor with a fault changes no answer.
fn checked() -> Host {
    // SAFETY: the features are there, and the kernel's permission; no body is running on this thread.
    let tiles = unsafe { Tiles::configure() };
    match dots_are_right(&tiles) && sums_are_right(&tiles) {
        true => Host::Usable,
        false => refusal("a product by tiles differs from the same product without them".into(), BROKEN),
    }
}

/// Bytes of every size and sign.
fn byte(i: usize) -> u8 {
    (i.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

fn dots_are_right(tiles: &Tiles) -> bool {
    let columns: Bytes<i8> = std::array::from_fn(|n| std::array::from_fn(|k| byte(64 * n + k) as i8));
    let packed = |k: usize| std::array::from_fn(|m| std::array::from_fn(|i| byte(4096 + 128 * k + 64 * m + i)));
    let codes: [Packed<2>; ROWS] = std::array::from_fn(packed);
    let (mut have, mut want) = ([Ints::ZERO; 2], [Ints::ZERO; 2]);
    tiles.dots(&columns, &codes, &mut have);
    for (m, want) in want.iter_mut().enumerate() {
        let code = |k: usize, r: usize| i32::from(codes[k / 4][m][4 * r + k % 4]);
        let dot = |n: usize, r: usize| (0..64).map(|k| i32::from(columns[n][k]) * code(k, r)).sum();
        *want = Ints(std::array::from_fn(|n| std::array::from_fn(|r| dot(n, r))));
    }
    have == want
}

fn sums_are_right(tiles: &Tiles) -> bool {
    const DEPTH: usize = 2;
    let factors: [Words; DEPTH] = std::array::from_fn(|d| Words {
        high: std::array::from_fn(|n| std::array::from_fn(|k| byte(1024 * d + 64 * n + k) as i8)),
        low: std::array::from_fn(|n| std::array::from_fn(|k| byte(8192 + 1024 * d + 64 * n + k))),
    });
    let tile =
        |d: usize, t: usize| std::array::from_fn(|q| std::array::from_fn(|i| byte(4096 * d + 1024 * t + 64 * q + i)));
    let codes: [Codes; DEPTH] = std::array::from_fn(|d| Codes(std::array::from_fn(|t| tile(d, t))));
    (0..2).all(|half| {
        let (mut have, mut want) = (Halves::ZERO, Halves::ZERO);
        tiles.sums(&factors, &codes, half, &mut have);
        for t in 0..2 {
            let code = |d: usize, k: usize, i: usize| i32::from(codes[d].0[2 * half + t][k / 4][4 * i + k % 4]);
            let sum = |factor: &dyn Fn(usize, usize) -> i32, i: usize| {
                (0..DEPTH * 64).map(|k| factor(k / 64, k % 64) * code(k / 64, k % 64, i)).sum()
            };
            let high = |n: usize| move |d: usize, k: usize| i32::from(factors[d].high[n][k]);
            let low = |n: usize| move |d: usize, k: usize| i32::from(factors[d].low[n][k]);
            want.high[t] = Ints(std::array::from_fn(|n| std::array::from_fn(|i| sum(&high(n), i))));
            want.low[t] = Ints(std::array::from_fn(|n| std::array::from_fn(|i| sum(&low(n), i))));
        }
        have == want
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    fn why(host: Host) -> Option<String> {
        match host {
            Host::Refused(refusal) => Some(refusal.why),
            Host::Usable | Host::Without => None,
        }
    }

    #[test]
    fn a_processor_without_tiles_of_bytes_is_asked_nothing_more() {
        for features in [0, 1 << 24, 1 << 25, !TILES_OF_BYTES] {
            let host = judged(features, KEPT, || panic!("asked for permission"));
            assert!(matches!(host, Host::Without), "{features:#x}");
        }
    }

    #[test]
    fn tiles_that_the_kernel_does_not_keep_or_give_are_refused_with_the_reason() {
        for state in [0, 1 << 17, 1 << 18, 0xe7] {
            let host = judged(TILES_OF_BYTES, state, || panic!("asked for permission"));
            assert!(why(host).unwrap().contains(&format!("XCR0 is {state:#x}")));
        }
        let host = judged(TILES_OF_BYTES, KEPT, || Err(Error::new(ErrorKind::PermissionDenied, "not here")));
        assert!(why(host).unwrap().contains("does not let this process use tiles (not here)"));
    }
}
