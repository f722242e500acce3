//! Which instruction set the plane kernels run on. All give the same bits: wider sets only do more at a time.

#[cfg(target_arch = "x86_64")]
use super::x86::amx_host;
use crate::error::{Error, Result};

/// The environment variable that forces a set.
const VARIABLE: &str = "M2CACHE_ISA";

/// An instruction set this machine has: a value other than `Portable` is the proof, since only detection makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Set);

/// The sets that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// What the target guarantees.
    Portable,
    /// 256-bit registers with fused multiply-add.
    Avx2,
    /// 512-bit registers with byte and word operations.
    Avx512,
    /// The same with dots of bytes.
    Avx512Vnni,
    /// The same with tiles of int8, for many columns.
    Amx,
}

/// All of them, narrowest first.
const SETS: [Set; 5] = [Set::Portable, Set::Avx2, Set::Avx512, Set::Avx512Vnni, Set::Amx];

impl Isa {
    /// The baseline, everywhere.
    pub const PORTABLE: Isa = Isa(Set::Portable);

    /// The widest set of this machine.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::PORTABLE)
    }

    /// The set that `M2CACHE_ISA` names, else the widest.
    ///
    /// # Errors
    /// `Error::Usage` for a name that is unknown or not of this machine.
    pub fn chosen() -> Result<Isa> {
        match std::env::var_os(VARIABLE) {
            Some(name) => Isa::named(&name.to_string_lossy()),
            None => Ok(Isa::detect()),
        }
    }

    /// Looks for nothing wider than what is named: who forces a narrower set does not touch tiles.
    fn named(name: &str) -> Result<Isa> {
        let named = SETS.into_iter().map(Isa).find(|isa| isa.name() == name);
        named.filter(|isa| has(isa.set())).ok_or_else(|| {
            let names = Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>().join(", ");
            Error::usage(format!("{VARIABLE} is {name:?}; this machine has {names}. Unset it for the widest"))
        })
    }

    /// All sets of this machine, narrowest first.
    pub fn available() -> Vec<Isa> {
        SETS.into_iter().filter(|set| has(*set)).map(Isa).collect()
    }

    /// Where the processor has a wider set that cannot be used: why, and what to do about it. None where a set is forced.
    pub fn refused() -> Option<(&'static str, &'static str)> {
        let none_forced = std::env::var_os(VARIABLE).is_none();
        (none_forced && has(Set::Avx512Vnni)).then(tiles_refused).flatten()
    }

    /// Its name: `portable`, `avx2`, `avx512`, `avx512vnni`, `amx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            Set::Avx2 => "avx2",
            Set::Avx512 => "avx512",
            Set::Avx512Vnni => "avx512vnni",
            Set::Amx => "amx",
        }
    }

    pub(super) fn set(self) -> Set {
        self.0
    }
}

/// Whether this machine has a set. Each includes those before it.
#[cfg(target_arch = "x86_64")]
fn has(set: Set) -> bool {
    match set {
        Set::Portable => true,
        Set::Avx2 => {
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
        }
        Set::Avx512 => {
            has(Set::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
        }
        Set::Avx512Vnni => has(Set::Avx512) && is_x86_feature_detected!("avx512vnni"),
        Set::Amx => has(Set::Avx512Vnni) && amx_host::usable(),
    }
}

#[cfg(target_arch = "x86_64")]
fn tiles_refused() -> Option<(&'static str, &'static str)> {
    amx_host::refused().map(|refusal| (refusal.why.as_str(), refusal.remedy))
}

#[cfg(not(target_arch = "x86_64"))]
fn tiles_refused() -> Option<(&'static str, &'static str)> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn has(set: Set) -> bool {
    set == Set::Portable
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_available_set_is_found_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()).unwrap(), isa);
        }
    }

    #[test]
    fn a_set_that_is_not_there_is_refused_with_those_that_are() {
        let why = Isa::named("neon9").unwrap_err().to_string();
        assert!(why.contains("neon9") && why.contains("portable"), "{why}");
    }
}
