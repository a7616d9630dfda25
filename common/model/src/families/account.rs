//! What a layer writes, which parameters it needs and what it costs, added up part by part.

use asyncdiff_plan::WeightSpec;

/// The bill of one layer. Costs saturate: a program of absurd size is refused elsewhere, not wrapped around here.
pub(super) struct Account {
    path: String,
    /// The parameters, as named in the checkpoint.
    pub(super) weights: Vec<WeightSpec>,
    /// Floating point operations for one row of the batch: convolutions, linear layers and attention products.
    /// Norms and activations are left out: they are bound by memory and below 1 % of the operations.
    pub(super) flops: u64,
}

impl Account {
    /// An empty account of the layer at this module path.
    pub(super) fn new(path: &str) -> Self {
        Self { path: path.to_owned(), weights: Vec::new(), flops: 0 }
    }

    /// A square convolution with bias that writes `pixels` pixels.
    pub(super) fn conv(&mut self, name: &str, channels: [u32; 2], kernel: u32, pixels: u64) {
        let [from, to] = channels;
        self.weight(name, "weight", vec![to, from, kernel, kernel]);
        self.weight(name, "bias", vec![to]);
        self.add_flops(&[from, to, kernel, kernel], pixels);
    }

    /// A linear layer over `tokens` tokens.
    pub(super) fn linear(&mut self, name: &str, widths: [u32; 2], bias: bool, tokens: u64) {
        let [from, to] = widths;
        self.weight(name, "weight", vec![to, from]);
        if bias {
            self.weight(name, "bias", vec![to]);
        }
        self.add_flops(&[from, to], tokens);
    }

    /// A group or layer norm with scale and shift.
    pub(super) fn norm(&mut self, name: &str, channels: u32) {
        self.weight(name, "weight", vec![channels]);
        self.weight(name, "bias", vec![channels]);
    }

    /// The two products of an attention: queries by keys, and scores by values.
    pub(super) fn attention(&mut self, queries: u64, keys: u64, width: u32) {
        self.add_flops(&[2, width], queries.saturating_mul(keys));
    }

    fn weight(&mut self, module: &str, parameter: &str, shape: Vec<u32>) {
        let name = if module.is_empty() {
            format!("{}.{parameter}", self.path)
        } else {
            format!("{}.{module}.{parameter}", self.path)
        };
        self.weights.push(WeightSpec { name, shape });
    }

    /// A product for each of `times`.
    pub(super) fn add_flops(&mut self, factors: &[u32], times: u64) {
        let multiply_adds = factors.iter().fold(times, |product, &factor| product.saturating_mul(u64::from(factor)));
        self.flops = self.flops.saturating_add(multiply_adds.saturating_mul(2));
    }
}
