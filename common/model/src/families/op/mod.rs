//! The arithmetic of a layer as data: enough to list its parameters, to price it and to load it.

mod resnet;
mod transformer;

use super::account::Account;

pub use resnet::{ResnetInOp, ResnetOutOp};
pub use transformer::{AttentionOp, ContextOp, FeedForwardOp, ProjectionOp};

/// How to compute a layer, without weights. Two layers with equal operations and operand shapes cost the same.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerOp {
    /// Pooled text and sinusoids of numbers side by side, through two linear layers with SiLU between: constant during a job. Reads
    /// `[time ids, text embeds]`.
    AddedEmbedding(AddedEmbeddingOp),
    /// Sinusoids of the timestep through two linear layers with SiLU between. Reads `[timestep]` or `[timestep, added embedding]`.
    TimeEmbedding(TimeEmbeddingOp),
    /// A convolution at the layer's own path. Reads `[hidden state]`, or two that lie side by side.
    Conv2d(ConvOp),
    /// A ResNet block up to its first convolution, to which the time embedding is added. Reads `[hidden state, time embedding]` or
    /// `[hidden state, skip connection, time embedding]`.
    ResnetIn(ResnetInOp),
    /// The rest of a ResNet block. Reads `[what the first convolution wrote, shortcut]`; without a convolution the shortcut is what the block
    /// reads.
    ResnetOut(ResnetOutOp),
    /// A transformer up to its first block: a group norm, and a projection to the blocks' width. Reads `[hidden state]`.
    ProjectIn(ProjectionOp),
    /// A layer norm, attention of the pixels to each other, and a residual. Reads `[hidden state]`.
    SelfAttention(AttentionOp),
    /// Keys and values of a cross attention, side by side: constant during a job. Reads `[encoder hidden states]`.
    CrossAttentionContext(ContextOp),
    /// A layer norm, attention of the pixels to the encoder hidden states, and a residual. Reads `[hidden state, context]`.
    CrossAttention(AttentionOp),
    /// A layer norm, a gated feed-forward layer, and a residual. Reads `[hidden state]`.
    FeedForward(FeedForwardOp),
    /// A transformer's projection back, and the residual around all of it. Reads `[hidden state, what the transformer reads]`.
    ProjectOut(ProjectionOp),
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

impl LayerOp {
    /// The operation's name in tables of costs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AddedEmbedding(_) => "added embedding",
            Self::TimeEmbedding(_) => "time embedding",
            Self::Conv2d(_) | Self::SiluConv2d(_) => "convolution",
            Self::ResnetIn(_) | Self::ResnetOut(_) => "resnet",
            Self::CrossAttentionContext(_) => "cross attention context",
            Self::ProjectIn(_)
            | Self::SelfAttention(_)
            | Self::CrossAttention(_)
            | Self::FeedForward(_)
            | Self::ProjectOut(_) => "transformer",
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
            Self::ResnetIn(op) => vec![op.out_channels, height, width],
            Self::ResnetOut(op) => vec![op.channels, height, width],
            // The axes of tokens: `[tokens, width]`.
            Self::CrossAttentionContext(op) => vec![hidden.first().copied().unwrap_or_default(), 2 * op.width],
            Self::SelfAttention(op) | Self::CrossAttention(op) => vec![op.width(), height, width],
            Self::FeedForward(op) => vec![op.width, height, width],
            Self::ProjectIn(op) | Self::ProjectOut(op) => vec![op.out_channels, height, width],
            Self::Downsample { channels } => vec![*channels, height.div_ceil(2), width.div_ceil(2)],
            Self::Upsample(op) => vec![op.channels, op.height, op.width],
            Self::GroupNorm(op) => vec![op.channels, height, width],
        }
    }

    /// The path that the parameters of the layer at `path` are below: its own, but for layers that are named after one of several modules
    /// that they consist of.
    pub(crate) fn module<'a>(&self, path: &'a str) -> &'a str {
        match self {
            Self::CrossAttentionContext(_) => path.strip_suffix(ContextOp::SUFFIX).unwrap_or(path),
            Self::ResnetIn(_)
            | Self::ResnetOut(_)
            | Self::ProjectIn(_)
            | Self::SelfAttention(_)
            | Self::CrossAttention(_)
            | Self::FeedForward(_)
            | Self::ProjectOut(_) => path.rsplit_once('.').map_or(path, |(parent, _)| parent),
            _ => path,
        }
    }

    /// Parameters and cost of the layer at `path`, from the shapes of its operands for one row of the batch.
    pub(super) fn account(&self, path: &str, operands: &[&[u32]]) -> Account {
        let mut account = Account::new(self.module(path));
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
            Self::ResnetIn(op) => op.account(&mut account, pixels),
            Self::ResnetOut(op) => op.account(&mut account, pixels),
            Self::CrossAttentionContext(op) => op.account(&mut account, tokens(operands.first())),
            Self::ProjectIn(op) => op.account_in(&mut account, pixels),
            Self::SelfAttention(op) => op.account_self(&mut account, pixels),
            Self::CrossAttention(op) => op.account_cross(&mut account, [pixels, tokens(operands.get(1))]),
            Self::FeedForward(op) => op.account(&mut account, pixels),
            Self::ProjectOut(op) => op.account_out(&mut account, pixels),
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

/// Height and width of `[channels, height, width]`; one pixel for anything else.
fn side(shape: &[u32]) -> (u32, u32) {
    match *shape {
        [_, height, width] => (height, width),
        _ => (1, 1),
    }
}

/// The first axis of `[tokens, width]`.
fn tokens(context: Option<&&[u32]>) -> u64 {
    u64::from(context.and_then(|context| context.first()).copied().unwrap_or_default())
}

fn pixels(shape: &[u32]) -> u64 {
    let (height, width) = side(shape);
    u64::from(height) * u64::from(width)
}
