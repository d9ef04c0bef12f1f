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
