//! CLIP's tokenizer on the demo model's files.
#![allow(clippy::unwrap_used)]

mod golden_parts;

use asyncdiff_model::checkpoint::Checkpoint;
use asyncdiff_model::tokenizer::{ClipTokenizer, TokenizerError, TokenizerFiles};
use golden_parts::demo_model;

const PROMPTS: [&str; 8] = [
    "a red circle on a white background",
    "Small GREEN heart   above a purple\tsquare on a gray background",
    "it's don't 123 !? ü naïve 日本 🦀 background's",
    "",
    "   ",
    "a\u{0301} e\u{0301}",
    "red,green;blue\nwhite",
    "<|endoftext|> a red <|startoftext|> square",
];

fn from_one_file() -> TokenizerFiles {
    TokenizerFiles::read(&Checkpoint::folder(&demo_model()).unwrap(), "tokenizer").unwrap()
}

fn from_two_files() -> TokenizerFiles {
    let checkpoint = Checkpoint::folder(&demo_model()).unwrap();
    let text = |name: &str| checkpoint.text(&format!("tokenizer/{name}")).unwrap();
    let vocabulary_and_merges = Some((text("vocab.json"), text("merges.txt")));
    TokenizerFiles { tokenizer: None, vocabulary_and_merges, ..from_one_file() }
}

#[test]
fn a_caption_becomes_start_words_end_and_padding() {
    let tokenizer = ClipTokenizer::new(&from_one_file()).unwrap();
    let prompt = tokenizer.encode("left below").unwrap();
    // In this vocabulary 0 starts, 1 ends and pads, 428 is "left" and 437 is "below".
    assert_eq!(prompt.ids[..5], [0, 428, 437, 1, 1]);
    assert_eq!((prompt.ids.len(), tokenizer.length(), prompt.cut), (77, 77, None));
}

#[test]
fn both_forms_of_the_files_give_equal_ids() {
    let (one, two) = (ClipTokenizer::new(&from_one_file()).unwrap(), ClipTokenizer::new(&from_two_files()).unwrap());
    for prompt in PROMPTS {
        assert_eq!(one.encode(prompt).unwrap(), two.encode(prompt).unwrap(), "{prompt:?}");
    }
}

#[test]
fn case_and_spaces_do_not_matter() {
    let tokenizer = ClipTokenizer::new(&from_one_file()).unwrap();
    let ids = |prompt: &str| tokenizer.encode(prompt).unwrap().ids;
    assert_eq!(ids("A Red\n  CIRCLE"), ids("a red circle"));
}

#[test]
fn what_does_not_fit_is_cut_and_named_as_it_was_written() {
    for files in [from_one_file(), from_two_files()] {
        let tokenizer = ClipTokenizer::new(&files).unwrap();
        let fits = vec!["left"; 75].join(" ");
        let full = tokenizer.encode(&fits).unwrap();
        assert_eq!((full.ids[75], full.ids[76], full.cut), (428, 1, None));
        let long = tokenizer.encode(&format!("{fits} Below the É circle ")).unwrap();
        assert_eq!(long.ids, full.ids);
        assert_eq!(long.cut.as_deref(), Some("Below the É circle"));
    }
}

#[test]
fn stable_diffusion_2_pads_with_the_token_that_its_map_names() {
    let files = TokenizerFiles { special_tokens: Some(r#"{"pad_token": "!"}"#.to_owned()), ..from_one_file() };
    let prompt = ClipTokenizer::new(&files).unwrap().encode("left").unwrap();
    // "!" has the id 2 here; in Stable Diffusion 2 it has 0.
    assert_eq!(prompt.ids[..5], [0, 428, 1, 2, 2]);
}

#[test]
fn damaged_files_are_named() {
    let error_of = |files: TokenizerFiles| ClipTokenizer::new(&files).err().unwrap().to_string();
    let broken = TokenizerFiles { tokenizer: Some("{".to_owned()), ..from_one_file() };
    assert!(error_of(broken).contains("tokenizer.json"));
    let (vocabulary, _) = from_two_files().vocabulary_and_merges.unwrap();
    let merges = TokenizerFiles {
        vocabulary_and_merges: Some((vocabulary.clone(), "#version: 0.2\na b c\n".to_owned())),
        ..from_two_files()
    };
    assert!(error_of(merges).contains("merges.txt: line 2"));
    let unknown_pair =
        TokenizerFiles { vocabulary_and_merges: Some((vocabulary, "qq zz\n".to_owned())), ..from_two_files() };
    assert!(error_of(unknown_pair).contains("merges.txt"));
    let empty = TokenizerFiles::default();
    assert!(matches!(ClipTokenizer::new(&empty), Err(TokenizerError::Unreadable { .. })));
    let foreign = TokenizerFiles { special_tokens: Some(r#"{"eos_token": "</s>"}"#.to_owned()), ..from_one_file() };
    assert!(matches!(ClipTokenizer::new(&foreign), Err(TokenizerError::MissingToken { .. })));
}
