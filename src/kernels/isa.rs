//! Which instruction set the plane kernels run on. All give the same bits: wider sets only do more at a time.

/// An instruction set this machine has: a value other than `Portable` is the proof, since only detection makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

/// The sets that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// What the target guarantees.
    Portable,
    /// 256-bit registers.
    Avx2,
    /// 512-bit registers with byte and word operations.
    Avx512,
}

impl Isa {
    /// The baseline, everywhere.
    pub const PORTABLE: Isa = Isa(Kind::Portable);

    /// The widest set of this machine.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::PORTABLE)
    }

    /// All sets of this machine, narrowest first.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Isa(Kind::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Isa(Kind::Avx512));
            }
        }
        all
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            Kind::Avx2 => "avx2",
            Kind::Avx512 => "avx512",
        }
    }

    pub(super) fn kind(self) -> Kind {
        self.0
    }
}
