//! The options of `UNet2DConditionModel` that Stable Diffusion 1.x, 2.x and XL use; everything else is refused by name.

use serde_json::{Value, json};

use crate::ModelError;
use crate::families::config_reader::ConfigReader;
use crate::families::denoiser::TIME_IDS_COUNT;

/// A `unet/config.json` in which every option is one that the builder knows.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Channels of the latents.
    pub in_channels: u32,
    /// Channels of the noise prediction.
    pub out_channels: u32,
    /// Height and width of the latents in training, if the file says so.
    pub sample_size: Option<[u32; 2]>,
    /// The resolutions from the outermost to the innermost.
    pub blocks: Vec<UnetBlock>,
    /// Width of the encoder hidden states.
    pub cross_width: u32,
    /// Width of the time embedding.
    pub time_width: u32,
    /// What is added to the time embedding, if anything is.
    pub added: Option<AddedEmbedding>,
    /// Cosines before sines in the sinusoids of timestep and time ids.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies.
    pub freq_shift: f64,
    /// Groups of every group norm.
    pub groups: u32,
    /// Epsilon of the group norms outside of transformers.
    pub epsilon: f64,
    /// Transformers project with linear layers, not 1×1 convolutions.
    pub linear_projection: bool,
    /// Side of the first convolution's kernel.
    pub conv_in_kernel: u32,
    /// Side of the last convolution's kernel.
    pub conv_out_kernel: u32,
}

/// An embedding of added conditions (`addition_embed_type: text_time`, SDXL's): pooled text, and sinusoids of numbers about the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedEmbedding {
    /// Width of the pooled text.
    pub text_width: u32,
    /// Width of the sinusoids of each of the [`TIME_IDS_COUNT`] numbers.
    pub number_width: u32,
}

/// The key that says which embedding is added.
pub(in crate::families) const ADDITION_EMBED_TYPE: &str = "addition_embed_type";

/// The key of the width of a number's sinusoids.
const ADDITION_TIME_EMBED_DIM: &str = "addition_time_embed_dim";

/// The key of the width of pooled text and sinusoids together.
const PROJECTION_INPUT_DIM: &str = "projection_class_embeddings_input_dim";

/// The only one of its values, beside none, that the builder knows.
pub(in crate::families) const TEXT_TIME: &str = "text_time";

/// One resolution: the down block and the up block that mirrors it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetBlock {
    /// Channels.
    pub channels: u32,
    /// ResNet blocks on the way down; there is one more on the way up.
    pub layers: u32,
    /// Heads of the attentions. diffusers reads it from `attention_head_dim`, a misnomer that it keeps for old files.
    pub heads: u32,
    /// Transformer blocks per attention on the way down.
    pub down_transformers: u32,
    /// Transformer blocks per attention on the way up.
    pub up_transformers: u32,
    /// The way down has attentions.
    pub down_attends: bool,
    /// The way up has attentions.
    pub up_attends: bool,
    /// Both attentions of a transformer block read the encoder hidden states.
    pub only_cross_attention: bool,
}

/// Far above any published network, and small enough that no product of sizes overflows.
const CHANNELS_MAX: u32 = 1 << 15;
/// Resolutions; published networks have four. 2^10 divides no latents of a useful size.
const BLOCKS_MAX: usize = 10;
/// Repetitions within a block; published networks have up to ten. Bounds the program that a file can ask for.
const REPEATS_MAX: u32 = 32;
/// Side of a convolution's kernel.
const KERNEL_MAX: u32 = 15;

impl UnetConfig {
    /// Reads and checks the file's keys; missing ones have diffusers' defaults.
    pub(in crate::families) fn read(reader: &ConfigReader) -> Result<Self, ModelError> {
        refuse_unsupported(reader)?;
        let blocks = read_blocks(reader)?;
        let channels = blocks[0].channels;
        let config = Self {
            in_channels: reader.size("in_channels", 4, CHANNELS_MAX)?,
            out_channels: reader.size("out_channels", 4, CHANNELS_MAX)?,
            sample_size: read_sample_size(reader)?,
            cross_width: read_cross_width(reader, blocks.len())?,
            time_width: reader.optional_size("time_embedding_dim", CHANNELS_MAX)?.unwrap_or(channels * 4),
            added: read_added(reader)?,
            flip_sin_to_cos: reader.flag("flip_sin_to_cos", true)?,
            freq_shift: reader.number("freq_shift", 0.0)?,
            groups: reader.size("norm_num_groups", 32, CHANNELS_MAX)?,
            epsilon: reader.number("norm_eps", 1e-5)?,
            linear_projection: reader.flag("use_linear_projection", false)?,
            conv_in_kernel: read_kernel(reader, "conv_in_kernel")?,
            conv_out_kernel: read_kernel(reader, "conv_out_kernel")?,
            blocks,
        };
        config.check_divisors(reader)?;
        Ok(config)
    }

    /// What must divide what, so that no layer's shape is a fraction.
    fn check_divisors(&self, reader: &ConfigReader) -> Result<(), ModelError> {
        if self.blocks.iter().any(|block| block.channels % self.groups != 0) {
            return Err(reader.unsupported("norm_num_groups", "a divisor of every one of block_out_channels"));
        }
        if self.blocks.iter().any(|block| block.heads > block.channels) {
            return Err(reader.unsupported("attention_head_dim", "at most as many heads as channels in every block"));
        }
        let has_sinusoids = |width: u32| width.is_multiple_of(2) && f64::from(width / 2) > self.freq_shift;
        if !has_sinusoids(self.blocks[0].channels) {
            return Err(reader.unsupported("block_out_channels", "an even first width, over twice freq_shift"));
        }
        if self.added.as_ref().is_some_and(|added| !has_sinusoids(added.number_width)) {
            return Err(reader.unsupported(ADDITION_TIME_EMBED_DIM, "an even number, over twice freq_shift"));
        }
        Ok(())
    }
}

/// Options that change the result and that no builder knows; the first value of each list is diffusers' default.
fn refuse_unsupported(reader: &ConfigReader) -> Result<(), ModelError> {
    let null = || vec![Value::Null];
    let rules: [(&str, Vec<Value>); 21] = [
        ("mid_block_type", vec![json!("UNetMidBlock2DCrossAttn")]),
        ("class_embed_type", null()),
        ("num_class_embeds", null()),
        ("class_embeddings_concat", vec![json!(false)]),
        ("encoder_hid_dim", null()),
        ("encoder_hid_dim_type", null()),
        ("time_embedding_type", vec![json!("positional")]),
        ("time_embedding_act_fn", null()),
        ("timestep_post_act", null()),
        ("time_cond_proj_dim", null()),
        // diffusers refuses it too: see `UnetBlock::heads`.
        ("num_attention_heads", null()),
        ("attention_type", vec![json!("default")]),
        ("cross_attention_norm", null()),
        ("dual_cross_attention", vec![json!(false)]),
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("center_input_sample", vec![json!(false)]),
        ("downsample_padding", vec![json!(1)]),
        ("mid_block_scale_factor", vec![json!(1)]),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("resnet_skip_time_act", vec![json!(false)]),
        ("resnet_out_scale_factor", vec![json!(1)]),
    ];
    rules.iter().try_for_each(|(key, supported)| reader.only(key, supported))
}

fn read_added(reader: &ConfigReader) -> Result<Option<AddedEmbedding>, ModelError> {
    reader.only(ADDITION_EMBED_TYPE, &[Value::Null, json!(TEXT_TIME)])?;
    if reader.is_null(ADDITION_EMBED_TYPE) {
        reader.only(ADDITION_TIME_EMBED_DIM, &[Value::Null])?;
        return Ok(None);
    }
    let width = |key: &str| match reader.optional_size(key, CHANNELS_MAX)? {
        Some(width) => Ok(width),
        None => Err(reader.unsupported(
            key,
            &format!("a number from 1 to {CHANNELS_MAX} where {ADDITION_EMBED_TYPE} is {TEXT_TIME}"),
        )),
    };
    let number_width = width(ADDITION_TIME_EMBED_DIM)?;
    let numbers = TIME_IDS_COUNT * number_width;
    match width(PROJECTION_INPUT_DIM)?.checked_sub(numbers) {
        None | Some(0) => {
            let expected =
                format!("over {TIME_IDS_COUNT} times {ADDITION_TIME_EMBED_DIM}, which leaves room for the pooled text");
            Err(reader.unsupported(PROJECTION_INPUT_DIM, &expected))
        }
        Some(text_width) => Ok(Some(AddedEmbedding { text_width, number_width })),
    }
}

fn read_blocks(reader: &ConfigReader) -> Result<Vec<UnetBlock>, ModelError> {
    let channels = reader.sizes("block_out_channels", BLOCKS_MAX, CHANNELS_MAX)?;
    let count = channels.len();
    let down_attends = read_attends(reader, "down_block_types", count, ["CrossAttnDownBlock2D", "DownBlock2D"])?;
    let up_attends = read_attends(reader, "up_block_types", count, ["CrossAttnUpBlock2D", "UpBlock2D"])?;
    let layers = reader.sizes_per_block("layers_per_block", count, 2, REPEATS_MAX)?;
    let heads = reader.sizes_per_block("attention_head_dim", count, 8, CHANNELS_MAX)?;
    let down_transformers = reader.sizes_per_block("transformer_layers_per_block", count, 1, REPEATS_MAX)?;
    let up_transformers = match reader.is_null("reverse_transformer_layers_per_block") {
        true => down_transformers.clone(),
        false => {
            let mut inside_out =
                reader.sizes_per_block("reverse_transformer_layers_per_block", count, 1, REPEATS_MAX)?;
            inside_out.reverse();
            inside_out
        }
    };
    let only_cross_attention = reader.flags_per_block("only_cross_attention", count)?;
    let block = |index: usize| UnetBlock {
        channels: channels[index],
        layers: layers[index],
        heads: heads[index],
        down_transformers: down_transformers[index],
        up_transformers: up_transformers[index],
        down_attends: down_attends[index],
        // Up blocks are listed from the inside out.
        up_attends: up_attends[count - 1 - index],
        only_cross_attention: only_cross_attention[index],
    };
    Ok((0..count).map(block).collect())
}

fn read_attends(
    reader: &ConfigReader,
    key: &str,
    count: usize,
    [attends, plain]: [&str; 2],
) -> Result<Vec<bool>, ModelError> {
    let types = reader.texts(key)?;
    if types.len() != count || types.iter().any(|&found| found != attends && found != plain) {
        let expected = format!("as many as block_out_channels, each \"{attends}\" or \"{plain}\"");
        return Err(reader.unsupported(key, &expected));
    }
    Ok(types.iter().map(|&found| found == attends).collect())
}

fn read_cross_width(reader: &ConfigReader, blocks: usize) -> Result<u32, ModelError> {
    let widths = reader.sizes_per_block("cross_attention_dim", blocks, 1280, CHANNELS_MAX)?;
    if widths.iter().any(|&width| width != widths[0]) {
        return Err(reader.unsupported("cross_attention_dim", "one width for all blocks"));
    }
    Ok(widths[0])
}

fn read_sample_size(reader: &ConfigReader) -> Result<Option<[u32; 2]>, ModelError> {
    if reader.is_null("sample_size") {
        return Ok(None);
    }
    let sides = reader.sizes_per_block("sample_size", 2, 1, CHANNELS_MAX)?;
    Ok(Some([sides[0], sides[1]]))
}

fn read_kernel(reader: &ConfigReader, key: &str) -> Result<u32, ModelError> {
    let kernel = reader.size(key, 3, KERNEL_MAX)?;
    if kernel.is_multiple_of(2) {
        return Err(reader.unsupported(key, "an odd number, so that the convolution keeps the size"));
    }
    Ok(kernel)
}
