//! Numbers: their bounds and their multiples.

use std::prelude::rust_2024::*;
use std::string::ToString;

use serde_json::{Map, Value};

use super::{OF_NUMBERS, Schemas};
use crate::import::ImportError;
use crate::import::grammar::dfa;
use crate::import::grammar::expr::Id;
use crate::import::grammar::number::{Bound, Decimal, integers, multiples, numbers};

impl Schemas<'_> {
    pub(super) fn number(
        &mut self,
        schema: &Map<String, Value>,
        is_integer: bool,
    ) -> Result<Id, ImportError> {
        let is_free = !OF_NUMBERS
            .iter()
            .any(|keyword| schema.contains_key(*keyword));
        if is_free {
            return Ok(self.any_number(is_integer));
        }
        let low = self.bound(schema, "minimum", "exclusiveMinimum")?;
        let high = self.bound(schema, "maximum", "exclusiveMaximum")?;
        let step = match schema.get("multipleOf") {
            None => None,
            Some(value) => {
                let step = Decimal::parse(&value.to_string()).and_then(|value| value.integer());
                let step = step
                    .and_then(|step| u32::try_from(step).ok())
                    .filter(|step| *step > 0);
                let Some(step) = step.filter(|step| *step <= 10_000) else {
                    return self.refuse(format_args!(
                        "\"multipleOf\" {value} is not supported: whole numbers from 1 to 10,000 \
                         are"
                    ));
                };
                Some(step)
            }
        };
        let range = if is_integer || step.is_some() {
            integers(self.source, low.as_ref(), high.as_ref())
        } else {
            numbers(self.source, low.as_ref(), high.as_ref())
        };
        let Some(range) = range else {
            return self.refuse("a bound has more than 30 digits");
        };
        let Some(step) = step.filter(|step| *step > 1) else {
            return Ok(range);
        };
        let both = dfa::product(&dfa::of_expr(self.source, range)?, &multiples(step), true)?;
        Ok(self.source.automaton(both))
    }

    /// The tighter of two bounds.
    fn bound(
        &self,
        schema: &Map<String, Value>,
        included: &str,
        excluded: &str,
    ) -> Result<Option<Bound>, ImportError> {
        let mut bounds = Vec::new();
        for (keyword, is_excluded) in [(included, false), (excluded, true)] {
            let Some(value) = schema.get(keyword) else {
                continue;
            };
            let (Some(number), Some(decimal)) =
                (value.as_f64(), Decimal::parse(&value.to_string()))
            else {
                return self.refuse(format_args!(
                    "{keyword:?} is {value}, not a number of up to 30 digits"
                ));
            };
            bounds.push((
                number,
                Bound {
                    value: decimal,
                    excluded: is_excluded,
                },
            ));
        }
        let is_low = included == "minimum";
        // Of equal bounds the one that excludes, which is the last.
        let tighter = bounds.into_iter().reduce(|a, b| {
            let b_is = if is_low { b.0 >= a.0 } else { b.0 <= a.0 };
            if b_is { b } else { a }
        });
        Ok(tighter.map(|bound| bound.1))
    }
}
