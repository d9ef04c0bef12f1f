#!/usr/bin/env bash
# Builds the C library into dist/, a folder for each target: the archive, the header, the CMake
# package and the licences.
#
#     src/c/release.sh [TARGET...]
#
# FEATURES says what the libraries can run; without it, everything but kernels of certain cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' src/c/Cargo.toml | head -1)
features=${FEATURES:-f32,f16,bf16,q8,q6,q5,q4,nl4,nl3,nfc,convolution,grammar,source}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(
    thumbv6m-none-eabi thumbv7m-none-eabi thumbv7em-none-eabi thumbv7em-none-eabihf
    thumbv8m.main-none-eabi thumbv8m.main-none-eabihf
    riscv32imc-unknown-none-elf riscv32imac-unknown-none-elf riscv32imafc-unknown-none-elf
)

for target in "${targets[@]}"; do
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
    mkdir -p target/dist
    build=target/dist/$target
    package=dist/pocketlm-$version-$target
    rm -rf "$package"
    # No C is compiled, so any compiler will do.
    cmake -S src/c -B "$build" -DPOCKETLM_TARGET="$target" -DPOCKETLM_FEATURES="$features" \
        -DCMAKE_INSTALL_LIBDIR=lib >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
    cmake --build "$build"
    cmake --install "$build" --prefix "$package"
    cp LICENSE-APACHE LICENSE-MIT "$package"
done
