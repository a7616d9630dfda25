//! Other names under which checkpoints hold a parameter. The rest of the program knows one name for each.

/// The attention of a VAE, as diffusers names it since 0.12 and as it did before.
const VAE_ATTENTION: [(&str, &str); 4] =
    [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];

/// The prefix that a CLIP text encoder's parameters have, and that exports of transformers 5 leave out.
const TEXT_MODEL: &str = "text_model.";

/// What else `name` may be called in a file.
pub(super) fn other_spellings(name: &str) -> Vec<String> {
    let mut spellings = Vec::new();
    if let Some(rest) = name.strip_prefix(TEXT_MODEL) {
        spellings.push(rest.to_owned());
    }
    for (new, old) in VAE_ATTENTION {
        if name.contains("mid_block.attentions.") && name.contains(new) {
            spellings.push(name.replace(new, old));
        }
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_are_found() {
        assert_eq!(other_spellings("text_model.final_layer_norm.bias"), ["final_layer_norm.bias"]);
        let name = "decoder.mid_block.attentions.0.to_out.0.bias";
        assert_eq!(other_spellings(name), ["decoder.mid_block.attentions.0.proj_attn.bias"]);
        assert!(other_spellings("decoder.conv_in.weight").is_empty());
    }
}
