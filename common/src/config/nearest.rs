//! Finds the word that somebody may have meant.

/// The candidate with the fewest changed, missing and added characters, unless everything would have to change.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let (changes, candidate) = distances.min()?;
    (changes < word.chars().count().max(candidate.chars().count())).then_some(candidate)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, character) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (index, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(character != *other);
            diagonal = row[index + 1];
            row[index + 1] = changed.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_finds_its_word() {
        let keys = ["api.listen", "cluster.listen", "cluster.lost_after"];
        assert_eq!(nearest("cluster.lost_aftr", keys), Some("cluster.lost_after"));
        assert_eq!(nearest("clusterlisten", keys), Some("cluster.listen"));
        assert_eq!(nearest("qqq", ["api"]), None);
        assert_eq!(nearest("anything", []), None);
    }

    #[test]
    fn distances_are_levenshteins() {
        for (left, right, expected) in [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("a", "a", 0)] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
