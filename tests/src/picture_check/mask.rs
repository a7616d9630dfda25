//! The pixels of one object: a mask, freed of specks, reduced to its largest connected part.

use crate::picture::Picture;

/// Which pixels belong to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    width: usize,
    height: usize,
    set: Vec<bool>,
}

impl Mask {
    /// The pixels of a picture for which a question is answered with yes; asked with place and colour.
    pub(super) fn new(picture: &Picture, belongs: impl Fn([f32; 2], [f32; 3]) -> bool) -> Self {
        let set = picture.points().map(|(place, pixel)| belongs(place, pixel)).collect();
        Self { width: picture.width() as usize, height: picture.height() as usize, set }
    }

    /// Whether a pixel belongs to it; nothing beyond the edges does.
    pub(super) fn contains(&self, column: isize, row: isize) -> bool {
        let inside = (0..self.width as isize).contains(&column) && (0..self.height as isize).contains(&row);
        inside && self.set[row as usize * self.width + column as usize]
    }

    /// Width and height in pixels.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// How many pixels belong to it.
    pub(super) fn count(&self) -> usize {
        self.set.iter().filter(|set| **set).count()
    }

    /// Area where the whole picture is 4: both axes go from -1 to 1.
    pub(super) fn area(&self) -> f32 {
        4.0 * self.count() as f32 / self.set.len() as f32
    }

    /// The colours of its pixels.
    pub(super) fn colours(&self, picture: &Picture) -> Vec<[f32; 3]> {
        picture.points().zip(&self.set).filter(|(_, set)| **set).map(|((_, pixel), _)| pixel).collect()
    }

    /// Mean place of its pixels; the middle if it has none.
    pub(super) fn centroid(&self) -> [f32; 2] {
        let (mut columns, mut rows, count) = (0, 0, self.count().max(1));
        for (index, _) in self.set.iter().enumerate().filter(|(_, set)| **set) {
            columns += index % self.width;
            rows += index / self.width;
        }
        let place = |sum: usize, size: usize| (sum as f32 / count as f32 + 0.5) / size as f32 * 2.0 - 1.0;
        [place(columns, self.width), place(rows, self.height)]
    }

    /// Every pixel as most of the nine around it: removes specks and fills pinholes, and moves no straight edge.
    pub(super) fn without_specks(&self) -> Self {
        let most = |index: usize| {
            let (column, row) = ((index % self.width) as isize, (index / self.width) as isize);
            let around = (-1..=1).flat_map(|down| (-1..=1).map(move |right| (column + right, row + down)));
            around.filter(|(column, row)| self.contains(*column, *row)).count() >= 5
        };
        Self { set: (0..self.set.len()).map(most).collect(), ..*self }
    }

    /// Its largest part whose pixels touch, diagonals included.
    pub(super) fn largest_part(&self) -> Self {
        let mut seen = vec![false; self.set.len()];
        let mut largest = Vec::new();
        for start in 0..self.set.len() {
            if self.set[start] && !seen[start] {
                let part = self.part_from(start, &mut seen);
                if part.len() > largest.len() {
                    largest = part;
                }
            }
        }
        let mut set = vec![false; self.set.len()];
        for index in largest {
            set[index] = true;
        }
        Self { set, ..*self }
    }

    fn part_from(&self, start: usize, seen: &mut [bool]) -> Vec<usize> {
        seen[start] = true;
        let mut part = vec![start];
        let mut next = 0;
        while let Some(&index) = part.get(next) {
            next += 1;
            let (column, row) = ((index % self.width) as isize, (index / self.width) as isize);
            for (column, row) in (-1..=1).flat_map(|down| (-1..=1).map(move |right| (column + right, row + down))) {
                if self.contains(column, row) {
                    let neighbour = row as usize * self.width + column as usize;
                    if !std::mem::replace(&mut seen[neighbour], true) {
                        part.push(neighbour);
                    }
                }
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        let set = rows.iter().flat_map(|row| row.bytes().map(|byte| byte == b'#')).collect();
        Mask { width: rows[0].len(), height: rows.len(), set }
    }

    #[test]
    fn the_largest_part_is_kept_and_diagonals_connect() {
        let found = mask(&["##..#", "....#", "##.#.", "#...."]).largest_part();
        // Three pixels each: the first found stays.
        assert_eq!(found, mask(&["....#", "....#", "...#.", "....."]));
        assert_eq!(found.count(), 3);
    }

    #[test]
    fn specks_go_and_straight_edges_stay() {
        let found = mask(&["####....", "####....", "####..#.", "####....", "####...."]).without_specks();
        assert_eq!(found, mask(&[".##.....", "####....", "####....", "####....", ".##....."]));
    }

    #[test]
    fn the_centroid_is_in_the_measure_of_places() {
        assert_eq!(mask(&["..", ".#"]).centroid(), [0.5, 0.5]);
        assert_eq!(mask(&["##", "##"]).centroid(), [0.0, 0.0]);
        assert_eq!(mask(&["##", "##"]).area(), 4.0);
    }
}
