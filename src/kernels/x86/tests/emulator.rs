//! Instructions that this machine lacks, done in their trap: a handler of SIGILL that knows those of AMX in int8 and ends
//! the process at any other, and at every fault of theirs.

use super::decode::{Address, Instruction, LONGEST, Operation, decode};
use super::tiles::{Fault, State};
use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::RELEASED) };
}

/// The registers of the context by their numbers in encodings.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Emulates tiles on all threads from here on.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_illegal;
        // SAFETY: an all-zero action is one without flags and masks; the handler has the signature that SA_SIGINFO names.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
        };
        assert_eq!(done, 0, "no handler of SIGILL: {}", std::io::Error::last_os_error());
    });
}

/// Does the instruction and goes on behind it. It was met in code of ours, not amidst an allocation or a borrow of
/// `STATE`, so that both are free.
extern "C" fn on_illegal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the context of the thread, for as long as it runs.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let code = registers[libc::REG_RIP as usize] as *const [u8; LONGEST];
    // SAFETY: code that just ran; behind the last instruction of a program lies more of it.
    let bytes = unsafe { code.read_unaligned() };
    let Some(Instruction { operation, bytes: length }) = decode(&bytes) else {
        end(&format!("an illegal instruction that is none of AMX in int8: {bytes:02x?}"));
    };
    let registers_before = REGISTERS.map(|register| registers[register as usize] as usize);
    match STATE.with_borrow_mut(|state| run(state, operation, &registers_before)) {
        Ok(()) => registers[libc::REG_RIP as usize] += length as i64,
        Err(fault) => end(&format!("{operation:?} faults: {fault}")),
    }
}

fn run(state: &mut State, operation: Operation, registers: &[usize; 16]) -> Result<(), Fault> {
    match operation {
        // SAFETY: the memory that the instruction would read.
        Operation::Configure(at) => state.configure(unsafe { &*(whole(&at, registers) as *const [u8; 64]) }),
        Operation::Save(at) => {
            let to = whole(&at, registers) as *mut [u8; 64];
            // SAFETY: the memory that the instruction would write.
            unsafe { to.write_unaligned(state.saved()) };
            Ok(())
        }
        Operation::Release => {
            state.release();
            Ok(())
        }
        Operation::Zero(tile) => state.zero(tile),
        Operation::Load(tile, at) => {
            let (first, stride) = strided(&at, registers);
            state.load(tile, stride, |row, to| {
                let from = first.wrapping_add(row * stride) as *const u8;
                // SAFETY: the memory that the instruction would read.
                unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) }
            })
        }
        Operation::Store(at, tile) => {
            let (first, stride) = strided(&at, registers);
            state.store(tile, stride, |row, from| {
                let to = first.wrapping_add(row * stride) as *mut u8;
                // SAFETY: the memory that the instruction would write.
                unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
            })
        }
        Operation::Multiply(signs, [sum, first, second]) => state.multiply(signs, sum, first, second),
    }
}

/// An address with its index.
fn whole(at: &Address, registers: &[usize; 16]) -> usize {
    let (first, stride) = strided(at, registers);
    first.wrapping_add(stride)
}

/// The first row's address, and the bytes from row to row.
fn strided(at: &Address, registers: &[usize; 16]) -> (usize, usize) {
    let stride = at.index.map_or(0, |(index, scale)| registers[index].wrapping_mul(scale));
    (registers[at.base].wrapping_add_signed(at.displacement), stride)
}

/// Says why and ends the process: there is nothing to return to.
fn end(why: &str) -> ! {
    let message = format!("emulator of AMX: {why}\n");
    // SAFETY: a write of bytes that live across the call; it may run in a handler of signals.
    unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    std::process::abort();
}
