//! The layers of a ResNet block: two, and a 1×1 convolution as its shortcut where the channels differ.

use crate::families::account::Account;

/// Options of [`LayerOp::ResnetIn`](super::LayerOp::ResnetIn), which is named after `conv1`.
#[derive(Clone, Debug, PartialEq)]
pub struct ResnetInOp {
    /// Channels of the hidden state and the skip connection together.
    pub in_channels: u32,
    /// Channels written.
    pub out_channels: u32,
    /// Width of the time embedding.
    pub time_width: u32,
    /// Groups of the group norm.
    pub groups: u32,
    /// Epsilon of the group norm.
    pub epsilon: f64,
}

/// Options of [`LayerOp::ResnetOut`](super::LayerOp::ResnetOut), which is named after `conv2`.
#[derive(Clone, Debug, PartialEq)]
pub struct ResnetOutOp {
    /// Channels in and out.
    pub channels: u32,
    /// Groups of the group norm.
    pub groups: u32,
    /// Epsilon of the group norm.
    pub epsilon: f64,
}

impl ResnetInOp {
    pub(super) fn account(&self, account: &mut Account, pixels: u64) {
        account.norm("norm1", self.in_channels);
        account.conv("conv1", [self.in_channels, self.out_channels], 3, pixels);
        account.linear("time_emb_proj", [self.time_width, self.out_channels], true, 1);
    }
}

impl ResnetOutOp {
    pub(super) fn account(&self, account: &mut Account, pixels: u64) {
        account.norm("norm2", self.channels);
        account.conv("conv2", [self.channels; 2], 3, pixels);
    }
}
