//! The one allocator: page-aligned slabs cut into slots, and leases that say who may touch a slot.

mod arena;
mod slab;

pub use arena::{Arena, PAGE, PIECE, ReadLease, Run, SlotId, WriteLease};
