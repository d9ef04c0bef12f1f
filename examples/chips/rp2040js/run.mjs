// Runs a program for the RP2040 in the emulator rp2040js:
//
//     node run.mjs PROGRAM REQUEST...
//
// What the program writes to its serial line goes to stdout. Each request is sent after a prompt.
// The end says how many cycles the emulator counted, and what happened to pins.

import { readFileSync } from 'node:fs'
import { RP2040 } from 'rp2040js'

const FLASH = 0x10000000
const NANOSECONDS_A_CYCLE = 8 // 125 MHz
const LED = 25

const [program, ...requests] = process.argv.slice(2)
const chip = new RP2040()
load(readFileSync(program))
complete(chip)

// What is to be sent, and the end of what was written.
let input = []
let written = ''
let toggles = 0
chip.gpio[LED].addListener(() => (toggles += 1))
chip.uart[0].onByte = (byte) => {
  const character = String.fromCharCode(byte)
  process.stdout.write(character)
  written = (written + character).slice(-3)
  if (written !== '> ' && written !== '\n> ') return
  const request = requests.shift()
  if (request === undefined) end()
  input = [...Buffer.from(request + '\r')]
}

// There is no boot ROM. What it does for this program is to run the first 256 bytes of flash.
chip.core.SP = 0x20041f00
chip.core.PC = FLASH
for (;;) {
  for (let i = 0; i < 10000; i++) {
    if (chip.core.waiting) {
      chip.clock.tick(chip.clock.nanosToNextAlarm)
    } else {
      chip.clock.tick(chip.core.executeInstruction() * NANOSECONDS_A_CYCLE)
    }
  }
  if (input.length > 0) chip.uart[0].feedByte(input.shift())
}

// Puts what the program has in flash there.
function load(elf) {
  const segments = elf.readUInt32LE(28)
  for (let i = 0; i < elf.readUInt16LE(44); i++) {
    const segment = segments + 32 * i
    const [type, offset, , address, size] = [0, 1, 2, 3, 4].map((word) =>
      elf.readUInt32LE(segment + 4 * word),
    )
    if (type === 1 && size > 0) chip.flash.set(elf.subarray(offset, offset + size), address - FLASH)
  }
}

// What the emulator lacks: the instruction SEV, which it only logs; the register UARTDMACR; and
// that the transmit interrupt rises when the buffer drains and can be cleared.
function complete(chip) {
  chip.logger = {
    debug() {},
    warn() {},
    error: (component, message) => console.error(component, message),
    info(_, message) {
      if (message === 'SEV') chip.core.eventRegistered = true
    },
  }
  const [UARTDR, UARTDMACR, TRANSMIT] = [0x00, 0x48, 1 << 5]
  const uart = chip.uart[0]
  const { readUint32, writeUint32 } = uart
  uart.checkInterrupts = () =>
    chip.setInterrupt(uart.irq, (uart.interruptStatus & uart.interruptMask) !== 0)
  uart.readUint32 = (offset) => (offset === UARTDMACR ? 0 : readUint32.call(uart, offset))
  uart.writeUint32 = (offset, value) => {
    writeUint32.call(uart, offset, value)
    if (offset === UARTDR) uart.interruptStatus |= TRANSMIT
    uart.checkInterrupts()
  }
}

function end() {
  const high = chip.gpio.flatMap((pin, number) => (number !== LED && pin.value === 1 ? number : []))
  console.log(`\ncycles ${chip.core.cycles}`)
  console.log(`toggles ${toggles}`)
  console.log(`high ${high.join(' ')}`)
  process.exit(0)
}
