//! Attention against its formula in f64.

use super::*;
use crate::kernels::cpu::testing::{each_isa, greatest_error, numbers, with_threads};

/// Rows, queries, keys, heads, head width.
#[derive(Clone, Copy, Debug)]
struct Shape(usize, usize, usize, usize, usize);

fn attend(isa: Isa, shape: Shape, causal: bool, input: &Input, threads: usize) -> Vec<f32> {
    let Shape(rows, queries, keys, heads, head_width) = shape;
    let width = heads * head_width;
    let attention = Attention::prepare(AttentionSpec { heads, head_width, causal }, isa);
    let mut output = vec![f32::NAN; rows * queries * width];
    with_threads(threads, || {
        let mut scratch = vec![f32::NAN; attention.scratch_floats(rows, queries, keys)];
        let query = Strided { elements: &input.query, offset: 0, stride: input.stride };
        let key = Strided { elements: &input.both, offset: 0, stride: input.stride };
        let value = Strided { elements: &input.both, offset: width, stride: input.stride };
        attention.run(AttentionCall {
            rows,
            queries,
            keys,
            query,
            key,
            value,
            scratch: &mut scratch,
            output: &mut output,
        });
    });
    output
}

/// Keys and values side by side in one buffer, queries in another of the same stride.
struct Input {
    query: Vec<f32>,
    both: Vec<f32>,
    stride: usize,
}

impl Input {
    fn new(Shape(rows, queries, keys, heads, head_width): Shape, query_factor: f32) -> Self {
        let stride = 2 * heads * head_width + 3;
        let query = numbers(1, rows * queries * stride).iter().map(|value| value * query_factor).collect();
        Self { query, both: numbers(2, rows * keys * stride), stride }
    }

    fn expected(&self, Shape(rows, queries, keys, heads, head_width): Shape, causal: bool) -> Vec<f64> {
        let width = heads * head_width;
        let mut output = vec![0.0; rows * queries * width];
        for (index, output) in output.chunks_mut(head_width).enumerate() {
            let (token, head) = (index / heads, index % heads);
            let (row, position) = (token / queries, token % queries);
            let query = &self.query[token * self.stride + head * head_width..][..head_width];
            let seen = if causal { keys.min(position + 1) } else { keys };
            let of_key = |key: usize| &self.both[(row * keys + key) * self.stride + head * head_width..];
            let score = |key: usize| {
                let products = query.iter().zip(of_key(key)).map(|(&q, &k)| f64::from(q) * f64::from(k));
                products.sum::<f64>() / (head_width as f64).sqrt()
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - greatest).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                let weight = (score - greatest).exp() / sum;
                for (output, &value) in output.iter_mut().zip(&of_key(key)[width..]) {
                    *output += weight * f64::from(value);
                }
            }
        }
        output
    }
}

#[test]
fn all_shapes_agree_with_the_formula() {
    let shapes = [
        Shape(2, 64, 64, 2, 32),
        Shape(1, 1, 1, 1, 1),
        Shape(2, 1, 77, 3, 8),
        Shape(1, 5, 77, 2, 40),
        Shape(2, 77, 77, 2, 64),
        Shape(1, 33, 97, 1, 80),
        Shape(1, 100, 200, 2, 160),
        Shape(1, 130, 49, 1, 512),
        Shape(1, 16, 96, 1, 7),
        Shape(1, 17, 193, 3, 33),
        Shape(1, 600, 5, 2, 8),
        Shape(3, 31, 1, 1, 13),
    ];
    each_isa(|isa| {
        for shape in shapes {
            for causal in [false, true] {
                let input = Input::new(shape, 1.0);
                let found = attend(isa, shape, causal, &input, 1);
                let error = greatest_error(&found, &input.expected(shape, causal));
                assert!(error < 2e-6, "{isa:?} {shape:?}, causal {causal}: error {error:e}");
            }
        }
    });
}

/// One score stands out by hundreds, so the f32 rounding of scores of ten thousand (1e-3) decides nothing.
#[test]
fn huge_scores_choose_one_value() {
    each_isa(|isa| {
        for sign in [1.0, -1.0] {
            let shape = Shape(1, 40, 150, 1, 16);
            let mut input = Input::new(shape, 0.0);
            for (query, token) in input.query.chunks_mut(input.stride).enumerate() {
                token[0] = 400.0 + query as f32;
            }
            for (key, token) in input.both.chunks_mut(input.stride).enumerate() {
                token[0] = sign * ((key * 37 % 150) as f32 - 50.0);
            }
            let found = attend(isa, shape, false, &input, 1);
            let error = greatest_error(&found, &input.expected(shape, false));
            assert!(error < 1e-6, "{isa:?}: error {error:e}");
        }
    });
}

/// Scores of ±1e4 at random: rounding them costs digits, but the output stays finite and near.
#[test]
fn large_random_scores_stay_finite() {
    each_isa(|isa| {
        let shape = Shape(1, 64, 200, 1, 32);
        let input = Input::new(shape, 5000.0);
        let found = attend(isa, shape, true, &input, 1);
        let error = greatest_error(&found, &input.expected(shape, true));
        assert!(error < 2e-2, "{isa:?}: error {error:e}");
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    each_isa(|isa| {
        for (shape, causal) in
            [(Shape(2, 256, 256, 4, 32), false), (Shape(1, 500, 77, 1, 40), false), (Shape(2, 300, 300, 2, 64), true)]
        {
            let input = Input::new(shape, 1.0);
            let one = attend(isa, shape, causal, &input, 1);
            for threads in [2, 3] {
                assert!(one == attend(isa, shape, causal, &input, threads), "{isa:?} {shape:?}, {threads} threads");
            }
        }
    });
}

#[test]
fn scratch_for_one_thread_is_enough_for_more() {
    let shape = Shape(2, 256, 256, 2, 32);
    let input = Input::new(shape, 1.0);
    let expected = attend(Isa::best(), shape, false, &input, 1);
    let attention = Attention::prepare(AttentionSpec { heads: 2, head_width: 32, causal: false }, Isa::best());
    let mut scratch = vec![f32::NAN; with_threads(1, || attention.scratch_floats(2, 256, 256))];
    let mut output = vec![f32::NAN; expected.len()];
    let stride = input.stride;
    let query = Strided { elements: &input.query, offset: 0, stride };
    let key = Strided { elements: &input.both, offset: 0, stride };
    let value = Strided { elements: &input.both, offset: 64, stride };
    let (scratch, found) = (&mut scratch, &mut output);
    with_threads(3, || {
        attention.run(AttentionCall { rows: 2, queries: 256, keys: 256, query, key, value, scratch, output: found });
    });
    assert!(output == expected);
}

#[test]
fn hidden_keys_may_hold_anything() {
    each_isa(|isa| {
        let shape = Shape(1, 50, 50, 1, 8);
        let mut input = Input::new(shape, 1.0);
        let expected = attend(isa, shape, true, &input, 1);
        let hidden = 49 * input.stride;
        input.both[hidden..].fill(1.0e30);
        let found = attend(isa, shape, true, &input, 1);
        assert_eq!(found[..49 * 8], expected[..49 * 8], "{isa:?}");
    });
}
