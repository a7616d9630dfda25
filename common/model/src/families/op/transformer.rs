//! The layers of diffusers' `Transformer2DModel`: a projection, three for each block, a projection back.
//!
//! A layer for each module of a block and not one for all, because a transformer may be a tenth of a network: what is to be divided evenly must
//! come in small parts. Each is a graph of some four operations whose result is needed in memory either way, so little is lost.

use crate::families::account::Account;

/// Options of [`LayerOp::ProjectIn`](super::LayerOp::ProjectIn) and [`LayerOp::ProjectOut`](super::LayerOp::ProjectOut), which are named after
/// `proj_in` and `proj_out`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionOp {
    /// Channels read.
    pub in_channels: u32,
    /// Channels written.
    pub out_channels: u32,
    /// Groups of the group norm before the projection in.
    pub groups: u32,
    /// A linear layer, not a 1×1 convolution: only the stored shape differs.
    pub linear: bool,
}

/// Options of an attention inside a transformer block, which is named after its module.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionOp {
    /// The attention's own module, such as `attn1`.
    pub module: &'static str,
    /// The module of the layer norm before it, such as `norm1`.
    pub norm: &'static str,
    /// Heads.
    pub heads: u32,
    /// Width of a head.
    pub head_width: u32,
}

/// Options of [`LayerOp::CrossAttentionContext`](super::LayerOp::CrossAttentionContext).
#[derive(Clone, Debug, PartialEq)]
pub struct ContextOp {
    /// Width of the keys, and of the values.
    pub width: u32,
    /// Width of the encoder hidden states.
    pub cross_width: u32,
}

/// Options of [`LayerOp::FeedForward`](super::LayerOp::FeedForward), which is named after `ff`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardOp {
    /// Channels in and out.
    pub width: u32,
}

impl ProjectionOp {
    /// Epsilon of the group norm, fixed in diffusers' `Transformer2DModel`.
    pub const EPSILON: f64 = 1e-6;

    pub(super) fn account_in(&self, account: &mut Account, pixels: u64) {
        account.norm("norm", self.in_channels);
        self.account_projection(account, "proj_in", pixels);
    }

    pub(super) fn account_out(&self, account: &mut Account, pixels: u64) {
        self.account_projection(account, "proj_out", pixels);
    }

    fn account_projection(&self, account: &mut Account, name: &str, pixels: u64) {
        let channels = [self.in_channels, self.out_channels];
        if self.linear {
            account.linear(name, channels, true, pixels);
        } else {
            account.conv(name, channels, 1, pixels);
        }
    }
}

impl AttentionOp {
    /// Epsilon of a block's layer norms, the default of PyTorch's `LayerNorm`.
    pub const EPSILON: f64 = 1e-5;

    /// Channels in and out: all heads side by side.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.heads * self.head_width
    }

    pub(super) fn account_self(&self, account: &mut Account, pixels: u64) {
        for name in ["to_k", "to_v"] {
            account.linear(&self.path(name), [self.width(); 2], false, pixels);
        }
        self.account_cross(account, [pixels; 2]);
    }

    /// Keys and values are the context's.
    pub(super) fn account_cross(&self, account: &mut Account, [queries, keys]: [u64; 2]) {
        account.norm(self.norm, self.width());
        account.linear(&self.path("to_q"), [self.width(); 2], false, queries);
        account.linear(&self.path("to_out.0"), [self.width(); 2], true, queries);
        account.attention(queries, keys, self.width());
    }

    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.module)
    }
}

impl ContextOp {
    /// What an attention's path is followed by in the name of the layer that makes its keys and values.
    pub const SUFFIX: &str = ".context";

    pub(super) fn account(&self, account: &mut Account, tokens: u64) {
        for name in ["to_k", "to_v"] {
            account.linear(name, [self.cross_width, self.width], false, tokens);
        }
    }
}

impl FeedForwardOp {
    /// Width inside over width outside, fixed in diffusers' `FeedForward`.
    pub const FACTOR: u32 = 4;

    /// Width between the two linear layers.
    #[must_use]
    pub fn inner_width(&self) -> u32 {
        Self::FACTOR * self.width
    }

    pub(super) fn account(&self, account: &mut Account, pixels: u64) {
        account.norm("norm3", self.width);
        // GEGLU: one half is the value, the other its gate.
        account.linear("ff.net.0.proj", [self.width, 2 * self.inner_width()], true, pixels);
        account.linear("ff.net.2", [self.inner_width(), self.width], true, pixels);
    }
}
