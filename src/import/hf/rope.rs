//! The rotary frequencies of a `config.json`: `rope_theta` and `rope_scaling` of transformers 4,
//! `rope_parameters` of 5, one for all layers or one for each kind of layer.

use std::num::NonZeroU32;
use std::prelude::rust_2024::*;

use serde_json::Map;

use crate::import::family::{self, DynamicRope, Family, Temperature};
use crate::import::json::Object;
use crate::import::rope::{self, Llama3, Yarn};
use crate::import::{ImportError, RopeTable};
use crate::model::AttnTemperature;

/// What a config says about rotary embedding.
pub(super) struct Tables {
    pub(super) global: RopeTable,
    /// The table of windowed layers, if it differs.
    pub(super) local: Option<RopeTable>,
    pub(super) global_base: f64,
    pub(super) local_base: f64,
    /// The divisor of the global table, if that is all its scaling.
    pub(super) divisor: Option<f64>,
    /// How many pairs of a head are rotated.
    pub(super) rotary_pairs: u32,
    pub(super) temperature: Option<AttnTemperature>,
}

/// One table, with what it was made from.
struct Made {
    table: RopeTable,
    base: f64,
    divisor: Option<f64>,
    rotary_pairs: u32,
    temperature: Option<AttnTemperature>,
}

/// Reads the tables for heads of `head_dim` channels.
///
/// # Errors
/// A kind of scaling that depends on the length of the text, or is unknown, or whose numbers make
/// no sense.
pub(super) fn tables(family: &Family, keys: &Object, head_dim: u32) -> Result<Tables, ImportError> {
    if let Some(local_theta) = family.local_rope_theta {
        return separate_tables(family, keys, head_dim, local_theta);
    }
    let scaling = filled(keys, "rope_scaling")?;
    let parameters = filled(keys, "rope_parameters")?;
    // If there is a `rope_scaling`, `rope_parameters` does not count, nor does the base in it, as
    // in transformers 5.
    let nothing = Map::new();
    let dict = scaling.or(parameters);
    let dict = dict.unwrap_or_else(|| Object::root(&nothing));
    let make = |dict: &Object| {
        let source = Source {
            first: None,
            dict,
            theta_key: "rope_theta",
            theta: family.absent.rope_theta,
        };
        source.make(keys, family, head_dim)
    };
    if is_nested(&dict) {
        let full = dict.object("full_attention")?;
        let full = full.unwrap_or_else(|| Object::root(&nothing));
        let sliding = dict.object("sliding_attention")?;
        return Ok(join(make(&full)?, sliding.as_ref().map(make).transpose()?));
    }
    Ok(join(make(&dict)?, None))
}

/// The tables of a family whose windowed layers have a base of their own, `local_theta` if no key
/// says another.
fn separate_tables(
    family: &Family,
    keys: &Object,
    head_dim: u32,
    local_theta: f64,
) -> Result<Tables, ImportError> {
    let nothing = Map::new();
    let scaling = filled(keys, "rope_scaling")?;
    let (mut full, mut sliding) = (None, None);
    if let Some(parameters) = filled(keys, "rope_parameters")? {
        if !is_nested(&parameters) {
            let name = family.name();
            let clause =
                format!("has no full_attention and no sliding_attention, which {name} keeps apart");
            return Err(keys.object_to("rope_parameters", &clause));
        }
        full = parameters.object("full_attention")?;
        sliding = parameters.object("sliding_attention")?;
    }
    let global = Source {
        // `rope_scaling` is for the layers without a window alone.
        first: scaling.as_ref(),
        dict: &full.unwrap_or_else(|| Object::root(&nothing)),
        theta_key: "rope_theta",
        theta: family.absent.rope_theta,
    };
    let local = Source {
        first: None,
        dict: &sliding.unwrap_or_else(|| Object::root(&nothing)),
        theta_key: "rope_local_base_freq",
        theta: local_theta,
    };
    let global = global.make(keys, family, head_dim)?;
    let local = local.make(keys, family, head_dim)?;
    Ok(join(global, Some(local)))
}

/// An object of the config; an empty one counts as absent.
fn filled<'j>(keys: &Object<'j>, key: &str) -> Result<Option<Object<'j>>, ImportError> {
    Ok(keys.object(key)?.filter(|object| !object.is_empty()))
}

/// Whether rope parameters are given for each kind of layer.
fn is_nested(parameters: &Object) -> bool {
    parameters.mentions("full_attention") || parameters.mentions("sliding_attention")
}

fn join(global: Made, local: Option<Made>) -> Tables {
    let local_base = local.as_ref().map_or(global.base, |local| local.base);
    Tables {
        local: local
            .map(|local| local.table)
            .filter(|local| *local != global.table),
        global: global.table,
        global_base: global.base,
        local_base,
        divisor: global.divisor,
        rotary_pairs: global.rotary_pairs,
        temperature: global.temperature,
    }
}

/// Where the numbers of one table come from.
struct Source<'a, 'j> {
    /// Takes precedence: a `rope_scaling` beside `rope_parameters`.
    first: Option<&'a Object<'j>>,
    dict: &'a Object<'j>,
    /// The top-level key of the base.
    theta_key: &'static str,
    /// The base if nothing names one.
    theta: f64,
}

impl<'a, 'j> Source<'a, 'j> {
    /// The object to read `key` from.
    fn holder(&self, key: &str) -> &'a Object<'j> {
        self.first
            .filter(|first| first.get(key).is_some())
            .unwrap_or(self.dict)
    }

    fn positive(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.holder(key).positive(key)
    }

    fn required(&self, key: &str) -> Result<f64, ImportError> {
        self.positive(key)?
            .ok_or_else(|| self.holder(key).refuse(key, "a number above 0"))
    }

    /// A number; 0 counts as absent, as with Python's `or`.
    fn truthy(&self, key: &str) -> Result<Option<f64>, ImportError> {
        Ok(self.holder(key).number(key)?.filter(|&x| x != 0.0))
    }

    fn kind(&self) -> Result<&'j str, ImportError> {
        for key in ["rope_type", "type"] {
            if let Some(kind) = self.holder(key).text(key)? {
                return Ok(kind);
            }
        }
        Ok("default")
    }

    /// Makes the table for heads of `head_dim` channels. `keys` is the whole config.
    fn make(&self, keys: &Object, family: &Family, head_dim: u32) -> Result<Made, ImportError> {
        let base = self
            .positive("rope_theta")?
            .or(keys.positive(self.theta_key)?)
            .unwrap_or(self.theta);
        let part = self.positive("partial_rotary_factor")?;
        let dim = rotary_dim(part, keys, family, head_dim)?;
        let kind = self.kind()?;
        let base = if kind == "dynamic" {
            base * self.dynamic_stretch(family, dim)?
        } else {
            base
        };
        let mut made = Made {
            table: RopeTable {
                amplitude: 1.0,
                frequencies: rope::plain(base, dim),
            },
            base,
            divisor: None,
            rotary_pairs: dim.div_ceil(2),
            temperature: match family.temperature {
                Temperature::None | Temperature::WithoutRope => None,
                Temperature::InRopeParameters => self.temperature(keys, family)?,
            },
        };
        let frequencies = &mut made.table.frequencies;
        match kind {
            "dynamic" | "default" => {}
            "yarn" | "su" if family.yarn_is_longrope => return Err(self.depends_on_length(kind)),
            "linear" => {
                let factor = self.required("factor")?;
                rope::linear(frequencies, factor);
                made.divisor = Some(factor);
            }
            "llama3" => self.llama3(keys, family)?.stretch(frequencies),
            "yarn" => {
                let yarn = self.yarn(keys, family, base)?;
                yarn.stretch(frequencies, dim);
                made.table.amplitude = self.yarn_amplitude(yarn.factor)? as f32;
            }
            "longrope" => return Err(self.depends_on_length(kind)),
            _ => return Err(self.unknown_kind()),
        }
        check_frequencies(&made)?;
        made.table.frequencies.resize(head_dim as usize / 2, 0.0);
        Ok(made)
    }

    /// The numbers of scaling of the kind "llama3".
    fn llama3(&self, keys: &Object, family: &Family) -> Result<Llama3, ImportError> {
        let context = self.original_context(keys, family)?;
        let low = self.required("low_freq_factor")?;
        let high = self.required("high_freq_factor")?;
        if low >= high {
            let key = "low_freq_factor";
            let expected = format!("less than high_freq_factor, {high}");
            return Err(self.holder(key).refuse(key, &expected));
        }
        Ok(Llama3 {
            factor: self.required("factor")?,
            low,
            high,
            context,
        })
    }

    /// The numbers of scaling of the kind "yarn".
    fn yarn(&self, keys: &Object, family: &Family, base: f64) -> Result<Yarn, ImportError> {
        let context = self.original_context(keys, family)?;
        let factor = match self.positive("factor")? {
            Some(factor) => factor,
            None => f64::from(max_positions(keys, family)?) / context,
        };
        if base <= 1.0 {
            return Err(ImportError::new(format!(
                "`rope_theta` is {base}, expected more than 1 with yarn"
            )));
        }
        Ok(Yarn {
            base,
            factor,
            beta_fast: self.beta("beta_fast", 32.0)?,
            beta_slow: self.beta("beta_slow", 1.0)?,
            context,
            truncate: self.holder("truncate").flag("truncate")?.unwrap_or(true),
        })
    }

    /// What a base is multiplied by if the scaling is "dynamic".
    fn dynamic_stretch(&self, family: &Family, dim: u32) -> Result<f64, ImportError> {
        let alpha = self.truthy("alpha")?;
        match (family.dynamic, alpha) {
            (DynamicRope::BeyondContext, _) => Ok(1.0),
            (DynamicRope::Alpha, Some(alpha)) => {
                let dim = f64::from(dim);
                Ok(libm::pow(alpha, dim / (dim - 2.0).max(0.0)))
            }
            (DynamicRope::Alpha, None) | (DynamicRope::ByLength, _) => {
                Err(self.depends_on_length("dynamic"))
            }
        }
    }

    /// `longrope` has two tables and `dynamic` one for every length. Which one is right for a token
    /// depends on how long the text becomes.
    fn depends_on_length(&self, kind: &str) -> ImportError {
        let key = self.kind_key();
        let clause =
            format!("is {kind:?}: its rotary frequencies change with the length of the text");
        self.holder(key)
            .object_to(key, &clause)
            .help("supported are default, linear, llama3 and yarn")
    }

    /// The error of a kind of scaling that does not exist.
    fn unknown_kind(&self) -> ImportError {
        let key = self.kind_key();
        self.holder(key)
            .refuse(key, "default, linear, llama3 or yarn")
    }

    /// The key that says the kind of scaling.
    fn kind_key(&self) -> &'static str {
        if self.holder("rope_type").get("rope_type").is_some() {
            "rope_type"
        } else {
            "type"
        }
    }

    fn beta(&self, key: &str, default: f64) -> Result<f64, ImportError> {
        match self.truthy(key)? {
            Some(beta) if beta < 0.0 => Err(self.holder(key).refuse(key, "a number above 0")),
            beta => Ok(beta.unwrap_or(default)),
        }
    }

    /// The scale of queries by their position, if there is a `llama_4_scaling_beta` other than 0.
    fn temperature(
        &self,
        keys: &Object,
        family: &Family,
    ) -> Result<Option<AttnTemperature>, ImportError> {
        let key = "llama_4_scaling_beta";
        if self.truthy(key)?.is_none() {
            return Ok(None);
        }
        let length = self.original_context(keys, family)? as u32;
        let length = NonZeroU32::new(length).ok_or_else(|| {
            let key = "original_max_position_embeddings";
            self.holder(key).refuse(key, "an integer above 0")
        })?;
        Ok(Some(AttnTemperature {
            scale: self.required(key)? as f32,
            length,
            only_without_rope: false,
        }))
    }

    fn yarn_amplitude(&self, factor: f64) -> Result<f64, ImportError> {
        if let Some(amplitude) = self.positive("attention_factor")? {
            return Ok(amplitude);
        }
        let amplitude = match (self.truthy("mscale")?, self.truthy("mscale_all_dim")?) {
            (Some(mscale), Some(all_dim)) => {
                rope::yarn_amplitude(factor, mscale) / rope::yarn_amplitude(factor, all_dim)
            }
            _ => rope::yarn_amplitude(factor, 1.0),
        };
        if amplitude.is_finite() && amplitude > 0.0 {
            Ok(amplitude)
        } else {
            Err(self
                .holder("mscale")
                .refuse("mscale", "a value that leaves attention positive"))
        }
    }

    /// The context before it was stretched: from a top-level key (Phi-3 has one), else from the
    /// dict, else the context.
    fn original_context(&self, keys: &Object, family: &Family) -> Result<f64, ImportError> {
        let key = "original_max_position_embeddings";
        match keys.positive(key)?.or(self.positive(key)?) {
            Some(context) => Ok(context),
            None => Ok(f64::from(max_positions(keys, family)?)),
        }
    }
}

/// Refuses frequencies that an f32 cannot hold.
fn check_frequencies(made: &Made) -> Result<(), ImportError> {
    let holds = |f: &f64| f.is_finite() && (*f as f32).is_finite();
    if made.table.frequencies.iter().all(holds) {
        return Ok(());
    }
    let base = made.base;
    Err(ImportError::new(format!(
        "`rope_theta` is {base}, which makes rotary frequencies overflow"
    )))
}

/// Tokens of the longest text the model was trained for, or was stretched to.
pub(super) fn max_positions(keys: &Object, family: &Family) -> Result<u32, ImportError> {
    let given = keys.count("max_position_embeddings")?;
    Ok(given.unwrap_or(family.absent.max_position_embeddings))
}

/// How many channels of a head are rotated: all, unless `partial_rotary_factor` says otherwise.
fn rotary_dim(
    in_dict: Option<f64>,
    keys: &Object,
    family: &Family,
    head_dim: u32,
) -> Result<u32, ImportError> {
    let key = "partial_rotary_factor";
    let factor = in_dict.or(keys.positive(key)?).unwrap_or(1.0);
    let dim = (f64::from(head_dim) * factor) as u32;
    if factor > 1.0 || dim == 0 {
        return Err(ImportError::new(format!(
            "`{key}` is {factor}, expected a part of head_dim, {head_dim}"
        )));
    }
    if dim != head_dim && !family.partial_rotary {
        let families = family::model_types(|family| family.partial_rotary);
        return Err(ImportError::new(format!(
            "`{key}` is {factor}, which only {families} knows"
        )));
    }
    Ok(dim)
}
