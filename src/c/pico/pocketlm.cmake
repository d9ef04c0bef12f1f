# pocketlm for the Pico SDK: `include(/path/to/pocketlm/src/c/pico/pocketlm.cmake)` after
# pico_sdk_init, then target_link_libraries(NAME pocketlm::pocketlm). Built with SDK 2.2.0, not run.
#
# On the RP2040, pico_float replaces the compiler's routines by those in ROM, which flush subnormal
# numbers: pico_set_float_implementation(NAME compiler), and see plm_floats_are_ieee.
if(PICO_RP2040)
  set(target thumbv6m-none-eabi)
elseif(PICO_RISCV)
  set(target riscv32imac-unknown-none-elf)
else()
  # The SDK passes floating-point numbers in core registers (softfp).
  set(target thumbv8m.main-none-eabi)
endif()
set(POCKETLM_TARGET "${target}" CACHE STRING "" FORCE)
set(POCKETLM_FEATURES "q8" CACHE STRING "")
add_subdirectory("${CMAKE_CURRENT_LIST_DIR}/.." pocketlm)
