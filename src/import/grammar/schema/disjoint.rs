//! Whether alternatives exclude each other, as `oneOf` wants.

use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::Schemas;
use super::value::{is_of, is_same};
use crate::import::ImportError;

impl Schemas<'_> {
    pub(super) fn require_disjoint(&self, options: &[Value]) -> Result<(), ImportError> {
        let options: Vec<Value> = options
            .iter()
            .map(|option| self.resolved(option))
            .collect::<Result<_, _>>()?;
        for (index, a) in options.iter().enumerate() {
            for (other, b) in options.iter().enumerate().skip(index + 1) {
                if !self.are_disjoint(a, b, 8)? {
                    return self.refuse(format_args!(
                        "\"oneOf\": a value may be valid by alternatives {index} and {other}; \
                         write \"anyOf\" if that is fine"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether no value is valid by both, as far as that is easily seen.
    fn are_disjoint(&self, a: &Value, b: &Value, depth: u32) -> Result<bool, ImportError> {
        let (a, b) = (self.resolved(a)?, self.resolved(b)?);
        let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else {
            return Ok(a == Value::Bool(false) || b == Value::Bool(false));
        };
        if depth == 0 {
            return Ok(false);
        }
        for (schema, other) in [(x, &b), (y, &a)] {
            let options = schema.get("anyOf").or(schema.get("oneOf"));
            for option in options.and_then(Value::as_array).into_iter().flatten() {
                if !self.are_disjoint(option, other, depth - 1)? {
                    return Ok(false);
                }
            }
            if options.is_some() {
                return Ok(true);
            }
        }
        let (of_x, of_y) = (constants(x), constants(y));
        if let (Some(of_x), Some(of_y)) = (&of_x, &of_y) {
            let is_of_y = |value: &Value| of_y.iter().any(|other| is_same(value, other));
            return Ok(!of_x.iter().any(is_of_y));
        }
        let (types_x, types_y) = (self.types(x)?, self.types(y)?);
        let shares = |a: &str, b: &str| {
            a == b || matches!((a, b), ("integer", "number") | ("number", "integer"))
        };
        let valued = |constants: &Option<Vec<Value>>, types: &[&str]| {
            let is_one = |value: &Value| types.iter().any(|kind| is_of(value, kind));
            constants
                .as_ref()
                .is_none_or(|values| values.iter().any(is_one))
        };
        let overlap = types_x.iter().any(|a| types_y.iter().any(|b| shares(a, b)));
        if !overlap || !valued(&of_x, &types_y) || !valued(&of_y, &types_x) {
            return Ok(true);
        }
        let are_objects = types_x == ["object"] && types_y == ["object"];
        Ok(are_objects && self.have_disjoint_members(x, y, depth)?)
    }

    /// Whether a member that must come cannot be valid by both schemas of objects.
    fn have_disjoint_members(
        &self,
        x: &Map<String, Value>,
        y: &Map<String, Value>,
        depth: u32,
    ) -> Result<bool, ImportError> {
        let mut names = self.required(x)?;
        names.extend(self.required(y)?);
        for name in names {
            let of = |schema: &Map<String, Value>| {
                let property = schema.get("properties").and_then(|all| all.get(name));
                let other = schema.get("additionalProperties");
                property.or(other).cloned().unwrap_or(Value::Bool(true))
            };
            if self.are_disjoint(&of(x), &of(y), depth - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The values that `const` and `enum` leave.
fn constants(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value.clone()]);
    }
    schema.get("enum").and_then(Value::as_array).cloned()
}
