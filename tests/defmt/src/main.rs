//! Decodes the frames on stdin with the table in an ELF: a line `level message` each.

use std::error::Error;
use std::io::Read;

use defmt_decoder::Table;

fn main() -> Result<(), Box<dyn Error>> {
    let elf = std::env::args_os().nth(1).ok_or("give the program's ELF")?;
    let table = Table::parse(&std::fs::read(elf)?)?.ok_or("the program logs nothing")?;
    let mut frames = Vec::new();
    std::io::stdin().read_to_end(&mut frames)?;
    let mut decoder = table.new_stream_decoder();
    decoder.received(&frames);
    while let Ok(frame) = decoder.decode() {
        let level = frame.level().ok_or("a frame without a level")?;
        println!("{} {}", level.as_str(), frame.display_message());
    }
    Ok(())
}
