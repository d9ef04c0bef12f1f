//! What a user of the sampler notices: which token, how often, and the same one everywhere.

use pocketlm::Error;
use pocketlm::sample::{Choice, Penalties, Recent, Sampler};
use pocketlm_kernels::math::exp;

/// 2³¹, the weight of the most probable token.
const FULL: u64 = 1 << 31;

/// The sampler as its documentation reads, with a sort and vectors.
#[derive(Clone, Debug)]
struct Naive {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

impl Naive {
    fn sampler(&self) -> Sampler<'static> {
        Sampler::new(0)
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
    }

    fn weights(&self, logits: &[f32]) -> Option<Vec<u64>> {
        let mut logits: Vec<f32> = logits
            .iter()
            .map(|&x| if x.is_nan() { f32::NEG_INFINITY } else { x })
            .collect();
        if logits.contains(&f32::INFINITY) {
            logits.iter_mut().for_each(|x| {
                *x = if *x == f32::INFINITY {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            });
        }
        let mut order: Vec<usize> = (0..logits.len())
            .filter(|&id| logits[id] > f32::NEG_INFINITY)
            .collect();
        order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
        let max = logits[*order.first()?];
        let weight = |id: usize, temperature: f32| {
            u64::from((exp((logits[id] - max) / temperature) * FULL as f32) as u32)
        };

        if self.temperature == 0.0 {
            order.truncate(1);
        } else {
            if self.top_k > 0 {
                order.truncate(self.top_k);
            }
            if self.top_p < 1.0 {
                let total: u128 = order.iter().map(|&id| u128::from(weight(id, 1.0))).sum();
                let enough =
                    ((total * (f64::from(self.top_p) * 4294967296.0) as u128) >> 32).max(1) as u64;
                let mut sum = 0;
                let kept = order.iter().take_while(|&&id| {
                    let missing = sum < enough;
                    sum += weight(id, 1.0);
                    missing
                });
                order.truncate(kept.count());
            }
            if self.min_p > 0.0 {
                order.retain(|&id| logits[id] >= max + libm::logf(self.min_p));
            }
        }
        let mut weights = vec![0; logits.len()];
        for id in order {
            weights[id] = weight(
                id,
                if self.temperature == 0.0 {
                    1.0
                } else {
                    self.temperature
                },
            );
        }
        Some(weights)
    }
}

/// SplitMix64, so that the cases do not hang on the generator under test.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// In [0, 1).
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Logits of one of several kinds: spread, many ties, narrow, extreme, and with values no model
    /// should give.
    fn logits(&mut self, vocab_size: usize) -> Vec<f32> {
        let kind = self.below(6);
        let odd = [
            f32::NAN,
            -f32::NAN,
            f32::NEG_INFINITY,
            f32::MIN,
            f32::MAX,
            0.0,
            -0.0,
            f32::from_bits(1),
        ];
        let mut one = || match kind {
            0 => (self.unit() - 0.5) * 40.0,
            1 => self.below(4) as f32 - 2.0,
            2 => 10.0 + self.unit() * 1e-5,
            3 => f32::from_bits(self.bits() as u32),
            4 if self.below(3) == 0 => self.pick(&odd),
            4 => self.unit(),
            _ => -20.0 * self.unit() * self.unit(),
        };
        (0..vocab_size).map(|_| one()).collect()
    }
}

fn weights(sampler: &Sampler, logits: &[f32]) -> Option<Vec<u64>> {
    let mut logits = logits.to_vec();
    let distribution = sampler.distribution(&mut logits).ok()?;
    let weights: Vec<u64> = distribution.weights().iter().map(|&w| w as u64).collect();
    assert_eq!(distribution.total(), weights.iter().sum::<u64>());
    Some(weights)
}

fn kept(sampler: Sampler, logits: &[f32]) -> Vec<usize> {
    let weights = weights(&sampler, logits).unwrap();
    (0..logits.len()).filter(|&id| weights[id] > 0).collect()
}

#[test]
fn every_distribution_equals_that_of_sorting() {
    let mut random = Random(1);
    for case in 0..20_000 {
        let vocab_size = random.pick(&[1, 2, 3, 17, 100, 300]);
        let logits = random.logits(vocab_size);
        let naive = Naive {
            temperature: random.pick(&[0.0, 1e-30, 0.1, 0.8, 1.0, 2.0, f32::INFINITY]),
            top_k: random.pick(&[0, 0, 1, 2, 5, 40, 1000]),
            top_p: random.pick(&[1.0, 1.0, 0.0, 1e-9, 0.3, 0.5, 0.9, 0.999_999]),
            min_p: random.pick(&[0.0, 0.0, 1e-6, 0.05, 0.5, 1.0]),
        };
        assert_eq!(
            weights(&naive.sampler(), &logits),
            naive.weights(&logits),
            "case {case}: {naive:?} on {logits:?}"
        );
    }
}

/// The token that slices choose, and how many they were.
fn in_slices(
    sampler: &mut Sampler,
    logits: &mut [f32],
    mut budget: impl FnMut() -> u32,
) -> (Result<u32, Error>, usize) {
    let mut choice = Choice::new();
    let mut slices = 1;
    let chosen = loop {
        match sampler.step(&mut choice, logits, budget()) {
            Ok(None) => slices += 1,
            Ok(Some(id)) => break Ok(id),
            Err(error) => break Err(error),
        }
    };
    let again = sampler.step(&mut choice, logits, u32::MAX);
    assert_eq!(again, chosen.map(Some), "once more");
    (chosen, slices)
}

#[test]
fn a_choice_in_slices_is_the_choice_of_one_call() {
    let mut random = Random(5);
    for case in 0..5_000 {
        let vocab_size = random.pick(&[0, 1, 2, 63, 64, 65, 300, 1000]);
        let bias: Vec<(u32, f32)> = (0..random.pick(&[0, 0, 0, 2, 150]))
            .map(|_| {
                (
                    random.below(1 + vocab_size as u64 * 201 / 200) as u32,
                    random.pick(&[1.0, -2.5, f32::NEG_INFINITY]),
                )
            })
            .collect();
        let settings = (
            random.bits(),
            random.pick(&[0.0, 0.1, 0.8, 1.0, f32::INFINITY]),
            random.pick(&[0, 0, 1, 5, 40, 1000]),
            random.pick(&[1.0, 1.0, 0.0, 0.5, 0.999_999]),
            random.pick(&[0.0, 0.0, 0.05, 1.0]),
        );
        let make = |window| {
            let (seed, temperature, top_k, top_p, min_p) = settings;
            let penalties = Penalties::over(window)
                .repeat(1.3)
                .frequency(0.2)
                .presence(0.1);
            let sampler = Sampler::new(seed)
                .temperature(temperature)
                .top_k(top_k)
                .top_p(top_p)
                .min_p(min_p);
            sampler.logit_bias(&bias).penalties(penalties)
        };
        let mut whole_window = [Recent::EMPTY; 70];
        let mut sliced_window = [Recent::EMPTY; 70];
        let mut whole = make(&mut whole_window);
        let mut sliced = make(&mut sliced_window);
        let budgets = random.pick(&[&[0][..], &[1], &[2, 3, 5], &[u32::MAX], &[1, u32::MAX, 17]]);
        // The second and the third choice show that generator and window moved alike.
        for _ in 0..3 {
            let logits = random.logits(vocab_size);
            let chosen = whole.sample(&mut logits.clone());
            let (found, _) = in_slices(&mut sliced, &mut logits.clone(), || random.pick(budgets));
            assert_eq!(
                found, chosen,
                "case {case}: {settings:?}, {bias:?} on {logits:?}"
            );
        }
    }
}

#[test]
fn a_slice_looks_at_no_more_logits_than_its_budget_allows() {
    let mut random = Random(6);
    let logits: Vec<f32> = (0..64_000).map(|_| random.unit() * 9.0).collect();
    let slices = |budget| {
        let mut sampler = Sampler::new(1)
            .temperature(0.8)
            .top_k(40)
            .top_p(0.9)
            .min_p(0.05);
        in_slices(&mut sampler, &mut logits.clone(), || budget).1
    };
    // 1 pass for the largest, 7 for each of two filters, 1 for the weights, part of one for the
    // draw.
    assert!((16_000..=17_000).contains(&slices(1)), "{}", slices(1));
    assert!((640..=680).contains(&slices(100)), "{}", slices(100));
    assert_eq!(slices(u32::MAX), 1);
}

#[test]
fn an_abandoned_choice_changes_neither_generator_nor_window() {
    let logits: Vec<f32> = (0..500).map(|id| (id % 7) as f32).collect();
    for slices in 1..=16 {
        let chosen = [0, slices].map(|slices| {
            let mut window = [Recent::EMPTY; 8];
            let mut sampler = Sampler::new(8).penalties(Penalties::over(&mut window).presence(9.0));
            let mut spoilt = logits.clone();
            let mut choice = Choice::new();
            // 500 logits are 8 units a pass, and even without a filter there are two passes before
            // the draw.
            (0..slices)
                .for_each(|_| assert_eq!(sampler.step(&mut choice, &mut spoilt, 1), Ok(None)));
            [(); 8].map(|()| sampler.sample(&mut logits.clone()).unwrap())
        });
        assert_eq!(chosen[0], chosen[1], "after {slices} slices");
    }
}

/// A choice borrows nothing, so other logits or settings can come between two calls.
#[test]
fn logits_and_settings_may_change_between_slices() {
    let mut random = Random(9);
    for _ in 0..20_000 {
        let mut sampler = Sampler::new(1).top_k(40).top_p(0.9);
        let mut choice = Choice::new();
        for _ in 0..100 {
            sampler.set_temperature(random.pick(&[0.0, 0.7, 1.0]));
            sampler.set_top_k(random.pick(&[0, 1, 40]));
            sampler.set_top_p(random.pick(&[0.0, 0.5, 1.0]));
            let vocab_size = random.pick(&[0, 1, 63, 500]);
            let mut logits = random.logits(vocab_size);
            if sampler.step(&mut choice, &mut logits, 8) != Ok(None) {
                break;
            }
        }
    }
}

#[test]
fn settings_change_a_sampler_in_use() {
    let logits = [0.5, 3.0, -1.0, 2.9];
    let mut sampler = Sampler::new(7);
    sampler.set_temperature(0.0);
    assert_eq!(sampler.sample(&mut logits.clone()), Ok(1));
    sampler.set_logit_bias(&[(1, f32::NEG_INFINITY)]);
    assert_eq!(sampler.sample(&mut logits.clone()), Ok(3));
    sampler.set_logit_bias(&[]);
    sampler.set_temperature(0.8);
    sampler.set_top_k(3);
    sampler.set_top_p(0.9);
    sampler.set_min_p(0.01);
    sampler.set_seed(42);
    let mut built = Sampler::new(42)
        .temperature(0.8)
        .top_k(3)
        .top_p(0.9)
        .min_p(0.01);
    for _ in 0..50 {
        let expected = built.sample(&mut logits.clone());
        assert_eq!(sampler.sample(&mut logits.clone()), expected);
    }
}

#[test]
fn every_choice_is_where_its_draw_falls() {
    let mut random = Random(2);
    for _ in 0..2_000 {
        let vocab_size = random.pick(&[1, 2, 30]);
        let mut logits = random.logits(vocab_size);
        let Ok(distribution) = Sampler::new(0).distribution(&mut logits) else {
            continue;
        };
        let draw = random.bits() as u32;
        let place = (u128::from(distribution.total()) * u128::from(draw)) >> 32;
        let mut sum = 0;
        let expected = distribution.weights().iter().position(|&weight| {
            sum += weight as u128;
            place < sum
        });
        assert_eq!(Some(distribution.choose(draw) as usize), expected);
    }
}

#[test]
fn draws_are_divided_at_the_exact_thresholds() {
    // Probabilities 1/4, 1/2, 1/8, 1/8: the largest is drawn from as many numbers as the others
    // together.
    let ln2 = core::f32::consts::LN_2;
    let mut logits = [-ln2, 0.0, -2.0 * ln2, -2.0 * ln2];
    let distribution = Sampler::new(0).distribution(&mut logits).unwrap();
    assert_eq!(
        distribution.weights(),
        [
            (FULL / 2) as f32,
            FULL as f32,
            (FULL / 4) as f32,
            (FULL / 4) as f32
        ]
    );

    let border = |eighths: u32| eighths << 29;
    for (id, draws) in [
        (0, [0, 1, border(2) - 1]),
        (1, [border(2), border(4), border(6) - 1]),
        (2, [border(6), border(6) + 1, border(7) - 1]),
        (3, [border(7), u32::MAX - 1, u32::MAX]),
    ] {
        assert_eq!(draws.map(|draw| distribution.choose(draw)), [id; 3]);
    }
}

#[test]
fn greedy_takes_the_largest_logit_and_the_lowest_id_of_equals() {
    let greedy = |logits: &[f32]| Sampler::greedy().sample(&mut logits.to_vec());
    assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), Ok(1));
    assert_eq!(greedy(&[-0.0, 0.0]), Ok(0));
    assert_eq!(greedy(&[f32::NAN, f32::MIN]), Ok(1));
    assert_eq!(greedy(&[f32::MAX, f32::INFINITY, f32::INFINITY]), Ok(1));
    assert_eq!(greedy(&[7.0; 9]), Ok(0));
    assert_eq!(greedy(&[-5.0]), Ok(0));
}

#[test]
fn logits_without_a_candidate_are_refused_and_leave_the_generator_alone() {
    let mut sampler = Sampler::new(3);
    let fresh = Sampler::new(3).sample(&mut [0.0; 1000]);
    for logits in [&mut [][..], &mut [f32::NEG_INFINITY; 3], &mut [f32::NAN; 3]] {
        assert_eq!(sampler.sample(logits), Err(Error::NoCandidate));
        assert_eq!(Sampler::greedy().sample(logits), Err(Error::NoCandidate));
    }
    assert_eq!(sampler.sample(&mut [0.0; 1000]), fresh);
}

#[test]
fn infinite_logits_share_the_probability() {
    let logits = [0.0, f32::INFINITY, f32::MAX, f32::INFINITY];
    assert_eq!(
        weights(&Sampler::new(0), &logits),
        Some(vec![0, FULL, 0, FULL])
    );
}

#[test]
fn top_k_keeps_the_lower_ids_of_equal_logits() {
    assert_eq!(
        kept(Sampler::new(0).top_k(3), &[1.0, 2.0, 1.0, 1.0, 2.0]),
        [0, 1, 4]
    );
}

#[test]
fn top_p_keeps_the_token_that_reaches_p_and_no_more() {
    let ln2 = core::f32::consts::LN_2;
    let logits = [0.0, -ln2, -2.0 * ln2, -2.0 * ln2]; // 1/2, 1/4, 1/8, 1/8
    let kept = |p| kept(Sampler::new(0).top_p(p), &logits).len();
    assert_eq!(
        [0.0, 0.5, 0.500_001, 0.75, 0.750_001, 0.875, 0.875_001, 1.0].map(kept),
        [1, 1, 2, 2, 3, 3, 4, 4]
    );
}

#[test]
fn min_p_compares_with_the_best_before_temperature() {
    let logits = [0.0, -1.0, -2.0];
    let p = 0.3; // between exp(-2) and exp(-1)
    for temperature in [0.1, 1.0, 100.0] {
        assert_eq!(
            kept(Sampler::new(0).min_p(p).temperature(temperature), &logits),
            [0, 1]
        );
    }
}

#[test]
fn bias_adds_bans_and_refuses_unknown_ids() {
    let choose =
        |bias: &[(u32, f32)], logits: &mut [f32]| Sampler::greedy().logit_bias(bias).sample(logits);
    assert_eq!(choose(&[(2, 1.5)], &mut [1.0, 2.0, 1.0]), Ok(2));
    assert_eq!(choose(&[(2, 0.5), (2, 0.75)], &mut [1.0, 2.0, 1.0]), Ok(2));
    assert_eq!(
        choose(&[(1, f32::NEG_INFINITY)], &mut [1.0, f32::INFINITY]),
        Ok(0)
    );
    assert_eq!(
        choose(&[(2, 0.0)], &mut [1.0, 2.0]),
        Err(Error::TokenOutOfRange {
            token: 2,
            vocab_size: 2
        })
    );
}

#[test]
fn penalties_follow_the_formula() {
    let mut window = [Recent::EMPTY; 8];
    let penalties = Penalties::over(&mut window)
        .repeat(2.0)
        .frequency(0.25)
        .presence(0.5);
    let mut sampler = Sampler::new(0).penalties(penalties);
    for id in [0, 1, 0, 0, 2] {
        sampler.accept(id);
    }
    // 4 / 2 - 3 * 0.25 - 0.5, -1 * 2 - 0.25 - 0.5, 0 - 0.25 - 0.5, untouched
    let penalised = weights(&Sampler::new(0), &[0.75, -2.75, -0.75, 3.0]);
    assert_eq!(weights(&sampler, &[4.0, -1.0, 0.0, 3.0]), penalised);
}

#[test]
fn the_window_holds_the_newest_tokens_however_often_they_occur() {
    let mut random = Random(4);
    for length in [0, 1, 2, 5, 16] {
        let mut window = vec![Recent::EMPTY; length];
        let mut sampler = Sampler::new(0).penalties(Penalties::over(&mut window).frequency(1.0));
        let mut history = Vec::new();
        for step in 0..300 {
            let id = random.below(4) as u32;
            sampler.accept(id);
            history.push(id);
            let recent = &history[history.len().saturating_sub(length)..];
            let counted =
                [0, 1, 2, 3].map(|id| -(recent.iter().filter(|&&t| t == id).count() as f32));
            assert_eq!(
                weights(&sampler, &[0.0; 4]),
                weights(&Sampler::new(0), &counted),
                "window {length}, step {step}"
            );
            if step == 150 {
                sampler.forget();
                history.clear();
            }
        }
    }
}

#[test]
fn a_choice_enters_the_window() {
    let mut window = [Recent::EMPTY; 2];
    let mut sampler = Sampler::greedy().penalties(Penalties::over(&mut window).presence(10.0));
    let chosen = [(); 5].map(|()| sampler.sample(&mut [3.0, 2.0, 1.0]).unwrap());
    assert_eq!(chosen, [0, 1, 2, 0, 1]);
}

#[test]
fn settings_out_of_range_mean_the_nearest_valid_one() {
    let logits = [1.0, 2.0, 0.5];
    let all = weights(&Sampler::new(0), &logits);
    let best = Some(vec![0, FULL, 0]);
    for bad in [0.0, -1.0, f32::NAN, f32::NEG_INFINITY] {
        assert_eq!(
            weights(&Sampler::new(0).temperature(bad), &logits),
            best,
            "temperature {bad}"
        );
        assert_eq!(
            weights(&Sampler::new(0).min_p(bad), &logits),
            all,
            "min_p {bad}"
        );
    }
    for off in [1.0, 1.5, f32::INFINITY, f32::NAN] {
        assert_eq!(
            weights(&Sampler::new(0).top_p(off), &logits),
            all,
            "top_p {off}"
        );
    }
    assert_eq!(weights(&Sampler::new(0).top_p(-1.0), &logits), best);
    assert_eq!(weights(&Sampler::new(0).min_p(2.0), &logits), best);
    assert_eq!(weights(&Sampler::new(0).top_k(0), &logits), all);
}

/// FNV-1a over 300 choices.
fn digest(mut sampler: Sampler) -> u64 {
    let mut random = Random(7);
    (0..300).fold(0xcbf2_9ce4_8422_2325, |digest: u64, _| {
        let mut logits: Vec<f32> = (0..1024).map(|_| (random.unit() - 0.5) * 16.0).collect();
        let id = sampler.sample(&mut logits).unwrap();
        (digest ^ u64::from(id)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[test]
fn a_seed_gives_the_same_tokens_on_every_target() {
    let mut window = [Recent::EMPTY; 64];
    let penalties = Penalties::over(&mut window)
        .repeat(1.3)
        .frequency(0.1)
        .presence(0.1);
    assert_eq!(digest(Sampler::greedy()), 0xf1826629aff02500);
    assert_eq!(digest(Sampler::new(1)), 0xf6a473664b0aa5a7);
    assert_eq!(
        digest(
            Sampler::new(1)
                .temperature(0.8)
                .top_k(40)
                .top_p(0.95)
                .min_p(0.05)
        ),
        0xb9e3f90f9d70b030
    );
    assert_eq!(
        digest(
            Sampler::new(2)
                .temperature(1.5)
                .top_p(0.9)
                .penalties(penalties)
        ),
        0xb84baccdc14fcbec
    );
}

#[test]
fn the_nth_token_of_a_seed_does_not_depend_on_earlier_settings() {
    let after = |mut sampler: Sampler<'static>| {
        sampler.sample(&mut [1.0; 50]).unwrap();
        sampler.temperature(1.0).sample(&mut [1.0; 5000]).unwrap()
    };
    assert_eq!(
        after(Sampler::new(9).temperature(0.0)),
        after(Sampler::new(9))
    );
}

#[test]
fn the_ram_of_a_sampler_is_known_before_it_exists() {
    assert_eq!(
        Sampler::bytes(64),
        size_of::<Sampler>() + 64 * size_of::<Recent>()
    );
    assert_eq!(size_of::<Recent>(), 8);
    assert!(Sampler::bytes(0) <= 128, "{}", Sampler::bytes(0));
}
