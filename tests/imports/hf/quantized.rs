//! Quantised folders: each layout's numbers bit by bit, and what cannot be right refused.

use std::path::{Path, PathBuf};

use pocketlm::import::{Checkpoint, PackOptions, Packed, hf, pack_to_file, pack_to_memory};
use pocketlm::model::{DType, Model, Section, TensorId, TensorKind};
use pocketlm_kernels::Matrix;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::common::folder::{Folder, Stored};
use crate::common::in_f64::{Reference, read};
use crate::common::{folders, name, shared};

fn data(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/quantized")
        .join(case)
}

fn open(folder: &Path) -> impl Checkpoint + use<> {
    hf::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

/// The kinds of the rows of a stored matrix, in its order.
fn kinds(matrix: &str) -> &'static [TensorKind] {
    match matrix.rsplit('.').next().unwrap() {
        "q_proj" => &[TensorKind::Query],
        "k_proj" => &[TensorKind::Key],
        "v_proj" => &[TensorKind::Value],
        "qkv_proj" => &[TensorKind::Query, TensorKind::Key, TensorKind::Value],
        "o_proj" => &[TensorKind::Output],
        "gate_proj" => &[TensorKind::GatingLinear],
        "up_proj" => &[TensorKind::ValueLinear],
        "gate_up_proj" => &[TensorKind::GatingLinear, TensorKind::ValueLinear],
        "down_proj" => &[TensorKind::OutLinear],
        other => panic!("{other}"),
    }
}

fn fnv1a(rows: &[Vec<f32>]) -> String {
    let bytes = rows.iter().flatten().flat_map(|x| x.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[test]
fn every_layout_gives_the_numbers_it_stands_for_bit_by_bit() {
    for folder in folders(data("")) {
        let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let checkpoint = open(&folder);
        for (matrix, expected) in expected.as_object().unwrap() {
            let rows: Vec<Vec<f32>> = kinds(matrix)
                .iter()
                .flat_map(|&kind| read(&checkpoint.tensor(TensorId { layer: 0, kind }).unwrap()))
                .collect();
            let what = format!("{}: {matrix}", name(&folder));
            assert_eq!(
                json!([rows.len(), rows[0].len()]),
                expected["shape"],
                "{what}"
            );
            assert_eq!(fnv1a(&rows), expected["fnv1a"], "{what}");
        }
    }
}

fn packed(folder: &Path, dtype: Option<DType>) -> Packed {
    let image = crate::common::scratch();
    let options = PackOptions {
        dtype,
        ..PackOptions::default()
    };
    pack_to_file(
        &open(folder),
        &options,
        &image.path().join("m.plm"),
        &mut |_, _| {},
    )
    .unwrap()
}

/// The type of the query matrix in an image packed without options, and what it holds.
fn query(folder: &Path) -> (DType, Vec<Vec<f32>>) {
    let image = pack_to_memory(&open(folder), &PackOptions::default(), &mut |_, _| {}).unwrap();
    let model = Model::open(&image).unwrap();
    let mut start = 0;
    for id in model.tensors() {
        let (dtype, rows, columns) = model.tensor_type(id).unwrap();
        let bytes = if id.kind.is_matrix() {
            dtype.matrix_bytes(rows, columns).unwrap()
        } else {
            4 * columns
        };
        if id.kind == TensorKind::Query {
            let weights = model.header().section(Section::Weights);
            let matrix = Matrix::new(dtype, rows, columns, &weights[start..start + bytes]).unwrap();
            let row = |r| {
                let mut row = vec![0.0; columns];
                matrix.row(r, &mut row);
                row
            };
            return (dtype, (0..rows).map(row).collect());
        }
        start = (start + bytes).next_multiple_of(64);
    }
    panic!("no query matrix");
}

#[test]
fn packing_keeps_the_values_where_a_type_holds_them_and_says_where_it_rounds() {
    let exact = |exact, rounded| Packed { exact, rounded };
    for (case, dtype, result, most) in [
        ("gptq-symmetric-sharded", DType::Q4, exact(9, 0), 0.0),
        ("gptq-scattered-v2", DType::Q8, exact(2, 7), 0.003),
        ("gptq-8-bits-a-row", DType::Q8, exact(2, 7), 0.032),
        (
            "gptq-wrapped-tied",
            DType::Q4Min,
            exact(1, 7),
            2f32.powi(-13),
        ),
        ("awq", DType::Q4Min, exact(2, 7), 2f32.powi(-13)),
        ("awq-fused", DType::Q8, exact(2, 7), 0.003),
        ("packed-symmetric", DType::Q4, exact(8, 0), 0.0),
        // f16 holds the product of a bf16 and a zero point, counted from the nearer end.
        ("packed-zero-points", DType::Q4Min, exact(9, 0), 0.0),
        // All but a matrix whose rows are no whole blocks.
        ("packed-odd-sizes", DType::Q4Min, exact(8, 1), 0.0),
        ("packed-8-bits", DType::Q8, exact(9, 0), 0.0),
        ("bytes", DType::Q8, exact(9, 0), 0.0),
    ] {
        let folder = data(case);
        assert_eq!(packed(&folder, None), result, "{case}");
        let everything = exact(result.exact + result.rounded, 0);
        assert_eq!(packed(&folder, Some(DType::F32)), everything, "{case}");
        let stored = read(
            &open(&folder)
                .tensor(TensorId {
                    layer: 0,
                    kind: TensorKind::Query,
                })
                .unwrap(),
        );
        let (found, values) = query(&folder);
        assert_eq!(found, dtype, "{case}");
        // Scales, the stored steps, are 0.016 to 0.031.
        for (a, b) in values.iter().flatten().zip(stored.iter().flatten()) {
            assert!((a - b).abs() <= most, "{case}: {a} for {b}");
        }
    }
    // Steps from a zero point of 4 bits always fit in 8.
    for case in ["awq", "gptq-wrapped-tied"] {
        assert_eq!(
            packed(&data(case), Some(DType::Q8)).rounded,
            packed_embeddings(case),
            "{case}"
        );
    }
    // 4 bits with a minimum that f16 holds.
    let mut folder = Folder::read(&data("awq"));
    for (name, stored) in &mut folder.tensors {
        if name.ends_with(".scales") {
            stored.data = [0x00, 0x24].repeat(stored.data.len() / 2); // 2^-6
        }
    }
    assert_eq!(
        packed(folder.write("model.safetensors").path(), None),
        exact(9, 0)
    );
}

/// How many matrices are plain: in q8 they are rounded.
fn packed_embeddings(case: &str) -> usize {
    packed(&data(case), None).exact
}

#[test]
fn quantised_goldens_give_their_logits() {
    let Some(cases) = shared("goldens/quantized/hf") else {
        return;
    };
    for folder in folders(cases) {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let ids: Vec<u32> = super::numbers(&expected, "input_ids", i64::from_le_bytes)
            .1
            .into_iter()
            .map(|id| id as u32)
            .collect();
        let (shape, logits) = super::numbers(&expected, "logits", f32::from_le_bytes);
        let ours = Reference::new(&open(&folder)).logits(&ids);
        let worst = ours
            .iter()
            .flatten()
            .zip(&logits)
            .fold(0f64, |worst, (a, b)| worst.max((a - f64::from(*b)).abs()));
        assert_eq!(ours.len(), shape[0]);
        eprintln!("{}: {worst:.1e}", name(&folder));
        assert!(
            worst <= super::TOLERANCE,
            "{}: off by {worst:e}",
            name(&folder)
        );
    }
}

fn reason(folder: &Folder) -> String {
    match hf::open(folder.write("model.safetensors").path()) {
        Ok(_) => panic!("opened"),
        Err(error) => {
            assert!(error.path.is_some(), "{error} names no file");
            error.reason
        }
    }
}

#[test]
fn quantisations_that_are_not_read_are_refused_by_key() {
    let gptq = Folder::read(&data("gptq-8-bits-a-row"));
    let awq = Folder::read(&data("awq"));
    let packed = Folder::read(&data("packed-symmetric"));
    let set = |folder: &Folder, path: &[&str], value: Value| {
        let mut folder = folder.clone();
        let mut at = &mut folder.config["quantization_config"];
        for key in path {
            at = &mut at[*key];
        }
        *at = value;
        reason(&folder)
    };
    let quantization = |key: &str, rest: &str| format!("`quantization_config.{key}` is {rest}");
    for (method, why) in [
        (
            "bitsandbytes",
            "its 4-bit code book and its 8-bit outliers have no equal in an image",
        ),
        ("auto-round", "export it in GPTQ's or AWQ's format instead"),
        ("fp8", "8- and 4-bit floating point is not supported"),
        ("hqq", "GPTQ, AWQ and compressed-tensors are"),
    ] {
        let message = format!(
            "`quantization_config` ({method:?}): this quantisation is not supported: {why}"
        );
        assert_eq!(set(&gptq, &["quant_method"], json!(method)), message);
    }
    for (key, value, rest) in [
        ("bits", json!(3), "3, expected 4 or 8"),
        ("bits", json!(2), "2, expected 4 or 8"),
        ("bits", Value::Null, "null, expected 4 or 8"),
        (
            "group_size",
            json!(0),
            "0, expected an integer above 0, or -1",
        ),
        (
            "group_size",
            json!(-2),
            "-2, expected an integer above 0, or -1",
        ),
        (
            "checkpoint_format",
            json!("marlin"),
            "\"marlin\", expected \"gptq\" or \"gptq_v2\"",
        ),
        (
            "format",
            json!("gptq_p"),
            "\"gptq_p\", expected \"gptq\" or \"gptq_v2\"",
        ),
        (
            "is_marlin_format",
            json!(true),
            "true, expected false: Marlin's layout is not supported",
        ),
        (
            "lm_head",
            json!(true),
            "true, expected false: a quantised output matrix is not supported",
        ),
        (
            "pack_dtype",
            json!("int16"),
            "\"int16\", expected \"int32\"",
        ),
        (
            "dynamic",
            json!({"-:.*down.*": {}}),
            "an object, expected none: rules for single matrices are not supported",
        ),
    ] {
        assert_eq!(set(&gptq, &[key], value), quantization(key, rest));
    }
    for (key, value, rest) in [
        ("bits", json!(8), "8, expected 4"),
        (
            "version",
            json!("gemv"),
            "\"gemv\", expected \"gemm\": the other layouts are not supported",
        ),
        (
            "zero_point",
            json!(false),
            "false, expected true: this layout has zero points",
        ),
        (
            "backend",
            json!("llm-awq"),
            "\"llm-awq\", expected \"autoawq\": the other layouts are not supported",
        ),
    ] {
        assert_eq!(set(&awq, &[key], value), quantization(key, rest));
    }
    const WEIGHTS: [&str; 3] = ["config_groups", "group_0", "weights"];
    for (path, value, rest) in [
        (
            &["format"][..],
            json!("float-quantized"),
            "\"float-quantized\", expected \"pack-quantized\" or \"int-quantized\"",
        ),
        (
            &["format"],
            json!("marlin-24"),
            "\"marlin-24\", expected \"pack-quantized\" or \"int-quantized\"",
        ),
        (
            &["kv_cache_scheme"],
            json!({"num_bits": 8}),
            "an object, expected none: the type of the KV cache is chosen when running",
        ),
        (
            &["sparsity_config"],
            json!({"format": "sparse-24-bitmask"}),
            "",
        ),
        (
            &[WEIGHTS[0], WEIGHTS[1], WEIGHTS[2], "actorder"],
            json!("group"),
            "\"group\", expected \"weight\" or none: groups that are scattered over the inputs are \
             not supported",
        ),
        (
            &[WEIGHTS[0], WEIGHTS[1], WEIGHTS[2], "type"],
            json!("float"),
            "\"float\", expected \"int\"",
        ),
        (
            &[WEIGHTS[0], WEIGHTS[1], WEIGHTS[2], "num_bits"],
            json!(6),
            "6, expected 4 or 8",
        ),
        (
            &[WEIGHTS[0], WEIGHTS[1], WEIGHTS[2], "strategy"],
            json!("block"),
            "\"block\", expected \"group\" or \"channel\"",
        ),
    ] {
        let expected = match path {
            ["sparsity_config"] => "`quantization_config.sparsity_config.format` is \
             \"sparse-24-bitmask\", expected \"dense\": sparse matrices are not supported"
                .into(),
            _ => quantization(&path.join("."), rest),
        };
        assert_eq!(set(&packed, path, value), expected);
    }
    let mut groups = packed.clone();
    let group = groups.config["quantization_config"]["config_groups"]["group_0"].clone();
    groups.config["quantization_config"]["config_groups"]["group_1"] = group;
    assert_eq!(
        reason(&groups),
        "`quantization_config.config_groups` has not exactly one group: matrices of several kinds \
         are not supported"
    );
    assert_eq!(
        reason(&gptq.without("quantization_config")),
        "the tensors are quantised, and there is no `quantization_config` that says how"
    );
    assert_eq!(
        reason(&packed.without("quantization_config")),
        "tensor `model.layers.0.self_attn.q_proj.weight_packed` is quantised, and not in the way \
         that config.json says"
    );
}

#[test]
fn parts_of_a_quantised_matrix_that_cannot_be_right_are_refused_by_name() {
    let words = |dtype, shape: &[usize]| Stored {
        dtype,
        shape: shape.to_vec(),
        data: vec![0; shape.iter().product::<usize>() * 4],
    };
    for (case, suffixes) in [
        (
            "gptq-symmetric-sharded",
            &["qweight", "qzeros", "scales", "g_idx"][..],
        ),
        (
            "gptq-scattered-v2",
            &["qweight", "qzeros", "scales", "g_idx"],
        ),
        ("awq", &["qweight", "qzeros", "scales"]),
        (
            "packed-symmetric",
            &["weight_packed", "weight_scale", "weight_shape"],
        ),
        (
            "packed-zero-points",
            &["weight_packed", "weight_scale", "weight_zero_point"],
        ),
        ("bytes", &["weight_scale"]),
    ] {
        let good = Folder::read(&data(case));
        for suffix in suffixes {
            let name = format!("model.layers.0.self_attn.o_proj.{suffix}");
            let old = good.tensors[&name].clone();
            let with = |stored: Stored| {
                let mut folder = good.clone();
                folder.tensors.insert(name.clone(), stored);
                reason(&folder)
            };
            let mut more = old.shape.clone();
            more[0] += 1;
            let mut shapes = vec![more, vec![], [&old.shape[..], &[1]].concat()];
            if old.shape.len() == 2 && old.shape[0] != old.shape[1] {
                shapes.push(vec![old.shape[1], old.shape[0]]);
            }
            for shape in shapes {
                let message = format!(
                    "tensor `{name}`: shape {shape:?}, expected {:?} by config.json",
                    old.shape
                );
                assert_eq!(with(words(Dtype::I32, &shape)), message, "{case}");
            }
            let message = format!("tensor `{name}`: stored as U32, expected ");
            assert!(
                with(words(Dtype::U32, &old.shape)).starts_with(&message),
                "{case} {name}"
            );

            let mut without = good.clone();
            without.tensors.remove(&name).unwrap();
            let dropped = hf::open(without.write("model.safetensors").path());
            match (*suffix, dropped) {
                // Groups side by side need no list.
                ("g_idx", Ok(_)) => assert_eq!(case, "gptq-symmetric-sharded"),
                (_, Ok(_)) => panic!("{case}: opened without {name}"),
                (_, Err(error)) => {
                    let stem = name.rsplit_once('.').unwrap().0;
                    assert!(error.reason.contains(stem), "{case}: {error}");
                }
            }

            if suffix.contains("scale") {
                for (half, shown) in [([0x00, 0x7c], "inf"), ([0xff, 0xff], "NaN")] {
                    let half = if old.dtype == Dtype::BF16 && shown == "inf" {
                        [0x80, 0x7f]
                    } else {
                        half
                    };
                    let mut bad = old.clone();
                    let end = bad.data.len();
                    bad.data[end - 2..].copy_from_slice(&half);
                    let refusal = with(bad);
                    assert!(
                        refusal.starts_with(&format!(
                            "tensor `{name}`: the scale of output 31 in group "
                        )) && refusal.ends_with(&format!(" is {shown}")),
                        "{case}: {refusal}"
                    );
                }
            }
        }
    }
    let good = Folder::read(&data("gptq-scattered-v2"));
    for group in [2, -1, i32::MIN, i32::MAX] {
        let mut folder = good.clone();
        let name = "model.layers.0.mlp.up_proj.g_idx";
        folder.tensors.get_mut(name).unwrap().data[12..16].copy_from_slice(&group.to_le_bytes());
        assert_eq!(
            reason(&folder),
            format!("tensor `{name}`: input 3 is in group {group}, expected one of 2")
        );
    }
    let mut folder = Folder::read(&data("packed-symmetric"));
    let name = "model.layers.0.mlp.up_proj.weight_shape";
    folder.tensors.get_mut(name).unwrap().data[0] += 1;
    assert_eq!(
        reason(&folder),
        format!("tensor `{name}` says [65, 32], expected [64, 32] by config.json")
    );
}

#[test]
fn biases_that_a_config_does_not_know_are_used_or_refused_unless_they_are_zero() {
    let mut folder = Folder::read(&data("gptq-symmetric-sharded"));
    assert!(
        !open(folder.write("model.safetensors").path())
            .description()
            .config
            .mlp_bias
    );
    let name = "model.layers.0.mlp.up_proj.bias";
    folder.tensors.get_mut(name).unwrap().data[4..6].copy_from_slice(&[0, 0x3c]);
    assert_eq!(
        reason(&folder),
        format!("config.json says `mlp_bias` is false, but there is a tensor `{name}`")
    );
    // Of a config that does not say, they are used, all of their kind.
    let folder = folder.without("mlp_bias");
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let config = checkpoint.description().config;
    assert!(config.mlp_bias && !config.qkv_bias && !config.output_bias);
    let kind = TensorKind::ValueLinearBias;
    assert_eq!(
        read(&checkpoint.tensor(TensorId { layer: 0, kind }).unwrap())[0][..4],
        [0.0, 0.0, 1.0, 0.0]
    );
}

#[test]
fn a_quantised_head_is_used_whatever_the_config_says() {
    let mut folder = Folder::read(&data("packed-symmetric")).set("vocab_size", json!(32));
    folder.tensors.insert(
        "model.embed_tokens.weight".into(),
        Stored::numbers(1, &[32, 32]),
    );
    for (name, stored) in folder.tensors.clone() {
        if let Some(part) = name.strip_prefix("model.layers.0.self_attn.o_proj.") {
            folder.tensors.insert(format!("lm_head.{part}"), stored);
        }
    }
    assert_eq!(folder.config["tie_word_embeddings"], true);
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    assert!(!checkpoint.description().config.tie_embedder_and_logits);
    let rows = |kind| read(&checkpoint.tensor(TensorId { layer: 0, kind }).unwrap());
    assert_eq!(rows(TensorKind::LmHead), rows(TensorKind::Output));
}

#[test]
fn a_matrix_is_not_stored_twice() {
    let mut folder = Folder::read(&data("awq"));
    folder.add("model.layers.0.mlp.up_proj.weight", &[64, 32]);
    assert_eq!(
        reason(&folder),
        "tensor `model.layers.0.mlp.up_proj.qweight` and 2 others are not part of the model that \
         config.json describes"
    );
}
