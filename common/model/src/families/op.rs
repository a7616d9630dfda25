//! The arithmetic of a layer as data: enough to list its parameters, to price it and to load it.

use asyncdiff_plan::WeightSpec;

use super::account::Account;

/// How to compute a layer, without weights. Two layers with equal operations and operand shapes cost the same.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerOp {
    /// Pooled text and sinusoids of numbers side by side, through two linear layers with SiLU between: constant during a job. Reads
    /// `[time ids, text embeds]`.
    AddedEmbedding(AddedEmbeddingOp),
    /// Sinusoids of the timestep through two linear layers with SiLU between. Reads `[timestep]` or `[timestep, added embedding]`.
    TimeEmbedding(TimeEmbeddingOp),
    /// A convolution at the layer's own path. Reads `[hidden state]`.
    Conv2d(ConvOp),
    /// A ResNet block. Reads `[hidden state, time embedding]` or `[hidden state, skip connection, time embedding]`.
    Resnet(ResnetOp),
    /// Keys and values of a transformer's cross attentions, side by side: constant during a job. Reads `[encoder hidden states]`.
    CrossAttentionContext(TransformerOp),
    /// Transformer blocks over the pixels. Reads `[hidden state, cross attention context]`.
    Transformer2d(TransformerOp),
    /// A 3×3 convolution of stride 2 at `conv`. Reads `[hidden state]`.
    Downsample {
        /// Channels in and out.
        channels: u32,
    },
    /// Nearest neighbour to twice the size (or one less), then a 3×3 convolution at `conv`. Reads `[hidden state]`.
    Upsample(UpsampleOp),
    /// A group norm without activation. Reads `[hidden state]`.
    GroupNorm(GroupNormOp),
    /// SiLU, then a convolution at the layer's own path: makes the noise prediction. Reads `[hidden state]`.
    SiluConv2d(ConvOp),
}

/// Options of [`LayerOp::AddedEmbedding`].
#[derive(Clone, Debug, PartialEq)]
pub struct AddedEmbeddingOp {
    /// How many numbers there are.
    pub numbers: u32,
    /// Width of the pooled text.
    pub text_width: u32,
    /// The sinusoids of each number.
    pub sinusoids: SinusoidsWidth,
    /// Width of the embedding.
    pub width: u32,
}

/// Options of [`LayerOp::TimeEmbedding`].
#[derive(Clone, Debug, PartialEq)]
pub struct TimeEmbeddingOp {
    /// The sinusoids of the timestep.
    pub sinusoids: SinusoidsWidth,
    /// Width of the embedding.
    pub width: u32,
    /// Another embedding is added, which is the second operand.
    pub added: bool,
}

/// The sinusoids of one number.
#[derive(Clone, Debug, PartialEq)]
pub struct SinusoidsWidth {
    /// How many: half sines, half cosines.
    pub width: u32,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// What is subtracted from the number of frequencies in the exponent's divisor.
    pub freq_shift: f32,
}

/// Options of a square convolution of stride 1 that keeps the size.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvOp {
    /// Channels read.
    pub in_channels: u32,
    /// Channels written.
    pub out_channels: u32,
    /// Side of the kernel; odd.
    pub kernel: u32,
}

/// Options of [`LayerOp::Resnet`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResnetOp {
    /// Channels of the hidden state and the skip connection together.
    pub in_channels: u32,
    /// Channels written; a 1×1 convolution makes the shortcut where they differ from `in_channels`.
    pub out_channels: u32,
    /// Width of the time embedding.
    pub time_width: u32,
    /// Groups of both group norms.
    pub groups: u32,
    /// Epsilon of both group norms.
    pub epsilon: f64,
}

/// Options of [`LayerOp::Transformer2d`].
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerOp {
    /// Channels read and written.
    pub channels: u32,
    /// Heads of every attention.
    pub heads: u32,
    /// Width of a head.
    pub head_width: u32,
    /// Number of transformer blocks.
    pub blocks: u32,
    /// Width of the encoder hidden states.
    pub cross_width: u32,
    /// Groups of the group norm before the first block.
    pub groups: u32,
    /// Projections in and out are linear layers, not 1×1 convolutions: only the stored shape differs.
    pub linear_projection: bool,
    /// The first attention of a block too reads the encoder hidden states.
    pub only_cross_attention: bool,
}

/// Options of [`LayerOp::Upsample`].
#[derive(Clone, Debug, PartialEq)]
pub struct UpsampleOp {
    /// Channels in and out.
    pub channels: u32,
    /// Height to make: twice the input's, or one less where an odd size was halved on the way down.
    pub height: u32,
    /// Width to make, likewise.
    pub width: u32,
}

/// Options of [`LayerOp::GroupNorm`].
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormOp {
    /// Channels in and out.
    pub channels: u32,
    /// Number of groups.
    pub groups: u32,
    /// Added to the variance.
    pub epsilon: f64,
}

impl TransformerOp {
    /// What a transformer's path is followed by in the name of the layer that makes its cross attentions' keys and values.
    pub const CONTEXT_SUFFIX: &str = ".context";
    /// Epsilon of the group norm, fixed in diffusers' `Transformer2DModel`.
    pub const GROUP_NORM_EPSILON: f64 = 1e-6;
    /// Epsilon of the layer norms, the default of PyTorch's `LayerNorm`.
    pub const LAYER_NORM_EPSILON: f64 = 1e-5;
    /// The feed-forward layer is this many times wider than the hidden state, fixed in diffusers' `FeedForward`.
    pub const FEED_FORWARD_FACTOR: u32 = 4;

    /// Cross attentions of one block.
    #[must_use]
    pub fn cross_attentions(&self) -> &'static [&'static str] {
        if self.only_cross_attention { &["attn1", "attn2"] } else { &["attn2"] }
    }

    /// Width of all cross attentions' keys and values side by side.
    #[must_use]
    pub fn context_width(&self) -> u32 {
        2 * self.blocks * self.cross_attentions().len() as u32 * self.inner_width()
    }

    /// Width inside the blocks. It is the channels unless the heads do not divide them.
    #[must_use]
    pub fn inner_width(&self) -> u32 {
        self.heads * self.head_width
    }
}

impl LayerOp {
    /// The operation's name in tables of costs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AddedEmbedding(_) => "added embedding",
            Self::TimeEmbedding(_) => "time embedding",
            Self::Conv2d(_) | Self::SiluConv2d(_) => "convolution",
            Self::Resnet(_) => "resnet",
            Self::CrossAttentionContext(_) => "cross attention context",
            Self::Transformer2d(_) => "transformer",
            Self::Downsample { .. } => "downsample",
            Self::Upsample(_) => "upsample",
            Self::GroupNorm(_) => "group norm",
        }
    }

    /// The shape written for one row of the batch, from the shape of the first operand.
    pub(super) fn writes(&self, hidden: &[u32]) -> Vec<u32> {
        let (height, width) = side(hidden);
        match self {
            Self::AddedEmbedding(op) => vec![op.width],
            Self::TimeEmbedding(op) => vec![op.width],
            Self::Conv2d(op) | Self::SiluConv2d(op) => vec![op.out_channels, height, width],
            Self::Resnet(op) => vec![op.out_channels, height, width],
            // The axes of tokens: `[tokens, width]`.
            Self::CrossAttentionContext(op) => vec![hidden.first().copied().unwrap_or_default(), op.context_width()],
            Self::Transformer2d(op) => vec![op.channels, height, width],
            Self::Downsample { channels } => vec![*channels, height.div_ceil(2), width.div_ceil(2)],
            Self::Upsample(op) => vec![op.channels, op.height, op.width],
            Self::GroupNorm(op) => vec![op.channels, height, width],
        }
    }

    /// Parameters and cost of the layer at `path`, from the shapes of its operands for one row of the batch.
    pub(super) fn account(&self, path: &str, operands: &[&[u32]]) -> Account {
        let mut account = Account::new(path);
        let hidden = operands.first().copied().unwrap_or_default();
        let pixels = pixels(&self.writes(hidden));
        match self {
            Self::AddedEmbedding(op) => {
                let width = op.text_width + op.numbers * op.sinusoids.width;
                account_embedding(&mut account, [width, op.width]);
            }
            Self::TimeEmbedding(op) => account_embedding(&mut account, [op.sinusoids.width, op.width]),
            Self::Conv2d(op) | Self::SiluConv2d(op) => {
                account.conv("", [op.in_channels, op.out_channels], op.kernel, pixels);
            }
            Self::Resnet(op) => op.account(&mut account, pixels),
            Self::CrossAttentionContext(op) => {
                let tokens = hidden.first().copied().unwrap_or_default();
                op.account_context(&mut account, path, u64::from(tokens));
            }
            Self::Transformer2d(op) => {
                let tokens = operands.get(1).and_then(|context| context.first()).copied().unwrap_or_default();
                op.account(&mut account, pixels, u64::from(tokens));
            }
            Self::Downsample { channels } => account.conv("conv", [*channels; 2], 3, pixels),
            Self::Upsample(op) => account.conv("conv", [op.channels; 2], 3, pixels),
            Self::GroupNorm(op) => account.norm("", op.channels),
        }
        account
    }
}

fn account_embedding(account: &mut Account, [from, to]: [u32; 2]) {
    account.linear("linear_1", [from, to], true, 1);
    account.linear("linear_2", [to, to], true, 1);
}

impl ResnetOp {
    fn account(&self, account: &mut Account, pixels: u64) {
        account.norm("norm1", self.in_channels);
        account.conv("conv1", [self.in_channels, self.out_channels], 3, pixels);
        account.linear("time_emb_proj", [self.time_width, self.out_channels], true, 1);
        account.norm("norm2", self.out_channels);
        account.conv("conv2", [self.out_channels; 2], 3, pixels);
        if self.in_channels != self.out_channels {
            account.conv("conv_shortcut", [self.in_channels, self.out_channels], 1, pixels);
        }
    }
}

impl TransformerOp {
    fn account(&self, account: &mut Account, pixels: u64, tokens: u64) {
        let inner = self.inner_width();
        account.norm("norm", self.channels);
        self.projection(account, "proj_in", [self.channels, inner], pixels);
        for block in 0..self.blocks {
            let path = |name: &str| format!("transformer_blocks.{block}.{name}");
            account.norm(&path("norm1"), inner);
            self.attention(account, &path("attn1"), [pixels, tokens], self.only_cross_attention);
            account.norm(&path("norm2"), inner);
            self.attention(account, &path("attn2"), [pixels, tokens], true);
            account.norm(&path("norm3"), inner);
            let wide = inner * Self::FEED_FORWARD_FACTOR;
            // GEGLU: one half is the value, the other its gate.
            account.linear(&path("ff.net.0.proj"), [inner, 2 * wide], true, pixels);
            account.linear(&path("ff.net.2"), [wide, inner], true, pixels);
        }
        self.projection(account, "proj_out", [inner, self.channels], pixels);
    }

    /// Keys and values of the cross attentions, which the layer that makes them owns.
    fn account_context(&self, account: &mut Account, layer: &str, tokens: u64) {
        let shape = [self.inner_width(), self.cross_width];
        for path in self.context_paths(layer) {
            account.weights.push(WeightSpec { name: format!("{path}.weight"), shape: shape.to_vec() });
            account.add_flops(&shape, tokens);
        }
    }

    /// The paths of the linear layers that make keys and values, in the order in which they lie side by side; `layer` is the name of the
    /// layer that makes them.
    pub(crate) fn context_paths(&self, layer: &str) -> Vec<String> {
        let path = layer.strip_suffix(Self::CONTEXT_SUFFIX).unwrap_or(layer);
        let mut paths = Vec::new();
        for block in 0..self.blocks {
            for attention in self.cross_attentions() {
                for name in ["to_k", "to_v"] {
                    paths.push(format!("{path}.transformer_blocks.{block}.{attention}.{name}"));
                }
            }
        }
        paths
    }

    fn projection(&self, account: &mut Account, name: &str, channels: [u32; 2], pixels: u64) {
        if self.linear_projection {
            account.linear(name, channels, true, pixels);
        } else {
            account.conv(name, channels, 1, pixels);
        }
    }

    fn attention(&self, account: &mut Account, path: &str, [pixels, tokens]: [u64; 2], cross: bool) {
        let inner = self.inner_width();
        let keys = if cross { tokens } else { pixels };
        account.linear(&format!("{path}.to_q"), [inner, inner], false, pixels);
        if !cross {
            account.linear(&format!("{path}.to_k"), [inner, inner], false, keys);
            account.linear(&format!("{path}.to_v"), [inner, inner], false, keys);
        }
        account.linear(&format!("{path}.to_out.0"), [inner, inner], true, pixels);
        account.attention(pixels, keys, inner);
    }
}

/// Height and width of `[channels, height, width]`; one pixel for anything else.
fn side(shape: &[u32]) -> (u32, u32) {
    match *shape {
        [_, height, width] => (height, width),
        _ => (1, 1),
    }
}

fn pixels(shape: &[u32]) -> u64 {
    let (height, width) = side(shape);
    u64::from(height) * u64::from(width)
}
