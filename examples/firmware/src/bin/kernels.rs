#![no_std]
#![no_main]
//! Runs the suite of the kernels on the board, every kernel set against the naive loops, and counts
//! what products cost: instructions per multiply-add, tenths of a thousandth.

use core::arch::asm;
use core::hint::black_box;

use linked_list_allocator::LockedHeap;
use pocketlm_firmware::board::{self, Clock, eprintln, println};
use pocketlm_kernels::{DType, Input, InputGroup, Isa, Matrix, RowsMut};

#[path = "../../../../kernels/tests/naive.rs"]
mod naive;

/// The suite allocates; nothing of the library does.
#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

pocketlm_firmware::entry!(kernels, 2 << 20);

fn kernels(memory: &'static mut [u8]) -> bool {
    // SAFETY: the memory is the program's alone, for as long as it runs, and this is the one call.
    unsafe { HEAP.lock().init(memory.as_mut_ptr(), memory.len()) };
    for (name, test) in naive::SUITE {
        test();
        println!("{name}: ok");
    }
    counts_instructions();
    for isa in Isa::available() {
        for dtype in DType::ALL {
            println!("cost {} {} {}", isa.name(), dtype.name(), cost(isa, dtype));
        }
    }
    true
}

/// What is counted below is instructions: of a loop of two, a million are told as two million.
fn counts_instructions() {
    const TURNS: u32 = 1_000_000;
    let clock = Clock::start();
    // SAFETY: these change registers only.
    unsafe {
        #[cfg(target_arch = "arm")]
        asm!("2: subs {0}, {0}, #1", "bne 2b", inout(reg) TURNS => _, options(nomem, nostack));
        #[cfg(target_arch = "aarch64")]
        asm!("2: subs {0:w}, {0:w}, #1", "b.ne 2b", inout(reg) TURNS => _, options(nomem, nostack));
        #[cfg(any(target_arch = "riscv32", target_arch = "riscv64"))]
        asm!(
            "2: addi {0}, {0}, -1", "bnez {0}, 2b",
            inout(reg) TURNS => _, options(nomem, nostack),
        );
    }
    let counted = clock.instructions();
    assert!(counted.abs_diff(2 * u64::from(TURNS)) < 200, "{counted}");
}

/// Instructions per 10,000 multiply-adds of a product of 64 × 256 with one input.
fn cost(isa: &Isa, dtype: DType) -> u64 {
    const ROWS: usize = 64;
    const COLUMNS: usize = 256;
    let words = vec![0x3001_3001_u32; dtype.matrix_bytes(ROWS, COLUMNS).unwrap() / 4];
    let matrix = Matrix::new(dtype, ROWS, COLUMNS, bytemuck::cast_slice(&words)).unwrap();
    let values: [f32; COLUMNS] = core::array::from_fn(|i| (i % 17) as f32 / 9.0 - 1.0);
    let mut groups: [InputGroup; COLUMNS / 32] = bytemuck::Zeroable::zeroed();
    isa.quantize(&values, &mut groups);
    let mut out = [0.0; ROWS];
    let input = Input {
        count: 1,
        values: &values,
        groups: &groups,
        tiles: &[],
    };
    let clock = Clock::start();
    for _ in 0..10 {
        let mut out = RowsMut::all(&mut out, ROWS);
        isa.matmul(
            black_box(&matrix),
            black_box(&input),
            0..matrix.tile_rows(),
            &mut out,
        );
    }
    clock.instructions() * 1000 / (ROWS * COLUMNS) as u64
}

extern crate alloc;
use alloc::vec;

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
