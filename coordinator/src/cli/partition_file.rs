//! Partition files: which modules belong to which component, as TOML or JSON.

use std::path::Path;

use asyncdiff_plan::{Cut, CutShape};
use serde::Deserialize;

/// The most bytes of a partition file: the longest lists, of every layer of the largest denoiser, have some ten thousand.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionFile {
    components: Vec<Vec<String>>,
}

/// Reads what `--partition` was given: a shape's name or a file.
pub(super) fn parse_cut(text: &str) -> Result<Cut, String> {
    match text {
        "contiguous" => return Ok(Cut::Shape(CutShape::Contiguous)),
        "nested" => return Ok(Cut::Shape(CutShape::Nested)),
        _ => {}
    }
    let path = Path::new(text);
    let help = "give contiguous, nested, or a file with components = [[\"conv_in\", \"down_blocks.0\"], [...]]";
    let metadata = std::fs::metadata(path).map_err(|error| format!("{error}; {help}"))?;
    if metadata.len() > FILE_LIMIT_BYTES {
        return Err(format!("the file has {} bytes, more than {FILE_LIMIT_BYTES}", metadata.len()));
    }
    let content = std::fs::read_to_string(path).map_err(|error| format!("{error}; {help}"))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let file: PartitionFile = if is_json {
        serde_json::from_str(&content).map_err(|error| format!("{error}; {help}"))?
    } else {
        toml::from_str(&content).map_err(|error| format!("{}; {help}", error.message()))?
    };
    if file.components.is_empty() {
        return Err(format!("the file lists no component; {help}"));
    }
    Ok(Cut::Modules(file.components))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_file(name: &str, content: &str) -> Result<Cut, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        parse_cut(path.to_str().unwrap())
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let lists = Cut::Modules(vec![vec!["conv_in".into()], vec!["mid_block".into(), "up_blocks".into()]]);
        let toml = parse_file("p.toml", "components = [[\"conv_in\"], [\"mid_block\", \"up_blocks\"]]");
        let json = parse_file("p.json", r#"{"components": [["conv_in"], ["mid_block", "up_blocks"]]}"#);
        assert_eq!((toml, json), (Ok(lists.clone()), Ok(lists)));
        assert_eq!(parse_cut("nested"), Ok(Cut::Shape(CutShape::Nested)));
    }

    #[test]
    fn what_is_no_partition_is_refused_with_what_would_be() {
        let wrong = ["componets = []", "components = [\"conv_in\"]", "components = []", "= ="];
        for content in wrong {
            assert!(parse_file("p.toml", content).unwrap_err().contains("contiguous, nested"), "{content}");
        }
        assert!(parse_cut("nestd").unwrap_err().contains("No such file"));
    }
}
