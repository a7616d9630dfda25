//! A picture that is decoded in tiles, against the same picture in one piece: by the demo model's VAE.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::tiles::Tiling;
use super::{VaeConfig, VaeDecoder, VaeEncoder, decoder};
use crate::checkpoint::{Checkpoint, Weights};
use crate::kernels::Kernels;

/// Side of the latents, just beyond the bound, and of the picture; and the latents where an overlap begins, is half
/// over, and ends.
const LATENTS: usize = 100;
const PIXELS: usize = 8 * LATENTS;
const BORDERS: [usize; 3] = [42, 50, 58];

/// How far a pixel may be off in the mean, and at most: 4.4 and 89 were measured. The demo model's group norms have two groups only, so that what
/// else is in a tile goes into all of its channels; the most is at the edges of discs.
const MEAN_LEVELS: f32 = 6.0;
const LARGEST_LEVELS: f32 = 110.0;

#[test]
fn a_picture_in_tiles_is_close_to_one_in_one_piece_and_shows_no_seams() {
    let checkpoint =
        Checkpoint::folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../coordinator/demo-model/model"));
    let checkpoint = checkpoint.unwrap();
    let config = VaeConfig::from_json("vae/config.json", &checkpoint.text("vae/config.json").unwrap()).unwrap();
    let weights = checkpoint.weights("vae").unwrap();
    let latents = latents(&config, &weights);
    let kernels = Kernels::for_device(&Device::Cpu);
    assert_eq!((Tiling::new([LATENTS; 2]).tiles().count(), Tiling::new([LATENTS; 2]).tile_size()), (4, [58; 2]));

    let tiled = VaeDecoder::new(&config, [LATENTS; 2], &weights, &kernels).unwrap().decode(&latents).unwrap();
    assert_eq!(tiled.dims(), [1, 3, PIXELS, PIXELS]);
    let tiled: Vec<f32> = tiled.flatten_all().unwrap().to_vec1().unwrap();
    let whole = kernels.prepare(decoder::graph(&config, [LATENTS; 2]), &weights).unwrap();
    let whole = whole.run(&[&kernels.value_of(&latents).unwrap()]).unwrap().to_elements().unwrap();

    let [mean, largest] = levels_apart(&tiled, &whole);
    let steps = line_steps(&tiled, &whole);
    // Upsampling makes lines between latents differ more than others, and tiles begin there: these are compared among themselves.
    let mut grid: Vec<f32> = (1..LATENTS).map(|latent| steps[8 * latent - 1]).collect();
    let borders = BORDERS.map(|latent| steps[8 * latent - 1]);
    grid.sort_by(f32::total_cmp);
    let usual = grid[grid.len() / 2];
    assert!(mean < MEAN_LEVELS && largest < LARGEST_LEVELS, "{mean} and at most {largest} levels of 256 apart");
    assert!(borders.iter().all(|&step| step < 2.0 * usual), "{borders:?} levels at borders, where {usual} is usual");
}

fn latents(config: &VaeConfig, weights: &dyn Weights) -> Tensor {
    let image = Tensor::from_vec(picture(), (1, 3, PIXELS, PIXELS), &Device::Cpu).unwrap();
    let kernels = Kernels::for_device(&Device::Cpu);
    VaeEncoder::new(config, [PIXELS; 2], weights, &kernels).unwrap().encode(&image).unwrap().mean
}

/// Discs of many colours and sizes on a gradient: every tile has some, and no two the same.
fn picture() -> Vec<f32> {
    let pixel = |channel: usize, y: usize, x: usize| {
        let (cell_y, cell_x) = (y / 128, x / 128);
        let (from_y, from_x) = ((y % 128).abs_diff(64), (x % 128).abs_diff(64));
        let radius = 20 + 5 * ((3 * cell_y + 5 * cell_x) % 8);
        let disc = [0.86, 0.13, 0.45][(channel + cell_y + 2 * cell_x) % 3];
        let background = [0.9, 0.6, 0.3][channel] - 0.3 * (y + x) as f32 / (2 * PIXELS) as f32;
        2.0 * if from_y * from_y + from_x * from_x < radius * radius { disc } else { background } - 1.0
    };
    let axes = || (0..PIXELS).flat_map(|y| (0..PIXELS).map(move |x| (y, x)));
    (0..3).flat_map(|channel| axes().map(move |(y, x)| pixel(channel, y, x))).collect()
}

/// The mean and the largest difference, in levels of 256.
fn levels_apart(one: &[f32], other: &[f32]) -> [f32; 2] {
    let levels = || one.iter().zip(other).map(|(one, other)| 127.5 * (one - other).abs());
    [levels().sum::<f32>() / one.len() as f32, levels().fold(0.0, f32::max)]
}

/// By how many levels the difference of two images changes from each line to the next, and from each column to the next: the larger mean.
///
/// # Shapes
/// - `one`, `other`: `[3, PIXELS, PIXELS]`
fn line_steps(one: &[f32], other: &[f32]) -> Vec<f32> {
    let difference: Vec<f32> = one.iter().zip(other).map(|(one, other)| 127.5 * (one - other)).collect();
    let step = |line: usize, [across, along]: [usize; 2]| {
        let starts = (0..3 * PIXELS).map(|index| index / PIXELS * PIXELS * PIXELS + index % PIXELS * along);
        let steps = starts.map(|start| difference[start + line * across] - difference[start + (line - 1) * across]);
        steps.map(f32::abs).sum::<f32>() / (3 * PIXELS) as f32
    };
    (1..PIXELS).map(|line| step(line, [PIXELS, 1]).max(step(line, [1, PIXELS]))).collect()
}
