//! How well a mask overlaps with each of the eight outlines, at the best place and size.

use std::sync::LazyLock;

use super::mask::Mask;
use crate::drawing::Pose;
use crate::shapes::Shape;

/// Half the side of the frame in which outlines are rasterised: all lie within 1.1.
const FRAME: f32 = 1.15;

/// Cells along a side of that frame: at the largest radius of the grammar a cell is half a pixel of a 128-pixel picture.
const CELLS: usize = 192;

/// Sizes of the steps of the search for the best pose, as shares of the radius. The moments of a mask are right to
/// about a tenth; a fiftieth of a medium object is half a pixel.
const SEARCH_STEPS: [f32; 3] = [0.12, 0.05, 0.02];

/// Moves per size of step; a search that is not done by then gains little more.
const LARGEST_MOVES: usize = 8;

/// An outline of unit size as cells.
struct Outline {
    cells: Vec<bool>,
    area: f32,
    centroid: [f32; 2],
}

static OUTLINES: LazyLock<Vec<Outline>> = LazyLock::new(|| Shape::ALL.into_iter().map(Outline::new).collect());

impl Outline {
    fn new(shape: Shape) -> Self {
        let middle = |index: usize| ((index as f32 + 0.5) / CELLS as f32 * 2.0 - 1.0) * FRAME;
        let places = (0..CELLS * CELLS).map(|index| [middle(index % CELLS), middle(index / CELLS)]);
        let (mut cells, mut sums, mut count) = (Vec::with_capacity(CELLS * CELLS), [0.0, 0.0], 0.0);
        for [x, y] in places {
            let inside = shape.distance(x, y) < 0.0;
            cells.push(inside);
            if inside {
                (sums, count) = ([sums[0] + x, sums[1] + y], count + 1.0);
            }
        }
        let cell_area = (2.0 * FRAME / CELLS as f32).powi(2);
        Self { cells, area: count * cell_area, centroid: sums.map(|sum| sum / count) }
    }

    fn of(shape: Shape) -> &'static Self {
        // `Shape::ALL` lists the variants in their order, so a variant's number is its place.
        &OUTLINES[shape as usize]
    }

    fn contains(&self, x: f32, y: f32) -> bool {
        let cell = |place: f32| {
            let scaled = (place / FRAME + 1.0) / 2.0 * CELLS as f32;
            (0.0..CELLS as f32).contains(&scaled).then_some(scaled as usize)
        };
        matches!((cell(x), cell(y)), (Some(column), Some(row)) if self.cells[row * CELLS + column])
    }
}

/// The pose that a mask would have if it were of this shape: area and centroid decide.
pub(super) fn pose_by_moments(mask: &Mask, shape: Shape) -> Pose {
    let outline = Outline::of(shape);
    let radius = (mask.area() / outline.area).sqrt();
    let [x, y] = mask.centroid();
    Pose { x: x - outline.centroid[0] * radius, y: y - outline.centroid[1] * radius, radius }
}

/// The largest overlap of a mask with a shape: intersection over union at the best pose near the mask's moments.
pub(super) fn overlap(mask: &Mask, shape: Shape) -> f32 {
    let mut pose = pose_by_moments(mask, shape);
    let mut best = overlap_at(mask, shape, pose);
    for step in SEARCH_STEPS {
        for _ in 0..LARGEST_MOVES {
            let length = step * pose.radius;
            let moved = [
                Pose { x: pose.x + length, ..pose },
                Pose { x: pose.x - length, ..pose },
                Pose { y: pose.y + length, ..pose },
                Pose { y: pose.y - length, ..pose },
                Pose { radius: pose.radius + length, ..pose },
                Pose { radius: pose.radius - length, ..pose },
            ];
            let scored = moved.map(|moved| (moved, overlap_at(mask, shape, moved)));
            let Some(better) = scored.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)) else { break };
            if better.1 <= best {
                break;
            }
            (pose, best) = better;
        }
    }
    best
}

fn overlap_at(mask: &Mask, shape: Shape, pose: Pose) -> f32 {
    let outline = Outline::of(shape);
    let (width, height) = mask.size();
    let range = |middle: f32, size: usize| {
        let pixel = |place: f32| ((place + 1.0) / 2.0 * size as f32).clamp(0.0, size as f32);
        let reach = FRAME * pose.radius;
        pixel(middle - reach).floor() as usize..pixel(middle + reach).ceil() as usize
    };
    let place = |index: usize, size: usize| (index as f32 + 0.5) / size as f32 * 2.0 - 1.0;
    let (mut both, mut covered) = (0_usize, 0_usize);
    for row in range(pose.y, height) {
        let y = (place(row, height) - pose.y) / pose.radius;
        for column in range(pose.x, width) {
            if outline.contains((place(column, width) - pose.x) / pose.radius, y) {
                covered += 1;
                both += usize::from(mask.contains(column as isize, row as isize));
            }
        }
    }
    both as f32 / (mask.count() + covered - both).max(1) as f32
}
