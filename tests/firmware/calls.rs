//! Who calls whom in a linked program, read from its instructions: the proof that nothing recurses,
//! whatever the compiler made of the sources, its own library of arithmetic included.

use std::collections::{BTreeMap, BTreeSet};

use object::{Architecture, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// What is called through a pointer: the vtables of `dyn WeightSource`, of what a session does
/// while one reads and of what takes and gives a snapshot's bytes; of `dyn Workers` and of the jobs
/// that `kernels/src/workers.rs` gives them; the table of kernels; and what a generation hands text
/// and logits to. Each level calls through
/// pointers only what stands below it, for the types of the pointers are different ones; anything
/// else calls all of them. A function is at the first level whose words are all in its name.
const LEVELS: [(&str, &[&str]); 11] = [
    ("reads weights", &["WeightSource"]),
    (
        "works while weights are read",
        &["streamed", "read_while", "closure"],
    ),
    ("computes with what was read", &["streamed", "closure"]),
    ("takes a snapshot", &["proof", "storage", "closure"]),
    ("gives a snapshot", &["restore_from", "closure"]),
    ("gives a snapshot from memory", &["source_of", "closure"]),
    ("the cores", &["Workers", "run"]),
    (
        "claims pieces and computes them",
        &["for_each_part", "closure"],
    ),
    ("kernels", &["pocketlm_kernels"]),
    (
        "takes text, or looks at logits",
        &["proof", "run", "closure"],
    ),
    // The slot of a closure's vtable for calls that consume it, which no `&dyn Fn` makes.
    ("never called", &["call_once"]),
];

fn level(name: &str) -> Option<usize> {
    LEVELS
        .iter()
        .position(|(_, words)| words.iter().all(|word| name.contains(word)))
}

/// A function of the program.
struct Function {
    name: String,
    start: u64,
    end: u64,
    /// Starts of the functions it calls or goes on in.
    callees: Vec<u64>,
    calls_pointers: bool,
}

/// A function by its start, and the deepest level it was reached through.
type Node = (u64, Option<usize>);

/// What an instruction does to the flow of control.
enum Flow {
    Call(u64),
    Jump(u64),
    Pointer,
}

/// The recursive calls of a program, none if all is well, and how many functions and calls were
/// looked at.
pub fn recursion(elf: &[u8]) -> (Vec<String>, usize, usize) {
    let elf = object::File::parse(elf).unwrap();
    let functions = functions(&elf);
    let calls = functions
        .values()
        .map(|function| function.callees.len())
        .sum();
    let pointed_at = pointed_at(&elf, &functions);
    let mut found: Vec<String> = pointed_at
        .iter()
        .map(|start| &functions[start].name)
        .filter(|name| level(name).is_none())
        .map(|name| {
            format!("a pointer to {name}, which is at no level of what is called through pointers")
        })
        .collect();
    // Depth first, with a stack of our own: what is being looked at, and which of its callees comes
    // next. A level includes what is called from it directly.
    let own = |start: &u64| {
        pointed_at
            .contains(start)
            .then(|| level(&functions[start].name))
            .flatten()
    };
    let callees = |&(start, reached): &Node| -> Vec<Node> {
        let function = &functions[&start];
        let direct = function
            .callees
            .iter()
            .map(|callee| (*callee, reached.max(own(callee))));
        let below =
            |other: &&u64| own(other) > reached && !functions[other].name.contains("call_once");
        let pointers = pointed_at
            .iter()
            .filter(below)
            .map(|other| (*other, own(other)));
        direct
            .chain(pointers.filter(|_| function.calls_pointers))
            .collect()
    };
    let mut done = BTreeSet::new();
    // First the functions that are called through pointers: what they reach is then visited at
    // its own level. Otherwise the outcome would depend on the order of addresses, since a function
    // that is not a root of the program seems to call every level.
    for root in pointed_at.iter().chain(functions.keys()) {
        let mut path: Vec<(Node, Vec<Node>)> = Vec::new();
        let mut next = Some((*root, own(root)));
        loop {
            match next {
                Some(node) if done.contains(&node) => {}
                Some(node) if path.iter().any(|((start, _), _)| *start == node.0) => {
                    let circle = path.iter().skip_while(|((start, _), _)| *start != node.0);
                    let names: Vec<_> = circle
                        .map(|((start, _), _)| functions[start].name.as_str())
                        .collect();
                    if !found.iter().any(|found| found.contains(names[0])) {
                        found.push(format!("{} calls itself", names.join(" -> ")));
                    }
                }
                Some(node) => path.push((node, callees(&node))),
                None => {
                    let Some((node, _)) = path.pop() else { break };
                    done.insert(node);
                }
            }
            let Some((_, left)) = path.last_mut() else {
                break;
            };
            next = left.pop();
        }
    }
    (found, functions.len(), calls)
}

/// Functions by where they start.
fn functions(elf: &object::File<'_>) -> BTreeMap<u64, Function> {
    let text = elf.section_by_name(".text").unwrap();
    let address = text.address();
    let bytes = text.data().unwrap();
    let thumb = elf.architecture() == Architecture::Arm;
    let in_text = |symbol: &object::Symbol<'_, '_>| symbol.section_index() == Some(text.index());
    // The lowest bit of a Thumb function's address says that it is one.
    let start = |symbol: &object::Symbol<'_, '_>| {
        if thumb {
            symbol.address() & !1
        } else {
            symbol.address()
        }
    };
    let mut functions = BTreeMap::new();
    for symbol in elf
        .symbols()
        .filter(in_text)
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
    {
        let start = start(&symbol);
        let name = symbol.name().unwrap().to_string();
        let function = Function {
            name,
            start,
            end: start + symbol.size(),
            callees: vec![],
            calls_pointers: false,
        };
        functions.insert(start, function);
    }
    // Where constants between the instructions start and end.
    let mut kinds: Vec<(u64, bool)> = elf
        .symbols()
        .filter(in_text)
        .filter_map(|symbol| {
            let name = symbol.name().ok()?;
            (name.starts_with("$d") || name.starts_with("$t") || name.starts_with("$x"))
                .then(|| (start(&symbol), name.starts_with("$d")))
        })
        .collect();
    kinds.sort();
    let is_data = |at: u64| {
        kinds
            .partition_point(|(start, _)| *start <= at)
            .checked_sub(1)
            .is_some_and(|i| kinds[i].1)
    };

    let bounds: Vec<(u64, u64)> = functions
        .values()
        .map(|function| (function.start, function.end))
        .collect();
    let holder = |at: u64| {
        let (start, end) = bounds[bounds
            .partition_point(|(start, _)| *start <= at)
            .checked_sub(1)?];
        (at < end).then_some(start)
    };
    for function in functions.values_mut() {
        let mut at = function.start;
        while at < function.end {
            let code = &bytes[(at - address) as usize..];
            if is_data(at) {
                at += 2;
                continue;
            }
            let (length, flow) = if thumb {
                thumb_flow(at, code)
            } else {
                riscv_flow(at, code)
            };
            let target = match flow {
                // Armv6-M's only far jump is BL, also within a function; a call of itself goes to
                // its start.
                Some(Flow::Call(target))
                    if !(function.start + 1..function.end).contains(&target) =>
                {
                    Some(target)
                }
                Some(Flow::Jump(target)) if !(function.start..function.end).contains(&target) => {
                    Some(target)
                }
                Some(Flow::Pointer) => {
                    function.calls_pointers = true;
                    None
                }
                _ => None,
            };
            if let Some(target) = target {
                // Code without a size, like the entry point in assembly, is at no function's place.
                function.callees.extend(holder(target));
            }
            at += length;
        }
    }
    functions
}

/// The functions whose addresses are among the constants of the program, apart from the vectors of
/// exceptions. The linker keeps its list of addresses for this (`--emit-relocs`): another number
/// may look like one.
fn pointed_at(elf: &object::File<'_>, functions: &BTreeMap<u64, Function>) -> Vec<u64> {
    let thumb = elf.architecture() == Architecture::Arm;
    let sections = elf
        .sections()
        .filter(|section| matches!(section.name(), Ok(".rodata" | ".data")));
    let mut found: Vec<u64> = sections
        .flat_map(|section| {
            let data = section.data().unwrap();
            let word = |at: u64| {
                let at = (at - section.address()) as usize;
                let bytes = data.get(at..at + 4)?.try_into().unwrap();
                Some(u64::from(u32::from_le_bytes(bytes)))
            };
            section
                .relocations()
                .filter_map(|(at, _)| word(at))
                .collect::<Vec<_>>()
        })
        .filter(|word| !thumb || word & 1 == 1)
        .map(|word| if thumb { word & !1 } else { word })
        .filter(|word| functions.contains_key(word))
        .collect();
    assert!(!found.is_empty(), "the program has no list of addresses");
    found.sort();
    found.dedup();
    found
}

fn half(code: &[u8], at: usize) -> u32 {
    code.get(at..at + 2).map_or(0, |bytes| {
        u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
    })
}

/// `value`, whose sign is at bit `bits - 1`, added to `at`.
fn offset(at: u64, value: u32, bits: u32) -> u64 {
    (at as i64 + i64::from((value << (32 - bits)) as i32 >> (32 - bits))) as u64
}

/// A Thumb instruction: its length, and where it leads (Armv7-M Architecture Reference Manual, A5
/// and A7.7: B, BL, BLX, BX).
fn thumb_flow(at: u64, code: &[u8]) -> (u64, Option<Flow>) {
    let first = half(code, 0);
    let second = half(code, 2);
    let pc = at + 4;
    match first {
        0xe000..=0xe7ff => (2, Some(Flow::Jump(offset(pc, (first & 0x7ff) << 1, 12)))),
        0xd000..=0xddff => (2, Some(Flow::Jump(offset(pc, (first & 0xff) << 1, 9)))),
        // BX LR returns.
        0x4770 => (2, None),
        0x4700..=0x47ff => (2, Some(Flow::Pointer)),
        0xf000..=0xf7ff if second & 0x8000 != 0 => {
            let sign = first >> 10 & 1;
            let j1 = second >> 13 & 1;
            let j2 = second >> 11 & 1;
            if second & 0x5000 == 0 {
                if first >> 7 & 7 == 7 {
                    return (4, None); // no branch: barriers, moves to special registers
                }
                let value =
                    sign << 20 | j2 << 19 | j1 << 18 | (first & 0x3f) << 12 | (second & 0x7ff) << 1;
                return (4, Some(Flow::Jump(offset(pc, value, 21))));
            }
            let i1 = 1 ^ j1 ^ sign;
            let i2 = 1 ^ j2 ^ sign;
            let value =
                sign << 24 | i1 << 23 | i2 << 22 | (first & 0x3ff) << 12 | (second & 0x7ff) << 1;
            let target = offset(pc, value, 25);
            (
                4,
                Some(if second & 0x4000 != 0 {
                    Flow::Call(target)
                } else {
                    Flow::Jump(target)
                }),
            )
        }
        0xe800.. => (4, None),
        _ => (2, None),
    }
}

/// A RISC-V instruction of RV32IMAC (the unprivileged ISA, chapters 2 and 27: JAL, JALR, C.J,
/// C.JAL, C.JR, C.JALR).
fn riscv_flow(at: u64, code: &[u8]) -> (u64, Option<Flow>) {
    let first = half(code, 0);
    let word = first | half(code, 2) << 16;
    if first & 3 != 3 {
        let bit = |from: u32, to: u32| (first >> from & 1) << to;
        let value = bit(12, 11)
            | bit(11, 4)
            | bit(10, 9)
            | bit(9, 8)
            | bit(8, 10)
            | bit(7, 6)
            | bit(6, 7)
            | bit(5, 3)
            | bit(4, 2)
            | bit(3, 1)
            | bit(2, 5);
        let target = offset(at, value, 12);
        let register = first >> 7 & 31;
        return (
            2,
            match (first & 3, first >> 13) {
                (1, 1) => Some(Flow::Call(target)),
                (1, 5) => Some(Flow::Jump(target)),
                // C.JALR. C.JR without a link returns or is a jump table; a last call through a
                // pointer looks the same, and is seen where the same sources are built for Arm.
                (2, 4) if first >> 12 == 9 && first >> 2 & 31 == 0 && register > 0 => {
                    Some(Flow::Pointer)
                }
                _ => None,
            },
        );
    }
    let bits = |from: u32, count: u32, to: u32| (word >> from & ((1 << count) - 1)) << to;
    let links = word >> 7 & 31 != 0;
    let flow = match word & 0x7f {
        0x6f => {
            let target = offset(
                at,
                bits(31, 1, 20) | bits(21, 10, 1) | bits(20, 1, 11) | bits(12, 8, 12),
                21,
            );
            Some(if links {
                Flow::Call(target)
            } else {
                Flow::Jump(target)
            })
        }
        // AUIPC, and JALR with the register it set.
        0x17 => {
            let next = half(code, 4) | half(code, 6) << 16;
            if next & 0x7f == 0x67 && next >> 15 & 31 == word >> 7 & 31 {
                let upper = at.wrapping_add(u64::from(word & !0xfff)) & 0xffff_ffff;
                let target = offset(upper, next >> 20, 12);
                return (
                    8,
                    Some(if next >> 7 & 31 != 0 {
                        Flow::Call(target)
                    } else {
                        Flow::Jump(target)
                    }),
                );
            }
            None
        }
        0x67 if links => Some(Flow::Pointer),
        _ => None,
    };
    (4, flow)
}
