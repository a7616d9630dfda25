//! The UNet's layers in order.
//!
//! ```text
//! conv_in ─► down 0 ─► down 1 ─► … ─► mid ─► up 0 ─► … ─► conv_norm_out ─► conv_out
//!    │         │         │                    ▲ │
//!    └─────────┴─────────┴── skip connections ┘ reads the newest skip not yet read
//! ```
//!
//! A skip connection is a second read of what a down layer wrote: it is no copy and no layer of its own. An up ResNet
//! block concatenates by itself, and every ResNet block reads the time embedding, which each component computes.
//!
//! ResNet blocks and transformers are several layers each, named after the modules in them, so that a network can be divided into parts of nearly
//! equal cost (`tests/partitions.rs`); a partition that names a block or a transformer means all layers below it.

use asyncdiff_plan::{InputKind, Operand};

use super::config::{UnetBlock, UnetConfig};
use crate::ModelError;
use crate::families::builder::ProgramBuilder;
use crate::families::denoiser::{
    DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES, TEXT_EMBEDS, TIME_IDS, TIME_IDS_COUNT,
};
use crate::families::op::{
    AddedEmbeddingOp, AttentionOp, ContextOp, ConvOp, FeedForwardOp, GroupNormOp, LayerOp, ProjectionOp, ResnetInOp,
    ResnetOutOp, SinusoidsWidth, TimeEmbeddingOp, UpsampleOp,
};

/// Builds the program of a UNet for latents of this shape.
pub(in crate::families) fn build(config: &UnetConfig, shape: &DenoiserShape) -> Result<DenoiserProgram, ModelError> {
    let mut builder = ProgramBuilder::default();
    let latents = builder.input(InputKind::Latents, vec![config.in_channels, shape.height, shape.width]);
    let timestep = builder.input(InputKind::Timestep, Vec::new());
    let condition = InputKind::Condition(ENCODER_HIDDEN_STATES.to_owned());
    let context = builder.input(condition, vec![shape.tokens, config.cross_width]);
    let time_reads = [timestep].into_iter().chain(config.add_embedding(&mut builder)).collect::<Vec<_>>();
    let time = builder.shared("time_embedding".to_owned(), config.time_embedding(), &time_reads);

    let mut walk = Walk { config, builder, time, context, skips: Vec::new() };
    let hidden = walk.builder.owned("conv_in".to_owned(), config.conv_in(), &[latents]);
    walk.skips.push(hidden);
    let hidden = walk.down(hidden);
    let hidden = walk.middle(hidden);
    let hidden = walk.up(hidden);
    let normed = walk.builder.owned("conv_norm_out".to_owned(), config.conv_norm_out(), &[hidden]);
    let output = walk.builder.owned("conv_out".to_owned(), config.conv_out(), &[normed]);
    walk.builder.finish(output)
}

/// The way through the network: what is read everywhere, and the skip connections not yet read.
struct Walk<'a> {
    config: &'a UnetConfig,
    builder: ProgramBuilder,
    time: Operand,
    context: Operand,
    skips: Vec<Operand>,
}

impl Walk<'_> {
    fn down(&mut self, mut hidden: Operand) -> Operand {
        let last = self.config.blocks.len() - 1;
        for (index, block) in self.config.blocks.iter().enumerate() {
            let path = format!("down_blocks.{index}");
            for layer in 0..block.layers {
                hidden = self.resnet(&format!("{path}.resnets.{layer}"), block, &[hidden]);
                if block.down_attends {
                    let path = format!("{path}.attentions.{layer}");
                    hidden = self.transformer(&path, (block, block.down_transformers), hidden);
                }
                self.skips.push(hidden);
            }
            if index != last {
                let op = LayerOp::Downsample { channels: block.channels };
                hidden = self.builder.owned(format!("{path}.downsamplers.0"), op, &[hidden]);
                self.skips.push(hidden);
            }
        }
        hidden
    }

    fn middle(&mut self, hidden: Operand) -> Operand {
        let innermost = &self.config.blocks[self.config.blocks.len() - 1];
        // The middle always attends to itself: diffusers' block takes no `only_cross_attention`.
        let block = &UnetBlock { only_cross_attention: false, ..innermost.clone() };
        let hidden = self.resnet("mid_block.resnets.0", block, &[hidden]);
        let hidden = self.transformer("mid_block.attentions.0", (block, block.down_transformers), hidden);
        self.resnet("mid_block.resnets.1", block, &[hidden])
    }

    fn up(&mut self, mut hidden: Operand) -> Operand {
        for (index, block) in self.config.blocks.iter().rev().enumerate() {
            let path = format!("up_blocks.{index}");
            for layer in 0..=block.layers {
                // `conv_in`, each down layer and each downsampler push one skip connection; exactly as many are read.
                let skip = self.skips.pop();
                let reads: Vec<Operand> = [hidden].into_iter().chain(skip).collect();
                hidden = self.resnet(&format!("{path}.resnets.{layer}"), block, &reads);
                if block.up_attends {
                    let path = format!("{path}.attentions.{layer}");
                    hidden = self.transformer(&path, (block, block.up_transformers), hidden);
                }
            }
            if let Some(&skip) = self.skips.last() {
                hidden = self.upsample(format!("{path}.upsamplers.0"), hidden, skip);
            }
        }
        hidden
    }

    /// A layer up to each convolution, and one for the shortcut where channels differ: it comes first, so that what the block reads is needed no
    /// longer than for the first convolution.
    fn resnet(&mut self, path: &str, block: &UnetBlock, reads: &[Operand]) -> Operand {
        let UnetConfig { time_width, groups, epsilon, .. } = *self.config;
        let in_channels = reads.iter().map(|&operand| self.builder.channels(operand)).sum();
        let channels = block.channels;
        let shortcut = if in_channels == channels {
            reads.to_vec()
        } else {
            let op = LayerOp::Conv2d(ConvOp { in_channels, out_channels: channels, kernel: 1 });
            vec![self.builder.owned(format!("{path}.conv_shortcut"), op, reads)]
        };
        let op = ResnetInOp { in_channels, out_channels: channels, time_width, groups, epsilon };
        let reads: Vec<Operand> = reads.iter().copied().chain([self.time]).collect();
        let hidden = self.builder.owned(format!("{path}.conv1"), LayerOp::ResnetIn(op), &reads);
        let op = LayerOp::ResnetOut(ResnetOutOp { channels, groups, epsilon });
        let reads: Vec<Operand> = [hidden].into_iter().chain(shortcut).collect();
        self.builder.owned(format!("{path}.conv2"), op, &reads)
    }

    /// A transformer of so many blocks.
    fn transformer(&mut self, path: &str, (block, blocks): (&UnetBlock, u32), hidden: Operand) -> Operand {
        let width = block.inner_width();
        let (groups, linear) = (self.config.groups, self.config.linear_projection);
        let op = ProjectionOp { in_channels: block.channels, out_channels: width, groups, linear };
        let mut inner = self.builder.owned(format!("{path}.proj_in"), LayerOp::ProjectIn(op), &[hidden]);
        for index in 0..blocks {
            let path = format!("{path}.transformer_blocks.{index}");
            inner = match block.only_cross_attention {
                true => self.cross_attention(&path, block.attention("attn1", "norm1"), inner),
                false => {
                    let op = LayerOp::SelfAttention(block.attention("attn1", "norm1"));
                    self.builder.owned(format!("{path}.attn1"), op, &[inner])
                }
            };
            inner = self.cross_attention(&path, block.attention("attn2", "norm2"), inner);
            inner = self.builder.owned(format!("{path}.ff"), LayerOp::FeedForward(FeedForwardOp { width }), &[inner]);
        }
        let op = ProjectionOp { in_channels: width, out_channels: block.channels, groups, linear };
        self.builder.owned(format!("{path}.proj_out"), LayerOp::ProjectOut(op), &[inner, hidden])
    }

    /// An attention to the encoder hidden states, whose keys and values are a layer of their own.
    fn cross_attention(&mut self, path: &str, op: AttentionOp, hidden: Operand) -> Operand {
        let path = format!("{path}.{}", op.module);
        let context = ContextOp { width: op.width(), cross_width: self.config.cross_width };
        let context = LayerOp::CrossAttentionContext(context);
        let context = self.builder.shared(format!("{path}{}", ContextOp::SUFFIX), context, &[self.context]);
        self.builder.owned(path, LayerOp::CrossAttention(op), &[hidden, context])
    }

    /// Up to the size of the skip connection that is read next, which is odd where an odd size was halved.
    fn upsample(&mut self, name: String, hidden: Operand, next_skip: Operand) -> Operand {
        let (height, width) = match *self.builder.shape(next_skip) {
            [_, height, width] => (height, width),
            _ => (1, 1),
        };
        let op = LayerOp::Upsample(UpsampleOp { channels: self.builder.channels(hidden), height, width });
        self.builder.owned(name, op, &[hidden])
    }
}

impl UnetConfig {
    /// The embedding of added conditions, if there are any: constant during a job.
    fn add_embedding(&self, builder: &mut ProgramBuilder) -> Option<Operand> {
        let added = self.added.as_ref()?;
        let mut condition = |name: &str, width| builder.input(InputKind::Condition(name.to_owned()), vec![width]);
        let reads = [condition(TIME_IDS, TIME_IDS_COUNT), condition(TEXT_EMBEDS, added.text_width)];
        let op = LayerOp::AddedEmbedding(AddedEmbeddingOp {
            numbers: TIME_IDS_COUNT,
            text_width: added.text_width,
            sinusoids: self.sinusoids(added.number_width),
            width: self.time_width,
        });
        Some(builder.shared("add_embedding".to_owned(), op, &reads))
    }

    fn time_embedding(&self) -> LayerOp {
        LayerOp::TimeEmbedding(TimeEmbeddingOp {
            sinusoids: self.sinusoids(self.blocks[0].channels),
            width: self.time_width,
            added: self.added.is_some(),
        })
    }

    fn sinusoids(&self, width: u32) -> SinusoidsWidth {
        SinusoidsWidth { width, flip_sin_to_cos: self.flip_sin_to_cos, freq_shift: self.freq_shift as f32 }
    }

    fn conv_in(&self) -> LayerOp {
        let out_channels = self.blocks[0].channels;
        LayerOp::Conv2d(ConvOp { in_channels: self.in_channels, out_channels, kernel: self.conv_in_kernel })
    }

    fn conv_norm_out(&self) -> LayerOp {
        let channels = self.blocks[0].channels;
        LayerOp::GroupNorm(GroupNormOp { channels, groups: self.groups, epsilon: self.epsilon })
    }

    fn conv_out(&self) -> LayerOp {
        let in_channels = self.blocks[0].channels;
        LayerOp::SiluConv2d(ConvOp { in_channels, out_channels: self.out_channels, kernel: self.conv_out_kernel })
    }
}

impl UnetBlock {
    /// Width inside transformers. Rounded down as in diffusers: it is narrower where heads do not divide the channels.
    fn inner_width(&self) -> u32 {
        self.heads * (self.channels / self.heads)
    }

    fn attention(&self, module: &'static str, norm: &'static str) -> AttentionOp {
        AttentionOp { module, norm, heads: self.heads, head_width: self.channels / self.heads }
    }
}
