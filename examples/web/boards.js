// The boards' table of ../firmware/README.md, story model in q8. A test compares the two.
// @ts-check

export const DIGEST = "d3d093e2e4334eea";

/**
 * The model that this is the digest of. A browser keeps it under this address, so the checksum of
 * the image is a part of it.
 */
export const STORY = "story.plm?67849400";

/** The boards that it was found on, as the table names them, and their cores. */
export const BOARDS = [
  ["mps2_an385_armv6m", "Cortex-M0 (Armv6-M code)"],
  ["mps2_an385", "Cortex-M3"],
  ["mps2_an386", "Cortex-M4F"],
  ["mps2_an386-dsp", "Cortex-M4F, DSP kernels"],
  ["mps2_an500", "Cortex-M7"],
  ["mps2_an521", "two Cortex-M33"],
  ["mps2_an521-dsp", "two Cortex-M33, DSP kernels"],
  ["mps3_an547", "Cortex-M55"],
  ["mps3_an547-mve", "Cortex-M55, Helium kernels"],
  ["virt_riscv32imac", "RV32IMAC"],
  ["virt_riscv32imafc", "RV32IMAFC"],
  ["virt_riscv64gc", "RV64GC"],
  ["virt_riscv64gc-rvv", "RV64GC, vector kernels"],
  ["virt_aarch64", "Cortex-A53"],
  ["wasm32", "WebAssembly in Node"],
];

/** The most stack that any call of pocketlm takes on a board. */
export const STACK_BYTES = 2048;

/**
 * The boards of `pocketlm plan --board`: their names, what they are, and KiB of pocketlm's code, of
 * flash and of RAM. A test compares them with those.
 * @type {[string, string, number, number, number][]}
 */
export const CHIPS = [
  ["pico", "RP2040, Cortex-M0+, 2 MiB flash, 264 KiB RAM", 59, 2048, 264],
  ["pico2", "RP2350, Cortex-M33, 4 MiB flash, 520 KiB RAM", 53, 4096, 520],
  ["nrf52840", "Cortex-M4F, 1 MiB flash, 256 KiB RAM", 53, 1024, 256],
  ["nrf54l15", "Cortex-M33, 1524 KiB RRAM, 256 KiB RAM", 53, 1524, 256],
  ["stm32f411", "Cortex-M4F, 512 KiB flash, 128 KiB RAM", 53, 512, 128],
  ["stm32h743", "Cortex-M7, 2 MiB flash, 512 KiB AXI SRAM", 53, 2048, 512],
  ["stm32u585", "Cortex-M33, 2 MiB flash, 768 KiB RAM", 53, 2048, 768],
  ["esp32c3", "RV32IMC, 4 MiB flash, 400 KiB RAM", 67, 4096, 400],
  ["esp32p4", "RV32IMAFC, 16 MiB flash, 768 KiB RAM", 67, 16384, 768],
];
