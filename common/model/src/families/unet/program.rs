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

use asyncdiff_plan::{InputKind, Operand};

use super::config::{UnetBlock, UnetConfig};
use crate::ModelError;
use crate::families::builder::ProgramBuilder;
use crate::families::denoiser::{
    DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES, TEXT_EMBEDS, TIME_IDS, TIME_IDS_COUNT,
};
use crate::families::op::{
    AddedEmbeddingOp, ConvOp, GroupNormOp, LayerOp, ResnetOp, SinusoidsWidth, TimeEmbeddingOp, TransformerOp,
    UpsampleOp,
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
                hidden = self.resnet(format!("{path}.resnets.{layer}"), block, &[hidden]);
                if block.down_attends {
                    let op = self.config.transformer(block, block.down_transformers, block.only_cross_attention);
                    hidden = self.attention(format!("{path}.attentions.{layer}"), op, hidden);
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
        let block = &self.config.blocks[self.config.blocks.len() - 1];
        let hidden = self.resnet("mid_block.resnets.0".to_owned(), block, &[hidden]);
        // The middle always attends to itself: diffusers' block takes no `only_cross_attention`.
        let op = self.config.transformer(block, block.down_transformers, false);
        let hidden = self.attention("mid_block.attentions.0".to_owned(), op, hidden);
        self.resnet("mid_block.resnets.1".to_owned(), block, &[hidden])
    }

    fn up(&mut self, mut hidden: Operand) -> Operand {
        for (index, block) in self.config.blocks.iter().rev().enumerate() {
            let path = format!("up_blocks.{index}");
            for layer in 0..=block.layers {
                // `conv_in`, each down layer and each downsampler push one skip connection; exactly as many are read.
                let skip = self.skips.pop();
                let reads: Vec<Operand> = [hidden].into_iter().chain(skip).collect();
                hidden = self.resnet(format!("{path}.resnets.{layer}"), block, &reads);
                if block.up_attends {
                    let op = self.config.transformer(block, block.up_transformers, block.only_cross_attention);
                    hidden = self.attention(format!("{path}.attentions.{layer}"), op, hidden);
                }
            }
            if let Some(&skip) = self.skips.last() {
                hidden = self.upsample(format!("{path}.upsamplers.0"), hidden, skip);
            }
        }
        hidden
    }

    fn resnet(&mut self, name: String, block: &UnetBlock, reads: &[Operand]) -> Operand {
        let op = LayerOp::Resnet(ResnetOp {
            in_channels: reads.iter().map(|&operand| self.builder.channels(operand)).sum(),
            out_channels: block.channels,
            time_width: self.config.time_width,
            groups: self.config.groups,
            epsilon: self.config.epsilon,
        });
        let reads: Vec<Operand> = reads.iter().copied().chain([self.time]).collect();
        self.builder.owned(name, op, &reads)
    }

    fn attention(&mut self, name: String, op: TransformerOp, hidden: Operand) -> Operand {
        let context_name = format!("{name}{}", TransformerOp::CONTEXT_SUFFIX);
        let context = LayerOp::CrossAttentionContext(op.clone());
        let context = self.builder.shared(context_name, context, &[self.context]);
        self.builder.owned(name, LayerOp::Transformer2d(op), &[hidden, context])
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

    fn transformer(&self, block: &UnetBlock, blocks: u32, only_cross_attention: bool) -> TransformerOp {
        TransformerOp {
            channels: block.channels,
            heads: block.heads,
            // Rounded down as in diffusers: the inner width is narrower where heads do not divide the channels.
            head_width: block.channels / block.heads,
            blocks,
            cross_width: self.cross_width,
            groups: self.groups,
            linear_projection: self.linear_projection,
            only_cross_attention,
        }
    }
}
