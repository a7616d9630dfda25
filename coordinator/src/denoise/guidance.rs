//! Classifier-free guidance (arXiv 2207.12598).

/// Joins the two halves of a noise prediction: `unconditional + scale · (conditional − unconditional)`, in f32 as
/// diffusers does.
///
/// # Shapes
/// - `unconditional`, `conditional`, `guided`: flat views of `[images, channels, height, width]`, equally long
pub fn guide(unconditional: &[f32], conditional: &[f32], scale: f32, guided: &mut [f32]) {
    debug_assert!(unconditional.len() == guided.len() && conditional.len() == guided.len());
    for ((guided, unconditional), conditional) in guided.iter_mut().zip(unconditional).zip(conditional) {
        *guided = unconditional + scale * (conditional - unconditional);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_one_is_the_conditional_half_and_zero_the_unconditional() {
        let (unconditional, conditional) = ([1.0, -2.0, 0.5], [3.0, 4.0, 0.25]);
        let mut guided = [0.0; 3];
        guide(&unconditional, &conditional, 1.0, &mut guided);
        assert_eq!(guided, conditional);
        guide(&unconditional, &conditional, 0.0, &mut guided);
        assert_eq!(guided, unconditional);
    }

    #[test]
    fn a_scale_above_one_goes_beyond_the_conditional_half() {
        let mut guided = [0.0];
        guide(&[1.0], &[2.0], 7.5, &mut guided);
        assert_eq!(guided, [8.5]);
    }
}
