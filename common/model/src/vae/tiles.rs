//! Large latents as overlapping tiles of one size, and what they decode to as one image.
//!
//! ```text
//!   latents  [    tile 0    ]              pixels of an overlap: tile 0's weight falls from 1 to 0 while that of tile 1 rises,
//!                      [    tile 1    ]    so that neither's border shows
//! ```
//!
//! The idea is that of diffusers' `tiled_decode`; but tiles are spread evenly, instead of from the top left corner with what is left over at the
//! other end. So one prepared graph decodes them all, and none is nearly all overlap.

/// Height times width of the largest latents that are decoded in one piece: 768×768 pixels, the most that Stable Diffusion 1 and 2 were trained
/// for, and 1.5 GB of activations with their VAE. More of them: larger pictures as the VAE was trained to decode them, in memory that grows alike.
const WHOLE_LATENTS_MAX: usize = 96 * 96;

/// The longest side of a tile. 1024 pixels, the commonest size beyond, are two such tiles with an overlap of [`OVERLAP`]: 1.27 times the work of
/// one piece, in a third of its memory. Smaller tiles take less memory, more work, and see less of the picture.
const TILE_SIDE_MAX: usize = 72;

/// Latents that neighbours share, at least: a quarter of the 64 that diffusers' tiles have. Beyond about as many a convolution of the decoder sees
/// nothing of a latent, so that a tile's border is blended away. More of them: softer transitions, more work.
const OVERLAP: usize = 16;

/// How latents are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Height, then width.
    axes: [Axis; 2],
}

/// One tile: its place along each axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile([usize; 2]);

impl Tiling {
    /// One tile if the latents are small enough, else several of at most [`TILE_SIDE_MAX`].
    pub(super) fn new([height, width]: [usize; 2]) -> Self {
        let side = if height.saturating_mul(width) <= WHOLE_LATENTS_MAX { usize::MAX } else { TILE_SIDE_MAX };
        Self { axes: [height, width].map(|length| Axis::new(length, side)) }
    }

    /// Height and width of the latents.
    pub(super) fn size(&self) -> [usize; 2] {
        self.axes.map(|axis| axis.length)
    }

    /// Height and width of every tile.
    pub(super) fn tile_size(&self) -> [usize; 2] {
        self.axes.map(|axis| axis.tile)
    }

    /// Whether there is one tile, which is everything.
    pub(super) fn is_whole(&self) -> bool {
        self.size() == self.tile_size()
    }

    /// Line by line.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile> {
        let [lines, columns] = self.axes.map(|axis| axis.count);
        (0..lines).flat_map(move |line| (0..columns).map(move |column| Tile([line, column])))
    }

    /// The tile's first line and column.
    pub(super) fn start(&self, tile: Tile) -> [usize; 2] {
        [0, 1].map(|axis| self.axes[axis].start(tile.0[axis]))
    }

    /// Adds a decoded tile to the image with its weights. When all were added, the weights of every pixel sum up to 1.
    ///
    /// # Shapes
    /// - `decoded`: `[channels, scale * tile height, scale * tile width]`
    /// - `image`: `[channels, scale * height, scale * width]`, zeros before the first tile
    pub(super) fn blend(&self, tile: Tile, scale: usize, decoded: &[f32], image: &mut [f32]) {
        let [tops, lefts] = [0, 1].map(|axis| self.axes[axis].weights(tile.0[axis], scale));
        let [top, left] = self.start(tile).map(|start| start * scale);
        let [height, width] = self.size().map(|axis| axis * scale);
        let planes = decoded.chunks_exact(tops.len() * lefts.len());
        for (plane, target) in planes.zip(image.chunks_exact_mut(height * width)) {
            let lines = target.chunks_exact_mut(width).skip(top);
            for ((source, target), vertical) in plane.chunks_exact(lefts.len()).zip(lines).zip(&tops) {
                for ((pixel, target), horizontal) in source.iter().zip(&mut target[left..]).zip(&lefts) {
                    *target += vertical * horizontal * pixel;
                }
            }
        }
    }
}

/// Tiles along one axis. None reaches beyond its neighbours: a tile is longer than two overlaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    length: usize,
    tile: usize,
    count: usize,
}

impl Axis {
    /// As few tiles as do with sides of `side_max`, and these as short as they can be.
    fn new(length: usize, side_max: usize) -> Self {
        if length <= side_max {
            return Self { length, tile: length, count: 1 };
        }
        let count = (length - OVERLAP).div_ceil(side_max - OVERLAP);
        Self { length, tile: (length + (count - 1) * OVERLAP).div_ceil(count), count }
    }

    fn start(&self, index: usize) -> usize {
        match self.count {
            1 => 0,
            count => index * (self.length - self.tile) / (count - 1),
        }
    }

    /// Latents that a tile shares with the one before it.
    fn shared(&self, index: usize) -> usize {
        if index == 0 || index == self.count { 0 } else { self.start(index - 1) + self.tile - self.start(index) }
    }

    /// How much each of a tile's pixels counts: rising over what it shares with the tile before it, falling towards the next.
    fn weights(&self, index: usize, scale: usize) -> Vec<f32> {
        let pixels = self.tile * scale;
        let ramp = |pixel: usize, shared: usize| match (shared * scale) as f32 {
            0.0 => 1.0,
            overlap => ((pixel as f32 + 0.5) / overlap).min(1.0),
        };
        let weight = |pixel| ramp(pixel, self.shared(index)) * ramp(pixels - 1 - pixel, self.shared(index + 1));
        (0..pixels).map(weight).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_up_to_the_bound_are_one_tile() {
        for size in [[1, 1], [96, 96], [64, 144], [1, 9216]] {
            let tiling = Tiling::new(size);
            assert!(tiling.is_whole() && tiling.tiles().count() == 1, "{size:?}");
        }
        assert!(!Tiling::new([96, 97]).is_whole());
        assert_eq!(Tiling::new([128, 128]).tile_size(), [72, 72]);
        assert_eq!(Tiling::new([128, 128]).tiles().count(), 4);
    }

    #[test]
    fn tiles_cover_every_axis_and_share_what_is_blended() {
        for length in TILE_SIDE_MAX + 1..=2048 {
            let axis = Axis::new(length, TILE_SIDE_MAX);
            assert!(axis.tile <= TILE_SIDE_MAX && axis.start(axis.count - 1) + axis.tile == length, "{axis:?}");
            for index in 1..axis.count {
                let shared = axis.shared(index);
                assert!((OVERLAP..=axis.tile / 2).contains(&shared), "{axis:?} share {shared}");
            }
        }
    }

    #[test]
    fn weights_of_every_pixel_sum_up_to_one() {
        for size in [[97, 97], [130, 75], [9, 2048], [200, 333]] {
            let tiling = Tiling::new(size);
            let [height, width] = tiling.tile_size().map(|axis| 2 * axis);
            let mut image = vec![0.0; 2 * size[0] * 2 * size[1]];
            for tile in tiling.tiles() {
                tiling.blend(tile, 2, &vec![1.0; height * width], &mut image);
            }
            assert!(image.iter().all(|weight| (weight - 1.0).abs() < 1e-5), "{size:?}");
        }
    }
}
