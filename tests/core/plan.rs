//! The arithmetic of plans, against its documentation worked out in 128 bits: every combination of
//! small sizes, and of sizes up to the largest that an image can name.

use crate::common::random::{self, Memory, convolution, window};
use pocketlm::model::{DType, Header, Kv, LayerKind, Rope};
use pocketlm::run::Plan;

/// The parts as `Plan`'s table has them. What 128 bits do not hold, no memory does either.
fn documented(header: &Header<'_>, [context, batch, logits]: [u32; 3], kv: Kv) -> [u128; 9] {
    let config = &header.config;
    let [k, m, d, p, f, v, context, batch, logits] = [
        config.num_kv_heads,
        config.query_head_multiplier,
        config.embedding_dim,
        config.projection_dim,
        config.mlp_hidden_dim,
        config.vocab_size,
        context,
        batch,
        logits,
    ]
    .map(u128::from);
    let product = |factors: &[u128]| {
        if factors.contains(&0) {
            0
        } else {
            factors.iter().fold(1, |a: u128, &b| a.saturating_mul(b))
        }
    };
    let h = product(&[k, m]);
    let rows = |kind: LayerKind| -> Vec<u128> {
        let layers = header.layers.iter().filter(|layer| layer.kind == kind);
        let rows = layers.map(|layer| match layer.window {
            Some(window) => context.min(u128::from(window.get()) + batch.saturating_sub(1)),
            None => context,
        });
        rows.collect()
    };
    let convolved = rows(LayerKind::Convolution);
    let rows = rows(LayerKind::Attention);
    let rows: Vec<u128> = rows.iter().map(|rows| rows.next_multiple_of(8)).collect();
    let queries = product(&[h, p]);
    let longest = rows.iter().copied().max().unwrap_or(0);
    let attention =
        product(&[4, batch, p, 2 * h + 2 * k]).saturating_add(product(&[4, h, longest]));
    let widest = d.max(queries).max(f).div_ceil(32);
    let groups = product(&[72, batch, widest.max(product(&[h, p.div_ceil(32)]))]);
    // The same in blocks of 16.
    let blocks = if batch < 32 {
        0
    } else {
        product(&[136 * 16, batch.div_ceil(16), widest])
    };
    let (key, value) = match kv {
        Kv::F32 => (4 * p, 4 * p),
        Kv::F16 | Kv::Bf16 => (2 * p, 2 * p),
        Kv::Q8 => (34 * p.div_ceil(32), 34 * p.div_ceil(32)),
    };
    let cache = rows.iter().fold(0u128, |sum, &rows| {
        sum.saturating_add(product(&[k, rows, key + value]))
    });
    let cache = convolved.iter().fold(cache, |sum, &rows| {
        sum.saturating_add(product(&[4, rows, d]))
    });
    let convolution = if convolved.is_empty() {
        0
    } else {
        product(&[16, batch, d])
    };
    let parts = [
        product(&[8, context]),
        product(&[4, batch, d]),
        product(&[4, batch, d]),
        attention.max(product(&[8, batch, f])).max(convolution),
        product(&[4, logits, v]),
        groups
            .checked_next_multiple_of(64)
            .unwrap_or(u128::MAX)
            .saturating_add(blocks),
        product(&[8, batch, p]),
        0,
        cache,
    ];
    parts.map(|bytes| bytes.checked_next_multiple_of(64).unwrap_or(u128::MAX))
}

fn check(header: &Header<'_>, limits: [u32; 3], kv: Kv) {
    let most = usize::MAX as u128;
    let [context, batch, logits] = limits;
    let plan = Plan::new(header)
        .context(context)
        .batch(batch)
        .logits(logits)
        .kv(kv);
    let documented = documented(header, limits, kv);
    let what = || {
        format!(
            "{:?}, context {context}, batch {batch}, logits {logits}, {kv:?}",
            header.config
        )
    };
    for (part, bytes) in plan.parts().iter().zip(documented) {
        assert_eq!(
            part.bytes as u128,
            bytes.min(most),
            "{}: {}",
            part.name,
            what()
        );
        assert!(part.bytes.is_multiple_of(64) || part.bytes == usize::MAX);
    }
    let all = documented
        .iter()
        .fold(0u128, |sum, &bytes| sum.saturating_add(bytes));
    assert_eq!(plan.bytes() as u128, all.min(most), "{}", what());
}

/// Calls `visit` with every choice of one value from each list.
fn every<const N: usize>(lists: [&[u32]; N], mut visit: impl FnMut([u32; N])) {
    let choices: usize = lists.iter().map(|list| list.len()).product();
    for mut choice in 0..choices {
        visit(lists.map(|list| {
            let value = list[choice % list.len()];
            choice /= list.len();
            value
        }));
    }
}

#[test]
fn every_part_of_every_plan_is_what_the_documentation_says() {
    let layers = [
        vec![],
        vec![window(0, Rope::Global)],
        vec![window(3, Rope::Local)],
        vec![
            window(1, Rope::None),
            window(0, Rope::Global),
            window(9, Rope::Local),
            window(u32::MAX, Rope::Local),
        ],
        vec![convolution(3)],
        vec![convolution(u32::MAX / (1 << 16)), window(9, Rope::Local)],
    ];
    let mut plans = 0u64;
    for layers in layers {
        let image = Memory::new(random::plain(layers), 1).pack(DType::F32);
        let whole = Header::read(&image).unwrap();
        let mut both = |[k, m, d, p, f, v, context, batch, logits]: [u32; 9]| {
            let mut header = whole;
            let config = &mut header.config;
            (config.num_kv_heads, config.query_head_multiplier) = (k, m);
            (config.embedding_dim, config.projection_dim) = (d, p);
            (config.mlp_hidden_dim, config.vocab_size) = (f, v);
            for kv in Kv::ALL {
                check(&header, [context, batch, logits], kv);
                plans += 1;
            }
        };
        let small: [&[u32]; 9] = [
            &[1, 2, 3],
            &[1, 3],
            &[1, 16, 33],
            &[2, 30, 32, 34],
            &[1, 40, 64, 65],
            &[1, 16, 17],
            &[1, 2, 3, 7, 8, 9, 16, 17, 25],
            &[1, 2, 3, 8, 9],
            &[1, 5],
        ];
        every(small, &mut both);
        // Beyond 32 bits, and beyond 64.
        let large = [0, 1, 1 << 16, u32::MAX];
        every(
            [
                &[1, 1 << 16, u32::MAX],
                &[1],
                &large,
                &large,
                &large,
                &[1, u32::MAX],
                &large,
                &large,
                &[1],
            ],
            &mut both,
        );
        every(
            [
                &large,
                &[2, 1 << 15],
                &[8],
                &large,
                &[8],
                &[8, u32::MAX],
                &large,
                &[8, u32::MAX],
                &large,
            ],
            &mut both,
        );
    }
    println!("{plans} plans");
}
