//! Boards that `pocketlm plan --board` knows.

use clap::builder::{PossibleValuesParser, TypedValueParser};

/// An instruction set, and the size of pocketlm's core on it.
pub struct Core {
    /// Its usual name.
    pub name: &'static str,
    /// Bytes of code and constants of the whole core, tokenizer and sampler included, with every
    /// weight type, optimised for size: the limit that `tests/firmware/proofs.rs` holds it to.
    pub code: u64,
}

const ARMV6M: Core = Core {
    name: "Armv6-M",
    code: 59 << 10,
};
const ARMV7EM: Core = Core {
    name: "Armv7E-M",
    code: 53 << 10,
};
const ARMV8M: Core = Core {
    name: "Armv8-M",
    code: 53 << 10,
};
const RV32IMAC: Core = Core {
    name: "RV32IMAC",
    code: 67 << 10,
};
const RV32IMAFC: Core = Core {
    name: "RV32IMAFC",
    code: 67 << 10,
};

/// The most stack that any call of the core takes, on any board: what `tests/firmware` asserts.
pub const STACK: u64 = 2048;

/// A chip on a board. Memory as the vendor states it: flash that is read in place, and on-chip RAM.
pub struct Board {
    pub name: &'static str,
    about: &'static str,
    pub core: Core,
    pub flash: u64,
    pub ram: u64,
}

const BOARDS: [Board; 9] = [
    Board {
        name: "pico",
        about: "RP2040, Cortex-M0+, 2 MiB flash, 264 KiB RAM",
        core: ARMV6M,
        flash: 2 << 20,
        ram: 264 << 10,
    },
    Board {
        name: "pico2",
        about: "RP2350, Cortex-M33, 4 MiB flash, 520 KiB RAM",
        core: ARMV8M,
        flash: 4 << 20,
        ram: 520 << 10,
    },
    Board {
        name: "nrf52840",
        about: "Cortex-M4F, 1 MiB flash, 256 KiB RAM",
        core: ARMV7EM,
        flash: 1 << 20,
        ram: 256 << 10,
    },
    Board {
        name: "nrf54l15",
        about: "Cortex-M33, 1524 KiB RRAM, 256 KiB RAM",
        core: ARMV8M,
        flash: 1524 << 10,
        ram: 256 << 10,
    },
    Board {
        name: "stm32f411",
        about: "Cortex-M4F, 512 KiB flash, 128 KiB RAM",
        core: ARMV7EM,
        flash: 512 << 10,
        ram: 128 << 10,
    },
    Board {
        name: "stm32h743",
        about: "Cortex-M7, 2 MiB flash, 512 KiB AXI SRAM",
        core: ARMV7EM,
        flash: 2 << 20,
        ram: 512 << 10,
    },
    Board {
        name: "stm32u585",
        about: "Cortex-M33, 2 MiB flash, 768 KiB RAM",
        core: ARMV8M,
        flash: 2 << 20,
        ram: 768 << 10,
    },
    Board {
        name: "esp32c3",
        about: "RV32IMC, 4 MiB flash, 400 KiB RAM",
        core: RV32IMAC,
        flash: 4 << 20,
        ram: 400 << 10,
    },
    Board {
        name: "esp32p4",
        about: "RV32IMAFC, 16 MiB flash, 768 KiB RAM",
        core: RV32IMAFC,
        flash: 16 << 20,
        ram: 768 << 10,
    },
];

/// Parses the name of a board.
pub fn parser() -> impl TypedValueParser<Value = &'static Board> {
    let names = BOARDS
        .iter()
        .map(|board| clap::builder::PossibleValue::new(board.name).help(board.about));
    PossibleValuesParser::new(names).map(|name| {
        BOARDS
            .iter()
            .find(|board| board.name == name)
            .expect("one of the names")
    })
}
