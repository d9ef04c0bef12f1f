//! `defmt::Format` for types that hold many numbers: it writes their shape only.

use defmt::{Format, Formatter, write};

use crate::{Engine, Input, InputGroup, InputTile, Isa, Matrix, Output, RowsMut};

impl Format for Isa {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "{=str}", self.name());
    }
}

impl Format for Engine<'_> {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "Engine({})", self.isa);
    }
}

impl Format for Matrix<'_> {
    fn format(&self, f: Formatter<'_>) {
        write!(
            f,
            "Matrix({=usize} x {=usize})",
            self.rows(),
            self.columns()
        );
    }
}

impl Format for Input<'_> {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "Input({=usize})", self.count);
    }
}

impl Format for Output<'_> {
    fn format(&self, f: Formatter<'_>) {
        write!(
            f,
            "Output(rows {=usize}..{=usize} of {=usize})",
            self.range.start, self.range.end, self.rows
        );
    }
}

impl Format for RowsMut<'_> {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "RowsMut(of {=usize} vectors)", self.vectors());
    }
}

impl Format for InputTile {
    fn format(&self, f: Formatter<'_>) {
        write!(f, "InputTile({=usize} inputs)", InputTile::INPUTS);
    }
}

impl Format for InputGroup {
    fn format(&self, f: Formatter<'_>) {
        write!(
            f,
            "InputGroup {{ scale: {=f32}, sum: {=i32} }}",
            self.scale, self.sum
        );
    }
}
